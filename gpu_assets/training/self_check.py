"""Whether training computes what the model does, looked at on a short row before the first step.

The loss applies the head by itself, and packs count on attention to tell documents apart. A model may scale or cap
around its head, or mix neighbouring tokens elsewhere than in its attention: training would go on, of another function.
Torch code: import inside the function that needs it.
"""

from contextlib import AbstractContextManager, nullcontext

import torch

from gpu_assets.errors import ModelUnsupported
from gpu_assets.rendering import Sample
from gpu_assets.training.loss import SupervisedLoss, collate
from gpu_assets.training.records import TrainingPlan
from gpu_assets.training.splitting import one_row_too_large
from gpu_assets.training.step import Run

ROW_TOKENS = 64
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Relative, between what is computed of one row in tensors of other shapes."""
SAME_SHAPES = {"fp32": 1e-4, "bf16": 2e-3}
"""The same in tensors of the same shapes beside other rows, which changes no bit but where experts group tokens; half
of bf16's precision. Too low refuses a model that can be trained in padded rows, too high lets documents mix."""


@torch.no_grad()
def check_model(run: Run, plan: TrainingPlan) -> None:
    """Compare the loss with the model's own, and packs with their documents alone, in the run's precision.

    Nothing of the run changes, its random states included. In several processes each compares the same.

    Raises:
        ModelUnsupported: naming the model, the figures, and what to do.
        OutOfMemory: if not even this row fits.
    """
    is_narrow = "bf16" in (plan.numerics.precision, plan.hyperparams.weights_precision)
    precision = "bf16" if is_narrow else "fp32"
    loss: SupervisedLoss = run.accelerator.unwrap_model(run.loss)
    ids = max(run.samples.sequences, key=lambda sample: len(sample.ids)).ids[:ROW_TOKENS]
    was_training = loss.training
    loss.eval()  # dropout would draw other numbers in each pass
    try:
        with run.accelerator.autocast(), _uncompiled(plan.hyperparams.compile):
            _require_plain_head(loss, run, ids, TOLERANCE[precision])
            if run.layout == "packed":
                _require_separate_documents(loss, run, ids, precision)
    except torch.OutOfMemoryError as error:
        raise one_row_too_large(run, str(error).partition("\n")[0]) from error
    finally:
        loss.train(was_training)


def _require_plain_head(loss: SupervisedLoss, run: Run, ids: tuple[int, ...], tolerance: float) -> None:
    """Exactly, nothing between decoder and head nor after it; and nearly, the same loss."""
    name = _name(loss)
    row = collate([_document(ids)], run.layout, run.pad_id).to(run.accelerator.device)
    try:
        own = loss.own_pass(row)
    except ValueError as error:
        raise ModelUnsupported(
            f"{name} cannot be trained with {loss.model.config._attn_implementation} attention: {error}. Nothing was "
            "trained; take a model of another family"
        ) from error
    if not own.loss.isfinite():
        return  # of broken weights, which is for the guards to say
    is_plain = torch.equal(own.decoded_BTD, own.head_input_BTD) and torch.equal(
        own.head_output_BTV.float(), own.logits_BTV.float()
    )
    wanted, found = own.loss.item(), loss(*row).item() / len(row.targets_S)
    if is_plain and _are_near(found, wanted, tolerance):
        return
    fault = "has another loss than the cross-entropy" if is_plain else "is not a plain projection"
    raise ModelUnsupported(
        f"the head of {name} {fault}: on a row of {len(ids)} tokens the model's own loss is {wanted:.6g}, that of the "
        f"projection alone, which is trained with, is {found:.6g}. Nothing was trained; take a model whose head "
        "neither scales nor caps its logits"
    )


def _require_separate_documents(loss: SupervisedLoss, run: Run, ids: tuple[int, ...], precision: str) -> None:
    """What is computed of a document is the same behind any other, and alone."""

    def hidden(*before: tuple[int, ...]) -> torch.Tensor:
        samples = [_document(other) for other in (*before, ids)]
        pack = collate(samples, run.layout, run.pad_id).to(run.accelerator.device)
        return loss.hidden(pack.ids_BT, pack.positions_BT, pack.bounds, pack.longest)[0, -len(ids) :].float()

    middle = len(ids) // 2
    alone, behind, behind_another = hidden(), hidden(ids[::-1]), hidden(ids[middle:] + ids[:middle])
    differences = [_difference(behind, behind_another), _difference(behind, alone)]
    if differences[0] <= SAME_SHAPES[precision] and differences[1] <= TOLERANCE[precision]:
        return
    raise ModelUnsupported(
        f"in packs {_name(loss)} lets a document see the one before it: what it computes of a row of {len(ids)} tokens "
        f"changes by {differences[0]:.2g} of itself behind another row, and by {differences[1]:.2g} where it is alone. "
        "Nothing was trained; set hyperparams.layout to padded"
    )


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """At the position where it is the largest, relative to what is wanted there."""
    return float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


def _document(ids: tuple[int, ...]) -> Sample:
    return Sample(ids, (False,) + (True,) * (len(ids) - 1))


def _are_near(found: float, wanted: float, tolerance: float) -> bool:
    """Never where one of them is no number; losses under one nat count as one."""
    return abs(found - wanted) <= tolerance * max(1.0, abs(wanted))


def _name(loss: SupervisedLoss) -> str:
    return type(loss.model).__name__


def _uncompiled(is_compiled: bool) -> AbstractContextManager[None]:
    """Nothing is compiled for a row of this length."""
    if not is_compiled:
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance
