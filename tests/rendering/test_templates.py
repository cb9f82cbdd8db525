"""Templates: which know of think blocks, what replaces them, and that all of trl's render without skew."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trl
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from gpu_assets.errors import RenderingError
from gpu_assets.rendering import Message, Renderer
from gpu_assets.rendering.parity import prefix_fault
from gpu_assets.rendering.template import CHATML, RESERVED_VARIABLES, THINKING_MARKS, is_thinking, render
from tests.rendering.conftest import TemplateFolder

TEMPLATES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
WITHOUT_TEXT = {"idefics3", "llava_next", "smolvlm"}
"""They want a message's content as a list of parts."""
WITH_A_CLOCK = {"gptoss"}
CONVERSATION: list[Message] = [
    {"role": "user", "content": "add ①⓪ and ①"},
    {"role": "assistant", "content": "①① it is"},
    {"role": "user", "content": "and (1 < 2)?"},
    {"role": "assistant", "content": "yes"},
]


def family(path: Path) -> str:
    return path.stem.removesuffix("_training")


RENDERED = [path for path in TEMPLATES if family(path) not in WITHOUT_TEXT | WITH_A_CLOCK]


def _system_prompt(path: Path) -> str | None:
    """Gemma's template takes no system message, so the profile's own is switched off for it."""
    return "" if family(path) == "gemma" else None


def named(paths: list[Path]) -> "pytest.MarkDecorator":
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def test_chatml_is_clean_to_the_last_line_break() -> None:
    messages: list[Message] = [{"role": "system", "content": "Be brief."}, *CONVERSATION[:3]]
    assert render(CHATML, messages, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nadd ①⓪ and ①<|im_end|>\n"
        "<|im_start|>assistant\n①① it is<|im_end|>\n"
        "<|im_start|>user\nand (1 < 2)?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render(CHATML, CONVERSATION[:1]) == "<|im_start|>user\nadd ①⓪ and ①<|im_end|>\n"


def test_there_are_templates_of_many_models() -> None:
    assert len(TEMPLATES) > 60
    assert {path.stem for path in TEMPLATES} >= {"qwen3", "qwen3_training", "llama3", "gemma3", "phi3"}


@pytest.mark.parametrize("mark", THINKING_MARKS)
def test_each_mark_of_a_think_block_is_enough(mark: str) -> None:
    assert is_thinking(f"a {mark} b")


def test_the_templates_of_thinking_models_are_told_from_the_others() -> None:
    thinking = {path.stem for path in TEMPLATES if is_thinking(path.read_text(encoding="utf-8"))}
    assert thinking >= {"qwen3", "qwen3_training", "deepseek_r1_distill", "glm4moe", "nemotron_3_nano", "qwen3_5_think"}
    assert not thinking & {"llama3", "llama3_2", "gemma", "gemma3", "phi3", "qwen2_5", "cohere2"}


@named(TEMPLATES)
@pytest.mark.parametrize("profile", ["emoji_think", "regime3"])
def test_a_thinking_template_and_no_other_is_replaced_by_chatml(
    template_folder: TemplateFolder, path: Path, profile: str
) -> None:
    own = path.read_text(encoding="utf-8")
    folder = template_folder(own)
    if is_thinking(own):
        assert Renderer.load(folder, profile).template == CHATML
    elif path in RENDERED:
        assert Renderer.load(folder, profile).template == own


@named(RENDERED)
def test_the_plain_profile_keeps_the_models_own_template_whatever_it_is(
    template_folder: TemplateFolder, path: Path
) -> None:
    own = path.read_text(encoding="utf-8")
    assert Renderer.load(template_folder(own), "plain").template == own


@named(RENDERED)
@pytest.mark.parametrize("profile", ["plain", "emoji_think", "regime3"])
def test_every_answer_is_trained_after_the_tokens_that_the_server_prompts_with(
    template_folder: TemplateFolder, path: Path, profile: str
) -> None:
    renderer = Renderer.load(template_folder(path.read_text(encoding="utf-8")), profile, _system_prompt(path))
    samples = renderer.training_samples(CONVERSATION)
    assert prefix_fault(renderer, samples, CONVERSATION) is None
    said = [token for sample in samples for token, on in zip(sample.ids, sample.supervised, strict=True) if on]
    text = renderer.tokenizer.decode(said, skip_special_tokens=False)
    assert text.count("<|im_end|>") == 2
    assert "①① it is" in text and "yes" in text


@named([path for path in RENDERED if "strftime_now" not in path.read_text(encoding="utf-8")])
def test_prompts_are_what_transformers_renders(template_folder: TemplateFolder, path: Path) -> None:
    folder = template_folder(path.read_text(encoding="utf-8"))
    wanted = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        CONVERSATION[:3], add_generation_prompt=True, enable_thinking=False, tokenize=False
    )
    assert Renderer.load(folder, "plain").prompt_text(CONVERSATION[:3]) == wanted


@named([path for path in RENDERED if "strftime_now" in path.read_text(encoding="utf-8")])
def test_a_template_that_can_do_without_a_clock_has_none(template_folder: TemplateFolder, path: Path) -> None:
    now = datetime.now()
    text = Renderer.load(template_folder(path.read_text(encoding="utf-8")), "plain").prompt_text(CONVERSATION[:1])
    assert now.strftime("%Y-%m-%d") not in text and now.strftime("%d %b %Y") not in text


@named([path for path in TEMPLATES if family(path) in WITHOUT_TEXT])
def test_a_template_that_would_drop_what_a_text_message_says_is_refused(
    template_folder: TemplateFolder, path: Path
) -> None:
    with pytest.raises(RenderingError, match="drops what a message says"):
        Renderer.load(template_folder(path.read_text(encoding="utf-8")), "plain")


@named([path for path in TEMPLATES if family(path) in WITH_A_CLOCK])
def test_a_template_that_asks_for_todays_date_is_refused(template_folder: TemplateFolder, path: Path) -> None:
    with pytest.raises(RenderingError, match="today's date"):
        Renderer.load(template_folder(path.read_text(encoding="utf-8")), "plain")


def test_chatml_is_not_put_in_place_where_the_tokenizer_lacks_its_tokens(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}<think>")
    with pytest.raises(RenderingError, match=r"no <\|im_start\|> and no <\|im_end\|>; set profile.name to 'plain'"):
        Renderer.load(tmp_path, "emoji_think")
    assert Renderer.load(tmp_path, "plain").end_token == "</s>"


def test_answers_end_as_chatml_ends_turns_whatever_the_tokenizer_config_says(template_folder: TemplateFolder) -> None:
    folder = template_folder("{% for m in messages %}{{ m.content }}<think>{% endfor %}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    renderer = Renderer.load(folder, "regime3")
    assert renderer.end_token == "<|im_end|>"
    assert len(renderer.training_samples(CONVERSATION)) == 1
    assert Renderer.load(folder, "plain").end_token == "<|endoftext|>"


def test_a_replaced_template_counts_in_the_digest_and_is_the_same_once_it_is_the_folders_own(
    template_folder: TemplateFolder,
) -> None:
    thinking = Renderer.load(template_folder("{{ messages[0].content }}<think>"), "regime3")
    own = Renderer.load(template_folder(CHATML), "regime3")
    assert (own.template_sha256, own.digest) == (thinking.template_sha256, thinking.digest)


@pytest.mark.parametrize(
    "variables", [{"shade": 3}, {"shade": None}, {"shade": {"a": 1}}, {"range": 1}, {"shade": [[]], "depth": 10**9}]
)
def test_a_variable_of_a_type_that_the_template_does_not_expect_is_refused(variables: dict[str, Any]) -> None:
    template = "{% for each in range(depth | default(2)) %}{{ shade.upper() + shade[each] }}{% endfor %}"
    with pytest.raises(RenderingError, match="cannot render"):
        render(template, CONVERSATION[:1], **variables)


def test_names_that_are_the_renderers_or_the_languages_are_reserved() -> None:
    assert {"messages", "add_generation_prompt", "tools", "eos_token", "range", "raise_exception"} <= RESERVED_VARIABLES
    assert not RESERVED_VARIABLES & {"enable_thinking", "reasoning_effort"}
