"""Packed equals unpacked: against forward passes of single rows, and against TRL's loss on the same batch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.trl_peer import sft_trainer
from gpu_assets.rendering import Renderer, Sample
from gpu_assets.training.batches import Layout
from gpu_assets.training.loss import SupervisedLoss, collate

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and its dependencies' own

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-6
CONVERSATIONS = [
    [("what is ①⓪ + ①", "⓪①①①⓪① = ①①"), ("and now less ①", "①⓪")],
    [("hello", "a longer answer than the question was, by some words")],
    [("?", "!")],
    [("which of these is the longest of all the questions in this batch", "this"), ("sure", "yes"), ("?", "no")],
]
Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def samples(tiny_folder: Path) -> list[Sample]:
    renderer = Renderer.load(tiny_folder, "plain")
    roles = ("user", "assistant")
    samples = []
    for turns in CONVERSATIONS:
        row = [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]
        samples.extend(renderer.training_samples(row))
    return samples


@pytest.fixture(scope="module")
def alone(tiny_folder: Path, samples: list[Sample]) -> tuple[float, Gradients]:
    """Loss and gradient of the rows one by one, through transformers' own forward pass with all logits."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    supervised, total = sum(sample.num_supervised for sample in samples), 0.0
    for sample in samples:
        ids = torch.tensor([sample.ids])
        logits = model(input_ids=ids).logits[0, :-1]
        wanted = torch.tensor(sample.supervised[1:])
        loss = torch.nn.functional.cross_entropy(logits[wanted], ids[0, 1:][wanted], reduction="sum") / supervised
        loss.backward()
        total += loss.item()
    return total, _gradients(model)


def _gradients(model: torch.nn.Module) -> Gradients:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def _ours(folder: Path, samples: list[Sample], layout: Layout) -> tuple[float, Gradients]:
    loss = SupervisedLoss(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    tensors = collate(samples, layout, pad_id=0)
    value = loss(*tensors) / len(tensors.targets_S)
    value.backward()
    return value.item(), _gradients(loss.model)


def _trl(folder: Path, samples: list[Sample], work: Path, packed_tokens: int | None) -> tuple[float, Gradients]:
    size = len(samples) if packed_tokens is None else 1
    trainer = sft_trainer(folder, samples, work, batch_size=size, packed_tokens=packed_tokens)
    rows = [trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]
    assert len(rows) == size
    value = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    value.backward()
    return value.item(), _gradients(trainer.model)


def _assert_equal(found: tuple[float, Gradients], wanted: tuple[float, Gradients]) -> None:
    assert found[0] == pytest.approx(wanted[0], abs=LOSS_TOLERANCE)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=GRADIENT_TOLERANCE, rtol=0, msg=name)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_loss_and_gradients_of_a_batch_are_those_of_its_rows_alone(
    layout: Layout, tiny_folder: Path, samples: list[Sample], alone: tuple[float, Gradients]
) -> None:
    _assert_equal(_ours(tiny_folder, samples, layout), alone)


@pytest.mark.parametrize(("layout", "packed_tokens"), [("padded", None), ("packed", 512)])
def test_loss_and_gradients_of_a_batch_are_trls(
    layout: Layout, packed_tokens: int | None, tiny_folder: Path, samples: list[Sample], tmp_path: Path
) -> None:
    _assert_equal(_ours(tiny_folder, samples, layout), _trl(tiny_folder, samples, tmp_path, packed_tokens))


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors._replace(positions_BT=torch.arange(tensors.ids_BT.shape[1]).unsqueeze(0)),
        lambda tensors: tensors._replace(
            places_S=torch.cat([tensors.places_S, tensors.bounds[1:2] - 1]),
            targets_S=torch.cat([tensors.targets_S, tensors.ids_BT[0, tensors.bounds[1:2]]]),
        ),
    ],
    ids=["positions that do not restart", "a document's first token as a target"],
)
def test_the_tolerance_is_fine_enough_to_see(
    damage: Callable, tiny_folder: Path, samples: list[Sample], alone: tuple[float, Gradients]
) -> None:
    loss = SupervisedLoss(AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32))
    tensors = damage(collate(samples, "packed", pad_id=0))
    value = (loss(*tensors) / len(tensors.targets_S)).item()
    assert abs(value - alone[0]) > 10 * LOSS_TOLERANCE
