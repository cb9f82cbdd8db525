"""The one renderer: training and serving see the same tokens, and answers alone are supervised."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_assets.errors import RenderingError
from gpu_assets.rendering import Message, Renderer

CHATML_DROPPING_PAST_THINKING = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' + message.content + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}{%- endif %}"""


@pytest.fixture(scope="module")
def renderer(tiny_folder: Path) -> Renderer:
    return Renderer.load(tiny_folder, "plain")


def chat(*contents: str) -> list[Message]:
    roles = ["user", "assistant"] * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def test_each_circled_digit_is_one_token(renderer: Renderer) -> None:
    assert len(renderer.tokenizer.encode("⓪①①⓪", add_special_tokens=False).ids) == 4


def test_tokens_are_the_tokenizers_own_for_short_and_long_texts(renderer: Renderer) -> None:
    for text in ("", "①⓪ and 漢", "add ①⓪ and ①, " * 20_000):
        alone = renderer.tokenizer.encode(renderer.prompt_text(chat(text)), add_special_tokens=False).ids
        assert renderer.prompt_ids(chat(text)) == alone


def test_the_prompt_ends_in_the_assistant_header_with_an_empty_think_block(renderer: Renderer) -> None:
    assert renderer.prompt_text(chat("hi")) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0))
def test_every_answer_is_trained_after_exactly_the_tokens_of_its_serving_prompt(texts: list[str]) -> None:
    renderer = Renderer.load(_TINY["folder"], "plain")
    messages = chat(*texts)
    taught = []
    for sample in renderer.training_samples(messages):
        for start in (i for i, s in enumerate(sample.supervised) if s and not sample.supervised[i - 1]):
            taught.append(list(sample.ids[:start]))
    assert taught == [renderer.prompt_ids(messages[:turn]) for turn in range(1, len(messages), 2)]


def test_only_answers_and_their_end_tokens_are_supervised(renderer: Renderer) -> None:
    samples = renderer.training_samples(chat("one", "two", "three", "four"))
    supervised = [token for sample in samples for token, on in zip(sample.ids, sample.supervised, strict=True) if on]
    assert renderer.tokenizer.decode(supervised, skip_special_tokens=False) == "two<|im_end|>four<|im_end|>"


def test_turns_share_a_sequence_only_where_the_later_prompt_begins_with_the_earlier_one(
    renderer: Renderer, tiny_folder: Path, tmp_path: Path
) -> None:
    """The tiny template, like Qwen3's, shows past answers without the think block: a sequence a turn."""
    messages = chat("one", "two", "three", "four")
    assert len(renderer.training_samples(messages)) == 2
    folder = shutil.copytree(tiny_folder, tmp_path / "plain-chatml")
    template = CHATML_DROPPING_PAST_THINKING.replace("<think>\\n\\n</think>\\n\\n", "")
    (folder / "chat_template.jinja").write_text(template)
    assert len(Renderer.load(folder, "plain").training_samples(messages)) == 1


def test_the_configured_system_prompt_is_put_before_conversations_that_have_none(tiny_folder: Path) -> None:
    renderer = Renderer.load(tiny_folder, "plain", system_prompt="Be brief.")
    assert renderer.prompt_text(chat("hi")).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    own = [{"role": "system", "content": "Own."}, *chat("hi")]
    assert "Be brief." not in renderer.prompt_text(own)


def test_the_digest_changes_with_template_system_prompt_and_tokenizer(tiny_folder: Path, tmp_path: Path) -> None:
    digests = {Renderer.load(tiny_folder, "plain").digest, Renderer.load(tiny_folder, "plain", "Be brief.").digest}
    folder = shutil.copytree(tiny_folder, tmp_path / "other")
    (folder / "chat_template.jinja").write_text(CHATML_DROPPING_PAST_THINKING)
    digests.add(Renderer.load(folder, "plain").digest)
    assert len(digests) == 3
    assert Renderer.load(tiny_folder, "plain").digest in digests


def test_an_unregistered_profile_is_refused_by_name(tiny_folder: Path) -> None:
    with pytest.raises(RenderingError, match="profile 'none' is not registered; known profiles"):
        Renderer.load(tiny_folder, "none")


@pytest.mark.parametrize("missing", ["tokenizer.json", "chat_template.jinja"])
def test_a_folder_without_tokenizer_or_template_is_refused_by_name(
    tiny_folder: Path, tmp_path: Path, missing: str
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "incomplete")
    (folder / missing).unlink()
    with pytest.raises(RenderingError, match=str(folder)):
        Renderer.load(folder, "plain")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\xff"),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"\xff"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"[" * 100_000),
        ("chat_template.jinja", b"\xff"),
    ],
)
def test_a_broken_file_of_a_folder_is_refused_by_name(
    tiny_folder: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "broken")
    (folder / name).write_bytes(content)
    with pytest.raises(RenderingError, match=f"{name} .*wanted|{name} .*restore it"):
        Renderer.load(folder, "plain")


def test_a_conversation_without_an_answer_teaches_nothing_and_is_refused(renderer: Renderer) -> None:
    with pytest.raises(RenderingError, match="no assistant turn"):
        renderer.training_samples(chat("hi"))


def test_the_rendered_prompt_is_what_transformers_renders(renderer: Renderer, tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    messages = [{"role": "system", "content": "s"}, *chat("one", "two ⓪", "three")]
    expected = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    assert renderer.prompt_ids(messages) == list(expected)


def test_the_template_may_come_from_the_tokenizer_config(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "inline")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    assert Renderer.load(folder, "plain").digest == Renderer.load(tiny_folder, "plain").digest


_TINY: dict[str, Path] = {}


@pytest.fixture(autouse=True, scope="module")
def _remember_tiny(tiny_folder: Path) -> None:
    """Hypothesis calls its function many times in one test; a module value serves it, a fixture cannot."""
    _TINY["folder"] = tiny_folder


def test_a_requests_own_variables_reach_the_template_and_change_nothing_else(renderer: Renderer) -> None:
    before = renderer.digest
    thinking = renderer.prompt_text(chat("hi"), {"enable_thinking": True})
    assert thinking == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert renderer.prompt_text(chat("hi"), {"nobody": {"knows": [1, None]}}) == renderer.prompt_text(chat("hi"))
    assert renderer.prompt_ids(chat("hi"), {"enable_thinking": True}) == renderer.encode_batch([thinking])[0]
    assert renderer.digest == before
