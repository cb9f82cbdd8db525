"""`gpu-assets plan` as it is typed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from gpu_assets.cli.plan import plan as plan_command

Plan = Callable[..., Result]
FULL_FINE_TUNE = (
    *("--set", "hyperparams.max_batch_tokens=512"),
    *("--set", "hyperparams.weights_precision=bf16"),
    *("--set", "hyperparams.use_gradient_checkpointing=true"),
)


@pytest.fixture
def plan() -> Plan:
    app = typer.Typer()
    app.command()(plan_command)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_what_fits_is_a_table_and_exit_code_0(plan: Plan) -> None:
    paged = ("--set", "hyperparams.optimizer.type=paged_adamw_8bit")
    result = plan("--model", "qwen3-4b", "--gpu-gb", 24, *FULL_FINE_TUNE, *paged)
    assert result.exit_code == 0, result.output
    assert "gradients" in result.output and "peak, of 24.00 GB of the GPU" in result.output
    assert "in the host's memory: 8.29 GB of optimizer states" in result.output


def test_what_does_not_fit_names_the_setting_and_is_exit_code_1(plan: Plan) -> None:
    result = plan("--model", "qwen3-4b", "--gpu-gb", 24, *FULL_FINE_TUNE)
    assert result.exit_code == 1
    assert "Set hyperparams.optimizer.type to paged_adamw_8bit (peak then 18.28 GB)" in " ".join(result.output.split())


def test_programs_get_the_same_as_json(plan: Plan) -> None:
    result = plan("--model", "qwen3-4b", "--gpu-gb", 24, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert found["total_bytes"] == sum(part["bytes"] for part in found["parts"]) > found["budget_bytes"] == 24 * 10**9
    assert found["refusal"].startswith("training needs about ")


def test_without_a_model_and_a_gpu_it_is_the_configured_one_on_this_host(plan: Plan) -> None:
    result = plan()
    assert result.exit_code == 0, result.output
    assert "GB of this host" in result.output


def test_a_model_folder_is_read(plan: Plan, tiny_folder: Path) -> None:
    assert plan("--model", tiny_folder, "--gpu-gb", 24).exit_code == 0


def test_a_folder_that_is_not_there_is_named(plan: Plan, tmp_path: Path) -> None:
    result = plan("--model", tmp_path / "none", "--gpu-gb", 24)
    assert result.exit_code == 2
    assert "none is no model folder; name one, or one of tiny, qwen3-0.6b, qwen3-4b" in " ".join(result.output.split())


def test_planning_loads_no_torch() -> None:
    code = "import sys, gpu_assets.cli.plan, gpu_assets.cli.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
