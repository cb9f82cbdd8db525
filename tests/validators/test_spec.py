import pytest

from gpu_assets.errors import DatasetInvalid
from validators import DATASET_SPECS, SpecValidator

JOB = {"dataset_path": "a.jsonl", "base_model": "tiny"}


def choose(schema_id, *columns):
    return SpecValidator(DATASET_SPECS).choose(schema_id, frozenset(columns))


@pytest.mark.parametrize(
    ("schema_id", "columns", "chosen"),
    [
        (None, ("messages",), "chat_sft_v1"),
        (None, ("messages", "metadata", "category"), "chat_sft_v1"),
        (None, ("text",), "completion_v1"),
        ("syllo_v1", ("messages", "category"), "syllo_v1"),
        ("chat_sft_v1", ("messages", "text"), "chat_sft_v1"),
        ("completion_v1", ("messages", "text"), "completion_v1"),
    ],
)
def test_the_schema_is_the_named_one_or_follows_from_the_columns(schema_id, columns, chosen):
    choice = choose(schema_id, *columns)

    assert (choice.spec.id, choice.named) == (chosen, schema_id is not None)


@pytest.mark.parametrize(
    ("schema_id", "columns", "sentence"),
    [
        (None, ("messages", "text"), "both messages and text"),
        (None, ("prompt", "answer"), r"neither messages nor text \(columns: answer, prompt\)"),
        (None, (), r"columns: nothing"),
        ("chat_sft_v2", ("messages",), r"'chat_sft_v2' is not registered"),
        ("chat_sft_v1", ("text",), "chat_sft_v1 requires column messages; the rows have text"),
        ("completion_v1", ("messages",), "completion_v1 requires column text"),
        ("", ("messages",), "'' is not registered"),
    ],
)
def test_everything_else_is_refused_with_what_is_known(schema_id, columns, sentence):
    known = r"known schemas: chat_sft_v1 \(messages\), syllo_v1 \(messages\), completion_v1 \(text\)"
    with pytest.raises(DatasetInvalid, match=sentence) as refusal:
        choose(schema_id, *columns)
    assert refusal.match(known)


def test_columns_that_the_schema_does_not_know_are_named():
    assert choose(None, "messages", "variant", "score").unknown_columns == ("score", "variant")
    assert choose("syllo_v1", "messages", "variant", "score").unknown_columns == ("score",)


def test_the_registry_is_closed():
    with pytest.raises(TypeError):
        DATASET_SPECS["mine"] = DATASET_SPECS["syllo_v1"]  # type: ignore[index]


def test_a_job_names_its_schema_in_its_config_or_in_the_metadata():
    validator = SpecValidator(DATASET_SPECS)

    assert validator.validate_job({**JOB, "schema_id": "syllo_v1"}, {}).id == "syllo_v1"
    assert validator.validate_job(JOB, {"schema_id": "completion_v1"}).id == "completion_v1"


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        ({**JOB, "schema_id": "nothing_v1"}, "'nothing_v1' is not registered"),
        (JOB, "names no schema_id"),
        ({"schema_id": "syllo_v1", "base_model": "tiny"}, "job key dataset_path"),
        ({"schema_id": "syllo_v1", "dataset_path": "a", "base_model": ""}, "job key base_model"),
    ],
)
def test_a_job_without_a_known_schema_or_a_required_key_is_refused(job, sentence):
    with pytest.raises(DatasetInvalid, match=sentence):
        SpecValidator(DATASET_SPECS).validate_job(job, {})
