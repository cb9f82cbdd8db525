"""The check that real rows are trained after what the server prompts with."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gpu_assets.datasets.parity import CHECKED_ROWS, parity_fault
from gpu_assets.rendering import Renderer, Sample

ROWS = [
    [
        {"role": "user", "content": f"add {number} and 1"},
        {"role": "assistant", "content": f"<think>\n</think>\n{number + 1}"},
        {"role": "user", "content": "and 2?"},
        {"role": "assistant", "content": str(number + 3)},
    ]
    for number in range(3 * CHECKED_ROWS)
]


@pytest.fixture
def rows_path(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"messages": ROWS}).write_parquet(path)
    return path


class TrainsWithoutLastToken(Renderer):
    """A renderer whose training lost a token of the second prompt."""

    def training_samples(self, messages: Any) -> list[Sample]:
        first, second = super().training_samples(messages)
        return [first, Sample(second.ids[1:], second.supervised[1:])]


class TrainsOneTurn(Renderer):
    """A renderer whose training lost a turn."""

    def training_samples(self, messages: Any) -> list[Sample]:
        return super().training_samples(messages)[:1]


@pytest.mark.parametrize("profile", ["plain", "emoji_think", "regime3"])
def test_rows_of_several_turns_are_trained_as_they_are_served(tiny_folder: Path, rows_path: Path, profile: str) -> None:
    assert parity_fault(rows_path, Renderer.load(tiny_folder, profile)) is None


def test_plain_texts_have_no_prompts(tiny_folder: Path, tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a text"]}).write_parquet(tmp_path / "rows.parquet")
    assert parity_fault(tmp_path / "rows.parquet", Renderer.load(tiny_folder, "plain")) is None


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (
            TrainsWithoutLastToken,
            r"accepted row 1: turn 4 is trained after \d+ tokens and served after \d+; token 1 is",
        ),
        (TrainsOneTurn, "accepted row 1: 1 answers are supervised, the conversation has 2"),
    ],
)
def test_a_renderer_that_trains_on_other_prompts_than_it_serves_is_found_out(
    tiny_folder: Path, rows_path: Path, broken: type[Renderer], fault: str
) -> None:
    good = Renderer.load(tiny_folder, "plain")
    renderer = broken(good.tokenizer, good.template, good.profile, good.end_token)
    found = parity_fault(rows_path, renderer)
    assert found is not None
    with pytest.raises(AssertionError, match=fault):
        raise AssertionError(found)


def test_rows_are_looked_at_over_the_whole_dataset(tiny_folder: Path, rows_path: Path) -> None:
    looked_at: list[str] = []

    class Watched(Renderer):
        def prompt_ids(self, messages: Any) -> list[int]:
            looked_at.append(messages[0]["content"])
            return super().prompt_ids(messages)

    good = Renderer.load(tiny_folder, "plain")
    assert parity_fault(rows_path, Watched(good.tokenizer, good.template, good.profile, good.end_token)) is None
    assert CHECKED_ROWS <= len(set(looked_at)) <= 2 * CHECKED_ROWS
    assert looked_at[-1] == ROWS[-3][0]["content"]
