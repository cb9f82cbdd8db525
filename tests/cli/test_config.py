"""`gpu-assets config` as it is typed, and the page that is made from the schema."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gpu_assets.cli.config import config_app
from gpu_assets.cli.config_docs import markdown
from gpu_assets.cli.config_values import MASK, fields
from gpu_assets.settings import PROJECT_ROOT

Config = Callable[..., Result]


@pytest.fixture
def config() -> Config:
    return lambda *arguments: CliRunner().invoke(config_app, [str(argument) for argument in arguments])


def shown(result: Result) -> dict[str, dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return {value["key"]: value for value in json.loads(result.output)}


def test_every_value_says_who_set_it(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_ASSETS_HYPERPARAMS__SEED", "7")
    monkeypatch.setenv("GPU_ASSETS_EVALUATION", '{"level": 3}')
    found = shown(config("show", "--json", "--set", "hyperparams.num_epochs=2"))

    def who(key: str) -> tuple[Any, str]:
        return found[key]["value"], found[key]["source"]

    assert who("hyperparams.num_epochs") == (2, "--set")
    assert who("hyperparams.seed") == (7, "GPU_ASSETS_HYPERPARAMS__SEED")
    assert who("evaluation.level") == (3, "GPU_ASSETS_EVALUATION")
    assert who("hyperparams.batch_size") == (64, str(PROJECT_ROOT / "config.json"))
    assert who("hyperparams.optimizer.adamw.beta2") == (0.98, str(PROJECT_ROOT / "config.json"))
    assert who("hyperparams.optimizer.adamw.beta1") == (0.9, "default")
    assert who("evaluation.concurrency") == (64, "default")
    assert found["home"]["source"] == "GPU_ASSETS_HOME"


def test_every_field_of_the_schema_is_shown(config: Config) -> None:
    assert list(shown(config("show", "--json"))) == [field.key for field in fields()]


def test_keys_are_masked(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_READ_KEY", "a-secret")
    for output in (config("show").output, config("show", "--json").output):
        assert "a-secret" not in output and MASK in output
    read = shown(config("show", "--json"))["inference_read_key"]
    assert (read["value"], read["source"]) == (MASK, "INFERENCE_READ_KEY")


def test_a_table_names_every_setting(config: Config) -> None:
    assert "hyperparams.lora.rank" in config("show").output


def test_a_wrong_override_is_a_sentence_and_exit_code_2(config: Config) -> None:
    result = config("show", "--set", "hyperparams.lr=1")
    assert (result.exit_code, "hyperparams.lr: unknown key" in result.output) == (2, True)


def test_check_of_the_configuration_in_use_is_exit_code_0(config: Config) -> None:
    result = config("check")
    assert (result.exit_code, result.output) == (0, "every key is known and every value is within its bounds\n")


def test_check_says_all_that_is_wrong_a_sentence_each(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(
            {"hyperparams": {"lr": 1, "batch_size": 0}, "distributed": {"sharding": "full"}, "intake": {"settle_s": -1}}
        )
    )
    result = config("check", file)
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "hyperparams.batch_size: Input should be greater than or equal to 1 (value 0)",
        "hyperparams.lr: unknown key",
        "distributed.sharding is full, but distributed.processes is 1: there is nobody to share with; raise the latter "
        "or set sharding to none",
        "intake.settle_s: Input should be greater than or equal to 0 (value -1)",
    ]


def test_check_takes_overrides_over_the_file_that_it_checks(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"hyperparams": {"batch_size": 0}}')
    assert config("check", file).exit_code == 1
    assert config("check", file, "--set", "hyperparams.batch_size=8").exit_code == 0
    assert config("check", "--set", f"config_file={file}").exit_code == 1

    wrong = config("check", "--set", "hyperparams.lr=1", "--set", "distributed.sharding=full")
    assert wrong.exit_code == 1
    assert [problem.split(":")[0] for problem in wrong.output.splitlines()] == [
        "hyperparams.lr",
        "distributed.sharding is full, but distributed.processes is 1",
    ]
    unknown = config("check", "--set", "profile.name=none")
    assert (unknown.exit_code, "profile 'none' is not registered" in unknown.output) == (1, True)
    assert config("check", "--set", "no-value").exit_code == 2


def test_check_knows_which_profiles_are_registered(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"profile": {"name": "none"}}')
    result = config("check", file)
    assert result.exit_code == 1
    assert "profile 'none' is not registered; known profiles: [" in result.output


def test_check_of_a_file_that_is_not_there_names_it(config: Config, tmp_path: Path) -> None:
    result = config("check", tmp_path / "none.json")
    assert (result.exit_code, "none.json does not exist" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"hyperparams": {"max_grad_norm": 1e400}}', "hyperparams.max_grad_norm: Input should be a finite number"),
        ('{"storage": {"min_free_gb": NaN}}', "storage.min_free_gb: Input should be"),
        ('{"hyperparams": {"seed": 4294967296}}', "hyperparams.seed: Input should be less than 4294967296"),
        ('{"model_name": "a", "model_name": "b"}', "names 'model_name' twice in one object"),
    ],
)
def test_check_refuses_what_no_run_could_use(config: Config, tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    result = config("check", file)
    assert result.exit_code != 0
    assert sentence in result.output


def test_check_of_a_folder_is_a_sentence(config: Config, tmp_path: Path) -> None:
    result = config("check", tmp_path)
    assert result.exit_code != 0
    assert f"{tmp_path} cannot be read: Is a directory; wanted a JSON file" in result.output.replace("\n", " ")


def test_every_field_is_described() -> None:
    assert [field.key for field in fields() if not field.info.description] == []


def test_the_page_of_the_configuration_is_made_from_the_schema() -> None:
    page = PROJECT_ROOT / "docs" / "configuration.md"
    assert page.read_text() == markdown(), "run: python -m gpu_assets.cli.config_docs > docs/configuration.md"
