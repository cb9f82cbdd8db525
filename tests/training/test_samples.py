"""Samples: every accepted row once, cut at the length that the gate counted with."""

from pathlib import Path

import polars as pl
import pytest

from gpu_assets.errors import DatasetInvalid
from gpu_assets.rendering import Renderer
from gpu_assets.training.records import TrainingDataset
from gpu_assets.training.samples import load_samples
from tests.training.conftest import write_rows


@pytest.fixture(scope="module")
def renderer(tiny_folder: Path) -> Renderer:
    return Renderer.load(tiny_folder, "plain")


def write(path: Path, key: str, frame: pl.DataFrame) -> TrainingDataset:
    frame.write_parquet(path)
    return TrainingDataset(key, path, f"sha-of-{key}", frame.height)


def chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": turn} for index, turn in enumerate(turns)]


def test_every_row_is_a_sequence_in_the_order_of_the_plan(renderer: Renderer, tmp_path: Path) -> None:
    first, second = write_rows(tmp_path / "a.parquet", 7, seed=1), write_rows(tmp_path / "b.parquet", 5, seed=2)
    samples = load_samples([second, first], renderer, max_length=512)
    assert samples.num_rows == len(samples.sequences) == 12
    assert samples.row_of == tuple(range(12))
    assert samples.sequences[:5] == load_samples([second], renderer, 512).sequences


def test_a_sequence_is_what_the_renderer_makes_of_the_row(renderer: Renderer, tmp_path: Path) -> None:
    conversation = chat("add ① and ①", "①⓪", "and again", "①①")
    dataset = write(tmp_path / "a.parquet", "a", pl.DataFrame({"messages": [conversation]}))
    samples = load_samples([dataset], renderer, 512)
    assert list(samples.sequences) == renderer.training_samples(conversation)
    assert samples.tokens.total == sum(samples.lengths)
    assert 0 < samples.tokens.supervised < samples.tokens.total


def test_a_row_is_cut_at_max_length_from_its_end(renderer: Renderer, tmp_path: Path) -> None:
    dataset = write(tmp_path / "a.parquet", "a", pl.DataFrame({"messages": [chat("?", "long " * 40)]}))
    (whole,) = load_samples([dataset], renderer, 512).sequences
    (cut,) = load_samples([dataset], renderer, 32).sequences
    assert len(whole.ids) > 32
    assert (cut.ids, cut.supervised) == (whole.ids[:32], whole.supervised[:32])
    assert load_samples([dataset], renderer, len(whole.ids)).sequences == (whole,)


def test_a_row_whose_answer_is_cut_off_wholly_is_refused_by_its_place(renderer: Renderer, tmp_path: Path) -> None:
    rows = [chat("?", "!"), chat("a question that is long " * 8, "!")]
    dataset = write(tmp_path / "a.parquet", "long-ones", pl.DataFrame({"messages": rows}))
    with pytest.raises(DatasetInvalid, match="long-ones, accepted row 2: nothing supervised .* max_length=32"):
        load_samples([dataset], renderer, 32)


@pytest.mark.parametrize("claimed", [2, 4])
def test_another_number_of_rows_than_the_manifests_is_refused(claimed: int, renderer: Renderer, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "a.parquet", 3)
    wrong = TrainingDataset("a", rows.rows_path, rows.rows_sha256, claimed)
    with pytest.raises(DatasetInvalid, match=f"holds 3 rows, its manifest says {claimed}; validate it again"):
        load_samples([wrong], renderer, 512)


def test_completion_rows_supervise_every_token_but_the_first(renderer: Renderer, tmp_path: Path) -> None:
    texts = ["the quick brown fox", "①⓪"]
    dataset = write(tmp_path / "a.parquet", "texts", pl.DataFrame({"text": texts}))
    samples = load_samples([dataset], renderer, 512)
    assert [renderer.tokenizer.decode(list(s.ids), skip_special_tokens=True) for s in samples.sequences] == texts
    for sample in samples.sequences:
        assert sample.supervised == (False,) + (True,) * (len(sample.ids) - 1)
        assert sample.ids[-1] == renderer.end_token_id


def test_chat_and_completion_datasets_share_a_plan(renderer: Renderer, tmp_path: Path) -> None:
    texts = write(tmp_path / "a.parquet", "texts", pl.DataFrame({"text": ["one", "two"]}))
    samples = load_samples([texts, write_rows(tmp_path / "b.parquet", 3)], renderer, 512)
    assert samples.row_of == (0, 1, 2, 3, 4)
