from dataclasses import replace

import pytest

from gpu_assets.errors import DatasetInvalid
from gpu_assets.rendering.profiles import get_profile
from gpu_assets.settings import Validation
from gpu_assets.training.records import TrainingDataset
from gpu_assets.training.samples import load_samples
from validators import DATASET_SPECS, NOTHING_RESERVED, DataValidator, Limits, Rule

LENGTHS = (32, 40, 48, 64, 96)


def test_token_counts_are_those_that_training_sees(validate, chat, renderer, tmp_path):
    rows = [chat("a", "b"), chat("What is it?", "A thing.", "And that?", "Another."), chat("a", "b", system_prompt="c")]
    validated = validate(*rows)
    path = tmp_path / "rows.parquet"
    validated.accepted.write_parquet(path)
    samples = load_samples([TrainingDataset("k", path, "0" * 64, 3)], renderer, 512)

    assert samples.tokens.total == validated.accepted["num_tokens"].sum()
    assert samples.tokens.supervised == validated.accepted["num_supervised"].sum()


@pytest.mark.parametrize("max_length", LENGTHS)
def test_training_accepts_exactly_what_the_gate_accepts(validate, chat, renderer, tmp_path, max_length):
    rows = [chat("word " * n, "answer " * 3) for n in (1, 5, 10, 15, 20, 30)]
    everything = validate(*rows, max_length=512)
    validated = validate(*rows, max_length=max_length)
    path = tmp_path / "rows.parquet"
    validated.accepted.write_parquet(path)
    load_samples([TrainingDataset("k", path, "0" * 64, validated.accepted.height)], renderer, max_length)

    for rejected in validated.rejected:
        assert rejected.reason is Rule.UNSUPERVISED
        everything.accepted.filter(line=rejected.line).write_parquet(path)
        with pytest.raises(DatasetInvalid, match="nothing supervised"):
            load_samples([TrainingDataset("k", path, "0" * 64, 1)], renderer, max_length)


def test_a_turn_that_survives_the_cut_is_enough(validate, chat):
    validated = validate(chat("a", "b", "c", "long " * 100), max_length=64)

    assert validated.accepted["truncated"].to_list() == [True]


def test_completions_count_their_text_and_the_end_token(validate, renderer):
    validated = validate({"text": "⓪①⓪"}, schema="completion_v1")

    assert validated.accepted["num_tokens"].to_list() == [4]
    assert validated.accepted["num_supervised"].to_list() == [3]


def test_the_statistics_describe_lengths_and_balance(validate, chat):
    rows = [chat("⓪" * n, "①") for n in range(1, 101)]
    stats = validate(*rows).report.stats

    base = stats["num_tokens"]["min"] - 1
    assert stats["num_tokens"] == {
        "min": base + 1,
        "median": base + 51,
        "p95": base + 95,
        "p99": base + 99,
        "max": base + 100,
        "total": 100 * base + 5050,
    }
    assert stats["num_supervised"]["total"] == 200
    assert stats["characters"] == {"assistant": 100, "user": 5050}
    assert stats["answer_to_prompt_ratio"] == round(100 / 5050, 6)
    assert stats["distinct_answers_share"] == 0.01
    assert (stats["truncated_rows"], stats["truncated_share"], stats["max_length"]) == (0, 0.0, 512)


def test_a_file_without_accepted_rows_has_no_statistics_of_them(validate):
    assert set(validate("{").report.stats) == {"bytes"}


def test_a_row_that_is_unfit_for_the_profile_is_rejected_with_its_line_and_sentence(write, chat, renderer):
    shaping = replace(renderer, profile=get_profile("emoji_think"))
    validator = DataValidator(shaping, Limits(Validation(max_rejected_share=1.0), 512), NOTHING_RESERVED)
    validated = validator.validate_rows(
        write(chat("a", "b"), chat("c", "🤔🤔🤔")), DATASET_SPECS["chat_sft_v1"], "STANDARD"
    )
    (rejected,) = validated.rejected
    assert (rejected.line, rejected.reason) == (2, Rule.UNRENDERABLE)
    assert "unfit for the profile emoji_think: turn 2 says nothing" in rejected.detail
