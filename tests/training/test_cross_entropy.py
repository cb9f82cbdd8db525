"""The chunked loss: the same loss and gradients, and no tensor of all logits."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from gpu_assets.training.cross_entropy import summed_cross_entropy

POSITIONS, VOCABULARY, WIDTH = 100, 300, 16


class LargestTensor(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for value in made if isinstance(made, tuple | list) else (made,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return made


@pytest.fixture
def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, VOCABULARY, bias=False)


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(POSITIONS, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (POSITIONS,), generator=torch.Generator().manual_seed(2))


def run(head: nn.Linear, hidden: torch.Tensor, targets: torch.Tensor, max_logits: int) -> tuple[torch.Tensor, ...]:
    head.zero_grad()
    hidden.grad = None
    loss = summed_cross_entropy(hidden, head, targets, max_logits)
    (loss / len(targets)).backward()
    assert hidden.grad is not None
    weight = head.weight.grad if head.weight.grad is not None else torch.zeros(0)
    return loss.detach(), hidden.grad.clone(), weight.clone()


@pytest.mark.parametrize("rows", [1, 7, 50, 99])
def test_chunks_give_the_loss_and_gradients_of_one_piece(rows: int, head, hidden, targets) -> None:
    whole = run(head, hidden, targets, POSITIONS * VOCABULARY)
    chunked = run(head, hidden, targets, rows * VOCABULARY)
    torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=1e-5)


def test_one_piece_is_torchs_cross_entropy(head, hidden, targets) -> None:
    expected = functional.cross_entropy(head(hidden), targets, reduction="sum")
    assert summed_cross_entropy(hidden, head, targets).item() == pytest.approx(expected.item(), rel=1e-6)


def test_no_tensor_holds_more_logits_than_a_chunk(head, hidden, targets) -> None:
    limit = 20 * VOCABULARY
    with LargestTensor() as largest:
        run(head, hidden, targets, limit)
    assert largest.elements <= limit < POSITIONS * VOCABULARY
    with LargestTensor() as largest:
        run(head, hidden, targets, POSITIONS * VOCABULARY)
    assert largest.elements == POSITIONS * VOCABULARY


def test_a_frozen_head_gets_no_gradient(head, hidden, targets) -> None:
    head.weight.requires_grad_(False)
    run(head, hidden, targets, 7 * VOCABULARY)
    assert head.weight.grad is None


def test_a_head_with_a_bias_is_taken_in_chunks_too(hidden, targets) -> None:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY)
    results = []
    for limit in (POSITIONS * VOCABULARY, 20 * VOCABULARY):
        with LargestTensor() as largest:
            results.append((*run(head, hidden, targets, limit), head.bias.grad.clone()))
        assert largest.elements <= limit
    torch.testing.assert_close(results[1], results[0], atol=1e-6, rtol=1e-5)


def test_the_gradient_of_a_head_in_half_precision_is_rounded_once(head, hidden, targets) -> None:
    """Not with each of a hundred chunks, by which most of what they add would be lost."""
    narrow = hidden.detach().bfloat16().requires_grad_()
    head = head.bfloat16()
    wanted = run(head.float(), narrow.float().detach().requires_grad_(), targets, POSITIONS * VOCABULARY)[2]
    found = run(head.bfloat16(), narrow, targets, VOCABULARY)[2]
    assert found.dtype == torch.bfloat16
    error = (found.float() - wanted).norm() / wanted.norm()
    assert error < 5e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_in_half_precision_are_near_the_loss_in_full(dtype: torch.dtype, head, hidden, targets) -> None:
    whole = run(head, hidden, targets, POSITIONS * VOCABULARY)
    narrow = hidden.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        chunked = run(head.to(dtype), narrow, targets, 7 * VOCABULARY)
    assert chunked[0].dtype == torch.float32
    assert chunked[0].item() == pytest.approx(whole[0].item(), rel=1e-2)
    torch.testing.assert_close(chunked[1].float(), whole[1], atol=2e-3, rtol=5e-2)
    torch.testing.assert_close(chunked[2].float(), whole[2], atol=2e-3, rtol=5e-2)
