"""Settings: one object, four sources in order, and nothing unknown gets in."""

import json
from pathlib import Path

import pytest

from gpu_assets.errors import SettingsError
from gpu_assets.settings import PROJECT_ROOT, environment_for, load_settings, settings_problems


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.json"
    path.write_text((PROJECT_ROOT / "config.json").read_text())
    monkeypatch.setenv("GPU_ASSETS_CONFIG_FILE", str(path))
    return path


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_file_is_overruled_by_the_environment_and_that_by_the_command_line(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(config_file, hyperparams={"batch_size": 3, "seed": 3, "num_epochs": 3})
    monkeypatch.setenv("GPU_ASSETS_HYPERPARAMS__SEED", "4")
    monkeypatch.setenv("GPU_ASSETS_HYPERPARAMS__NUM_EPOCHS", "4")
    hyperparams = load_settings({"hyperparams.num_epochs": "5"}).hyperparams
    assert (hyperparams.batch_size, hyperparams.seed, hyperparams.num_epochs) == (3, 4, 5)


def test_overrides_reach_child_processes_as_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = {"hyperparams.learning_rate": "0.0005", "model_name": "other"}
    for name, value in environment_for(overrides).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == load_settings(overrides)


@pytest.mark.parametrize("shipped", ["config.json", "config.qwen3-0.6b.json"])
def test_the_shipped_configurations_are_valid(shipped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_ASSETS_CONFIG_FILE", str(PROJECT_ROOT / shipped))
    assert load_settings().hyperparams.max_length > 0


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"hyperparam": {}}, "hyperparam: unknown key"),
        ({"hyperparams": {"lr": 1}}, "hyperparams.lr: unknown key"),
        (
            {"hyperparams": {"lora.rank": 8}},
            'unknown key; the key "lora.rank" has a dot, which is no path in JSON: write {"lora": {"rank": 8}}',
        ),
        ({"hyperparams.seed": 1}, 'write {"hyperparams": {"seed": 1}}'),
        ({"hyperparams": {"batch_size": 0}}, r"hyperparams.batch_size: .*greater than or equal to 1 \(value 0\)"),
        ({"hyperparams": {"learning_rate": "fast"}}, r"learning_rate: .*\(value 'fast'\)"),
        ({"hyperparams": {"max_length": 4096}}, "max_length is 4096, over locked.max_context_length, 2048"),
        ({"hyperparams": {"max_length": 512, "max_batch_tokens": 256}}, "a row of full length would fit no batch"),
        (
            {"serving": {"cache_tokens": 1024}},
            "serving.cache_tokens is 1024, under serving.max_context_tokens, 2048: .* raise the former or lower",
        ),
        (
            {"hyperparams": {"lora": {"rank": 8}, "optimizer": {"type": "muon"}}},
            "hyperparams.lora.rank is 8, but hyperparams.optimizer.type is muon",
        ),
        (
            {"hyperparams": {"weights_precision": "bf16", "fp_precision": "fp32"}},
            "hyperparams.weights_precision is bf16, but hyperparams.fp_precision is fp32",
        ),
        (
            {"hyperparams": {"weights_precision": "bf16", "optimizer": {"type": "muon"}}},
            "weights_precision is bf16, but hyperparams.optimizer.type is muon, .* the optimizer to adamw_8bit",
        ),
        (
            {"hyperparams": {"weights_precision": "bf16", "optimizer": {"adamw": {"beta2": 0.999}}}},
            "adamw.beta2 is 0.999, but a second moment in bf16.* does not shrink by it: lower beta2 to 0.996",
        ),
        ({"distributed": {"sharding": "full"}}, "distributed.sharding is full, but distributed.processes is 1"),
        (
            {"distributed": {"sharding": "full", "processes": 2}, "hyperparams": {"optimizer": {"type": "muon"}}},
            "distributed.sharding is full, but hyperparams.optimizer.type is muon",
        ),
        (
            {"serving": {"max_context_tokens": 4096}},
            "serving.max_context_tokens is 4096, over locked.max_context_length, 2048",
        ),
        (
            {"evaluation": {"max_new_tokens": 2048}},
            "max_new_tokens is 2048, which leaves no room for a question in serving.max_context_tokens, 2048",
        ),
        ({"home": "/somewhere"}, "'home' is set in the environment, not in config.json"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_seen_and_wanted(
    config_file: Path, values: dict[str, object], sentence: str
) -> None:
    change(config_file, **values)
    with pytest.raises(SettingsError, match=sentence.replace("{", r"\{")):
        load_settings()


@pytest.mark.parametrize("name", ["qwen3_0.6b", "a", "-", "A.1-b_" + "c" * 94])
def test_a_models_name_is_a_plain_one(config_file: Path, name: str) -> None:
    change(config_file, model_name=name)
    assert load_settings().model_name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "../../x", "/tmp/x", "a/b", "a\\b", "a b", "a\n", "a\0", "é", "a" * 101, "a" * 300]
)
def test_a_models_name_never_leaves_its_folder(config_file: Path, name: str) -> None:
    change(config_file, model_name=name)
    assert [problem.split(":")[0] for problem in settings_problems(config_file)] == ["model_name"]
    with pytest.raises(SettingsError, match="config.json or the environment: model_name: String should match"):
        load_settings()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"hyperparams.batch_size": "0"}, "--set: hyperparams.batch_size: "),
        ({"hyperparams.lr": "1"}, "--set: hyperparams.lr: unknown key"),
        ({"model_name": "../x"}, "--set: model_name: "),
        ({"hyperparams": "1"}, "--set: hyperparams: "),
        ({"hyperparams": "1", "hyperparams.seed": "1"}, "--set gives 'hyperparams', and 'hyperparams.seed' within it"),
        ({"hyperparams.seed": "1", "hyperparams": "1"}, "--set gives 'hyperparams', and something within it"),
        ({"hyperparams.max_batch_tokens": "256"}, "{file}, the environment or --set: hyperparams.max_length is 512"),
        ({"serving.max_context_tokens": "4096"}, "{file}, the environment or --set: serving.max_context_tokens is"),
        ({}, "{file} or the environment: intake.settle_s: "),
    ],
)
def test_an_error_names_who_can_have_set_it(config_file: Path, overrides: dict[str, str], sentence: str) -> None:
    change(config_file, **({} if overrides else {"intake": {"settle_s": -1}}))
    with pytest.raises(SettingsError) as refused:
        load_settings(overrides)
    assert str(refused.value).startswith(sentence.format(file=config_file))


def test_errors_of_two_sources_are_told_apart(config_file: Path) -> None:
    change(config_file, intake={"settle_s": -1})
    with pytest.raises(SettingsError) as refused:
        load_settings({"hyperparams.seed": "-1"})
    assert sorted(part.split(": ")[:2] for part in str(refused.value).split("; ")) == [
        ["--set", "hyperparams.seed"],
        [f"{config_file} or the environment", "intake.settle_s"],
    ]


@pytest.mark.parametrize(("text", "sentence"), [("{", "is not JSON"), ("[]", "holds a list, not a JSON object")])
def test_a_file_that_is_not_a_json_object_is_refused_by_name(config_file: Path, text: str, sentence: str) -> None:
    config_file.write_text(text)
    with pytest.raises(SettingsError, match=sentence):
        load_settings()


def test_an_unknown_variable_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_ASSETS_HOEM", "/tmp")
    with pytest.raises(SettingsError, match="GPU_ASSETS_HOEM is not a setting; known variables: .*GPU_ASSETS_HOME"):
        load_settings()


@pytest.mark.parametrize("key", ["INFERENCE_READ_KEY", "INFERENCE_ADMIN_KEY"])
def test_a_key_under_the_prefix_of_settings_is_refused_with_its_own_name(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"GPU_ASSETS_{key}", "a-secret")
    with pytest.raises(SettingsError, match=f"GPU_ASSETS_{key} is not a setting; known .*, {key}") as refused:
        load_settings()
    assert "a-secret" not in str(refused.value)


def test_keys_come_from_the_environment_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_ADMIN_KEY", "a-secret")
    settings = load_settings()
    assert settings.inference_admin_key is not None
    assert settings.inference_admin_key.get_secret_value() == "a-secret"
    assert "a-secret" not in repr(settings)


@pytest.mark.parametrize(
    ("read", "admin", "sentence"),
    [
        ("", "a-secret", "INFERENCE_READ_KEY is empty: set a key, or unset it and one is made"),
        ("a-secret", " ", "INFERENCE_ADMIN_KEY is empty"),
        ("a-secret", "a-secret", "INFERENCE_READ_KEY and INFERENCE_ADMIN_KEY are equal"),
        ("a-secret ", "another", "INFERENCE_READ_KEY begins or ends with a space"),
        ("a-secret,", "another", "INFERENCE_READ_KEY has nothing before, after or between its commas"),
        ("a-secret", "another,,more", "INFERENCE_ADMIN_KEY has nothing before, after or between its commas"),
        ("a-secret, a-secret", "another", "INFERENCE_READ_KEY has a key twice"),
        ("one, a-secret", "another,a-secret", "INFERENCE_READ_KEY and INFERENCE_ADMIN_KEY .* have a key in common"),
        ("a-sec\tret", "another", "INFERENCE_READ_KEY has a character that no request can send"),
    ],
)
def test_keys_that_are_none_are_refused_and_never_shown(
    read: str, admin: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERENCE_READ_KEY", read)
    monkeypatch.setenv("INFERENCE_ADMIN_KEY", admin)
    with pytest.raises(SettingsError, match=f"^environment: {sentence}") as refused:
        load_settings({"hyperparams.seed": "1"})
    assert "a-secret" not in str(refused.value)


def test_the_home_is_absolute_whatever_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPU_ASSETS_HOME", "data")
    assert load_settings().home == tmp_path / "data"


def test_hyperparameters_are_changed_for_one_run_by_the_same_schema() -> None:
    settings = load_settings()
    changed = settings.with_hyperparams({"seed": 1, "optimizer": {"adamw": {"beta2": 0.95}}}).hyperparams
    assert (changed.seed, changed.optimizer.adamw.beta2) == (1, 0.95)
    assert changed.optimizer.adamw.weight_decay == settings.hyperparams.optimizer.adamw.weight_decay
    assert settings.with_hyperparams({}) == settings


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lr": 1}, "^hyperparams.lr: unknown key$"),
        ({"optimizer": {"type": "sgd"}}, r"hyperparams.optimizer.type: Input should be .* \(value 'sgd'\)"),
        (
            {"max_length": 4096, "max_batch_tokens": 4096},
            "hyperparams.max_length is 4096, over locked.max_context_length",
        ),
    ],
)
def test_wrong_hyperparameters_of_one_run_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        load_settings().with_hyperparams(changes)
