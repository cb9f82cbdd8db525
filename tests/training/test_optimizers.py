"""Optimizers: what each trains and how fast, exactly once with every one that a CPU runs, and states that fit."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from gpu_assets.errors import SettingsError
from gpu_assets.settings import Hyperparams, Lora, Muon, Optimizer
from gpu_assets.training.loop import train
from gpu_assets.training.loss import SupervisedLoss
from gpu_assets.training.model import load_model
from gpu_assets.training.optimizers import RATE_RATIO, build_optimizer, set_rate
from resources.artifacts import weights_sha256
from tests.training.conftest import PlanFactory
from tests.training.test_loop import quiet, stop_after

MUON = Optimizer(type="muon", muon=Muon(learning_rate=0.01))
CHOICES = {
    "adamw": {},
    "muon": {"optimizer": MUON},
    "lora": {"lora": Lora(rank=4)},
    "lora with muon": {"lora": Lora(rank=4), "optimizer": MUON},
    "gradient checkpointing": {"use_gradient_checkpointing": True},
    "lora with gradient checkpointing": {"lora": Lora(rank=4), "use_gradient_checkpointing": True},
}


def hyperparams(**changes: object) -> Hyperparams:
    return Hyperparams().model_copy(update=changes)


def model_and_optimizer(folder: Path, chosen: Hyperparams) -> tuple[SupervisedLoss, torch.optim.Optimizer]:
    loss = SupervisedLoss(load_model(folder, chosen))
    return loss, build_optimizer(loss, chosen)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_run_that_was_stopped_ends_in_the_weights_of_an_undisturbed_run(
    choice: str, make_plan: PlanFactory, tmp_path: Path
) -> None:
    plan = make_plan(rows=80, save_steps=2, **CHOICES[choice])
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    expected = train(plan, undisturbed, None, quiet)
    stop_after(plan, disturbed, steps=5)
    outcome = train(plan, disturbed, None, quiet)
    assert outcome.resumed_from_step == 4
    assert weights_sha256(outcome.model_folder) == weights_sha256(expected.model_folder)
    assert outcome.loss_curve[-1][1] < outcome.loss_curve[0][1]


def test_muon_trains_matrices_between_embedding_and_head_and_adamw_all_else(tiny_folder: Path) -> None:
    loss, optimizer = model_and_optimizer(tiny_folder, hyperparams(optimizer=MUON))
    name_of = {id(weight): name for name, weight in loss.named_parameters()}
    matrices, rest = ({name_of[id(weight)] for weight in group["params"]} for group in optimizer.param_groups)
    assert matrices | rest == set(name_of.values())
    assert not matrices & rest
    assert all("proj" in name for name in matrices)
    assert "model.model.embed_tokens.weight" in rest
    assert sum("norm" in name for name in rest) == len(rest) - 1


def test_the_rates_of_muon_and_adamw_keep_their_ratio_at_every_step(make_plan: PlanFactory, tmp_path: Path) -> None:
    outcome = train(make_plan(optimizer=MUON), tmp_path, None, quiet)
    matrices, rest = torch.load(outcome.optimizer_folder / "optimizer.bin", weights_only=True)["param_groups"]
    assert matrices[RATE_RATIO] == 0.01 / 0.002
    assert matrices["lr"] == pytest.approx(rest["lr"] * matrices[RATE_RATIO])
    assert rest["lr"] == outcome.learning_rate_curve[-1][1]


def test_a_state_of_both_optimizers_loads_into_new_ones(tiny_folder: Path) -> None:
    state: dict = {}
    for _ in range(2):
        loss, optimizer = model_and_optimizer(tiny_folder, hyperparams(optimizer=MUON))
        if state:
            optimizer.load_state_dict(state)
        for weight in loss.parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        state = optimizer.state_dict()
    adamws = [entry["step"].item() for entry in optimizer.state.values() if "step" in entry]
    assert set(adamws) == {2.0}
    assert len(adamws) + sum("momentum_buffer" in entry for entry in optimizer.state.values()) == len(optimizer.state)


def test_a_later_run_goes_on_with_the_state_of_both_optimizers(make_plan: PlanFactory, tmp_path: Path) -> None:
    hashes, said = set(), []
    for name in ("first", "fresh", "continued"):
        (tmp_path / name).mkdir()
    first = train(make_plan(optimizer=MUON), tmp_path / "first", None, quiet)
    plan = make_plan(seed=1, optimizer=MUON)
    for name, state in (("fresh", None), ("continued", first.optimizer_folder)):
        hashes.add(weights_sha256(train(plan, tmp_path / name, state, said.append).model_folder))
    assert len(hashes) == 2
    assert said == []


def test_adapters_are_merged_into_weights_of_the_models_own_names(
    make_plan: PlanFactory, tiny_folder: Path, tmp_path: Path
) -> None:
    plan = make_plan(lora=Lora(rank=4))
    outcome = train(plan, tmp_path, None, quiet)
    before = load_file(plan.parent.folder / "model.safetensors")
    after = load_file(outcome.model_folder / "model.safetensors")
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {name for name in after if "_proj" in name}
    assert all(torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 4 for name in changed)
    loaded = AutoModelForCausalLM.from_pretrained(outcome.model_folder)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(loaded.state_dict()[name], after[name])


def test_the_merged_model_answers_as_the_adapted_one(tiny_folder: Path, tmp_path: Path) -> None:
    from gpu_assets.training.model import save_model

    torch.manual_seed(0)
    model = load_model(tiny_folder, hyperparams(lora=Lora(rank=4)))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        adapted = model(ids).logits
        save_model(model, tmp_path)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(tiny_folder)(ids).logits
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
    assert (merged - plain).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torchao's and the compiler's own
def test_half_precision_weights_are_rounded_stochastically_and_the_same_after_a_stop(
    make_plan: PlanFactory, tmp_path: Path
) -> None:
    pytest.importorskip("torchao")
    plan = make_plan(rows=80, save_steps=2, weights_precision="bf16")
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    expected = train(plan, undisturbed, None, quiet)
    stop_after(plan, disturbed, steps=5)
    outcome = train(plan, disturbed, None, quiet)
    assert weights_sha256(outcome.model_folder) == weights_sha256(expected.model_folder)
    assert outcome.loss_curve[-1][1] < outcome.loss_curve[0][1] - 1


def test_a_rate_that_a_library_keeps_in_a_tensor_is_set_in_place() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor(0.5))
    kept = optimizer.param_groups[0]["lr"]
    set_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is kept
    assert kept.item() == 0.25


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_an_optimizer_for_cuda_is_refused_on_a_cpu_by_name(name: str, tiny_folder: Path) -> None:
    with pytest.raises(SettingsError, match=f"optimizer.type is {name}, which needs a CUDA device.*adamw or muon"):
        model_and_optimizer(tiny_folder, hyperparams(optimizer=Optimizer(type=name)))


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(SettingsError, match="weights_precision bf16 needs torchao.* install the extra `gpu`"):
        model_and_optimizer(tiny_folder, hyperparams(weights_precision="bf16"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_a_quantized_or_paged_optimizer_lowers_the_loss_on_a_gpu(
    name: str, make_plan: PlanFactory, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    outcome = train(make_plan(optimizer=Optimizer(type=name)), tmp_path, None, quiet)
    assert outcome.loss_curve[-1][1] < outcome.loss_curve[0][1] - 1
