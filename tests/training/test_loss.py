"""The loss: supervised positions only, packed equal to separate, documents never see each other."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gpu_assets.rendering import Renderer, Sample
from gpu_assets.training.loss import SupervisedLoss, collate

TEXTS = [("what is ①⓪ + ①", "⓪①①①⓪① = ①①"), ("hello", "a longer answer than the question was"), ("?", "!")]


@pytest.fixture(scope="module")
def loss(tiny_folder: Path) -> SupervisedLoss:
    return SupervisedLoss(AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).train())


@pytest.fixture(scope="module")
def samples(tiny_folder: Path) -> list[Sample]:
    renderer = Renderer.load(tiny_folder, "plain")
    return [
        renderer.training_samples([{"role": "user", "content": q}, {"role": "assistant", "content": a}])[0]
        for q, a in TEXTS
    ]


def gradients(loss: SupervisedLoss, total: torch.Tensor) -> torch.Tensor:
    loss.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    return torch.cat([parameter.grad.flatten() for parameter in loss.parameters() if parameter.grad is not None])


def value(loss: SupervisedLoss, samples: list[Sample], layout: str) -> torch.Tensor:
    tensors = collate(samples, layout, pad_id=0)  # type: ignore[arg-type]
    result: torch.Tensor = loss(*tensors)
    return result


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_batch_equals_its_rows_alone_in_loss_and_gradient(
    loss: SupervisedLoss, samples: list[Sample], layout: str
) -> None:
    alone = sum((value(loss, [sample], "padded") for sample in samples), torch.tensor(0.0))
    alone_gradient = gradients(loss, alone)
    together = value(loss, samples, layout)
    assert together.item() == pytest.approx(alone.item(), abs=1e-4)
    torch.testing.assert_close(gradients(loss, together), alone_gradient, atol=1e-5, rtol=1e-4)


def test_the_loss_is_transformers_own_on_masked_labels(loss: SupervisedLoss, samples: list[Sample]) -> None:
    sample = samples[0]
    ids = torch.tensor([sample.ids])
    labels = torch.where(torch.tensor([sample.supervised]), ids, -100)
    expected = loss.model(input_ids=ids, labels=labels).loss * sample.num_supervised
    assert value(loss, [sample], "padded").item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_packed_document_does_not_learn_to_follow_the_one_before(samples: list[Sample]) -> None:
    all_supervised = [Sample(sample.ids, (True,) * len(sample.ids)) for sample in samples]
    tensors = collate(all_supervised, "packed", pad_id=0)
    ends = torch.cumsum(torch.tensor([len(sample.ids) for sample in samples]), 0) - 1
    assert len(tensors.places_S) == sum(len(sample.ids) - 1 for sample in samples)
    assert not torch.isin(ends, tensors.places_S).any()


def test_changing_one_document_of_a_pack_leaves_the_others_loss_alone(
    loss: SupervisedLoss, samples: list[Sample]
) -> None:
    first, second, _ = samples
    silent = Sample(first.ids, (False,) * len(first.ids))
    other = Sample(tuple(reversed(first.ids)), (False,) * len(first.ids))
    assert value(loss, [silent, second], "packed").item() == value(loss, [other, second], "packed").item()
