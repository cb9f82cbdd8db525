"""Masks: what a batch would train on is the answers of its rows, or training does not begin."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from gpu_assets.errors import MaskInvalid
from gpu_assets.rendering import Renderer, Sample
from gpu_assets.training import loop, masks
from gpu_assets.training.batches import Layout
from gpu_assets.training.loop import first_epoch, plan_steps, train
from gpu_assets.training.loss import Tensors, collate
from gpu_assets.training.masks import MaskCheck, check_masks
from gpu_assets.training.records import TrainingDataset
from gpu_assets.training.samples import Samples, load_samples
from tests.training.conftest import PlanFactory, write_rows
from tests.training.test_loop import quiet

LAYOUTS: tuple[Layout, ...] = ("padded", "packed")
BATCHES = [(0, 2), (1, 3)]


@pytest.fixture(scope="module")
def renderer(tiny_folder: Path) -> Renderer:
    """With a template that renders past turns as they were prompted for, so that a sequence has several answers."""
    loaded = Renderer.load(tiny_folder, "plain")
    return replace(loaded, template=loaded.template.replace("enable_thinking is false", "false"))


@pytest.fixture
def samples(renderer: Renderer, tmp_path: Path) -> Samples:
    """Four rows of two turns each."""
    rows = [[("what is ①⓪ + ①", "①①"), (f"and {number} now?", f"it is {number}\n")] for number in range(4)]
    conversations = [
        [
            {"role": role, "content": text}
            for turn in row
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        for row in rows
    ]
    pl.DataFrame({"messages": conversations}).write_parquet(tmp_path / "rows.parquet")
    return load_samples([TrainingDataset("rows", tmp_path / "rows.parquet", "sha", 4)], renderer, 512)


def with_sequence(samples: Samples, index: int, changed: Sample) -> Samples:
    return replace(samples, sequences=(*samples.sequences[:index], changed, *samples.sequences[index + 1 :]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_the_renderer_made_passes_and_is_counted(layout: Layout, samples: Samples, renderer: Renderer) -> None:
    found = check_masks(BATCHES, samples, renderer, layout)
    assert (found.documents, found.regions, found.tokens) == (4, 8, samples.tokens.total)
    assert found.supervised_share == pytest.approx(samples.tokens.supervised / samples.tokens.total, abs=1e-4)
    assert 0 < found.lowest_share <= found.supervised_share <= found.highest_share < 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("max_length", [38, 40, 44])
def test_rows_that_lost_their_end_pass(layout: Layout, max_length: int, renderer: Renderer, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "a.parquet", 40)
    cut = load_samples([rows], renderer, max_length)
    assert any(cut.is_cut)
    assert check_masks([(index,) for index in range(40)], cut, renderer, layout).documents == 40


def test_plain_texts_supervise_all_but_their_first_token(renderer: Renderer, tmp_path: Path) -> None:
    pl.DataFrame({"text": ["the quick brown fox", "①⓪"]}).write_parquet(tmp_path / "texts.parquet")
    texts = load_samples([TrainingDataset("texts", tmp_path / "texts.parquet", "sha", 2)], renderer, 512)
    assert check_masks([(0, 1)], texts, renderer, "packed").regions == 2
    less = Sample(texts.sequences[0].ids, (False, False) + texts.sequences[0].supervised[2:])
    with pytest.raises(MaskInvalid, match="row 1 of this training.*every token but the first"):
        check_masks([(0, 1)], with_sequence(texts, 0, less), renderer, "packed")


def _everything(sample: Sample) -> Sample:
    return Sample(sample.ids, (False,) + (True,) * (len(sample.ids) - 1))


def _nothing(sample: Sample) -> Sample:
    return Sample(sample.ids, (False,) * len(sample.ids))


def _first_turn_only(sample: Sample) -> Sample:
    """As the predecessor did: of a row only its first answer."""
    end = sample.supervised.index(True)
    while sample.supervised[end]:
        end += 1
    return Sample(sample.ids, sample.supervised[:end] + (False,) * (len(sample.ids) - end))


def _prompts_too(sample: Sample) -> Sample:
    """The token before each answer is supervised as well."""
    following = (*sample.supervised[1:], False)
    return Sample(sample.ids, tuple(here or after for here, after in zip(sample.supervised, following, strict=True)))


def _without_end(sample: Sample) -> Sample:
    """Answers without their end token, so that the model never learns to stop."""
    following = (*sample.supervised[1:], False)
    return Sample(sample.ids, tuple(here and after for here, after in zip(sample.supervised, following, strict=True)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (_everything, "the control token"),
        (_nothing, "nothing of it is supervised"),
        (_first_turn_only, "it has 1 supervised regions and 2 assistant turns"),
        (_prompts_too, "is not the answer"),
        (_without_end, "is not the answer"),
    ],
)
def test_a_wrong_mask_is_refused_by_its_row(
    damage: Callable[[Sample], Sample], fault: str, layout: Layout, samples: Samples, renderer: Renderer
) -> None:
    damaged = with_sequence(samples, 3, damage(samples.sequences[3]))
    with pytest.raises(MaskInvalid, match=f"row 4 of this training.*{fault}.*Nothing was trained"):
        check_masks(BATCHES, damaged, renderer, layout)


def _shifted(tensors: Tensors) -> Tensors:
    return tensors._replace(places_S=tensors.places_S + 1)


def _first_token_of_the_second_document(tensors: Tensors) -> Tensors:
    assert tensors.bounds is not None
    second = int(tensors.bounds[1])
    order = torch.argsort(torch.cat([tensors.places_S, torch.tensor([second - 1])]))
    return tensors._replace(
        places_S=torch.cat([tensors.places_S, torch.tensor([second - 1])])[order],
        targets_S=torch.cat([tensors.targets_S, tensors.ids_BT[0, second : second + 1]])[order],
    )


def _one_document(tensors: Tensors) -> Tensors:
    return tensors._replace(positions_BT=torch.arange(tensors.ids_BT.shape[1]).unsqueeze(0))


def _other_bounds(tensors: Tensors) -> Tensors:
    assert tensors.bounds is not None
    return tensors._replace(bounds=tensors.bounds[[0, -1]])


def _other_ids(tensors: Tensors) -> Tensors:
    return tensors._replace(ids_BT=tensors.ids_BT.roll(1, dims=1))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (_shifted, "a target"),
        (_first_token_of_the_second_document, "its first token, or one of another document, is a target"),
        (_one_document, "the positions of a pack do not restart"),
        (_other_bounds, "has its bounds at"),
        (_other_ids, "are not those of the row"),
    ],
)
def test_a_pack_that_is_laid_out_wrong_is_refused(
    damage: Callable[[Tensors], Tensors],
    fault: str,
    samples: Samples,
    renderer: Renderer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(masks, "collate", lambda *args: damage(collate(*args)))
    with pytest.raises(MaskInvalid, match=fault):
        check_masks(BATCHES, samples, renderer, "packed")


def test_the_first_epoch_holds_every_sequence_once(make_plan: PlanFactory) -> None:
    steps = plan_steps([10] * 50, make_plan(num_epochs=3, gradient_accumulation=2).hyperparams, "padded")
    assert sorted(index for batch in first_epoch(steps, 50) for index in batch) == list(range(50))


def test_training_does_not_begin_with_a_wrong_mask(
    make_plan: PlanFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_damaged(*args: object) -> Samples:
        samples = load_samples(*args)  # type: ignore[arg-type]
        return with_sequence(samples, 7, _prompts_too(samples.sequences[7]))

    monkeypatch.setattr(loop, "load_samples", load_damaged)
    with pytest.raises(MaskInvalid, match="row 8 of this training"):
        train(make_plan(), tmp_path, None, quiet)
    assert not (tmp_path / "model").exists()


def test_the_outcome_says_what_was_looked_at(make_plan: PlanFactory, tmp_path: Path) -> None:
    found = MaskCheck(**train(make_plan(rows=16), tmp_path, None, quiet).masks)
    assert (found.documents, found.regions) == (16, 16)
