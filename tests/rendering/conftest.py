"""What rendering is tested with: conversations, and folders with a template of one's choice."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from gpu_assets.base_model.tiny import build_tokenizer

TemplateFolder = Callable[[str], Path]


@cache
def _tokenizer() -> str:
    return build_tokenizer().to_str()


@pytest.fixture
def template_folder(tmp_path: Path) -> TemplateFolder:
    """A folder as far as rendering looks: the tiny tokenizer, and this template."""

    def make(template: str) -> Path:
        folder = tmp_path / "rendered"
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.json").write_text(_tokenizer())
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>"})
        )
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
        return folder

    return make
