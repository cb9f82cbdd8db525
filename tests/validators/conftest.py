import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpu_assets.base_model.tiny import CHAT_TEMPLATE, build_tokenizer
from gpu_assets.rendering import Renderer
from gpu_assets.rendering.profiles import get_profile
from gpu_assets.settings import Validation
from validators import DATASET_SPECS, DataValidator, Limits, Reserved, Validated

HELD_OUT_KEY = "binary:add:1:2"


def make_chat(*turns: str, **columns: Any) -> dict[str, Any]:
    """A chat row; turns are user and assistant in turn, or `role:content`."""
    messages = []
    for index, turn in enumerate(turns or ("What is 1 + 1?", "2")):
        role, _, content = turn.rpartition("::")
        messages.append({"role": role or ("user", "assistant")[index % 2], "content": content})
    return {"messages": messages, **columns}


@pytest.fixture
def chat() -> Callable[..., dict[str, Any]]:
    return make_chat


@pytest.fixture(scope="session")
def renderer() -> Renderer:
    return Renderer(
        tokenizer=build_tokenizer(), template=CHAT_TEMPLATE, profile=get_profile("plain"), end_token="<|im_end|>"
    )


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows (objects become JSON, text and bytes are taken as they are), a line each."""

    def write(*rows: Any, name: str = "rows.jsonl", end: bytes = b"\n") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(_line(row) + end for row in rows))
        return path

    return write


@pytest.fixture
def validate(write: Callable[..., Path], renderer: Renderer) -> Callable[..., Validated]:
    """Writes rows and validates the file; limits are lenient unless given."""

    def validate(
        *rows: Any,
        schema: str = "chat_sft_v1",
        level: str = "STANDARD",
        max_length: int = 512,
        end: bytes = b"\n",
        **limits: Any,
    ) -> Validated:
        thresholds = Validation(**{"max_rejected_share": 1.0, "max_truncated_share": 1.0, **limits})
        reserved = Reserved(lambda key: key == HELD_OUT_KEY, lambda _: False, marks=())
        validator = DataValidator(renderer, Limits(thresholds, max_length), reserved)
        return validator.validate_rows(write(*rows, end=end), DATASET_SPECS[schema], level)

    return validate


def _line(row: Any) -> bytes:
    if isinstance(row, bytes):
        return row
    return (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)).encode()
