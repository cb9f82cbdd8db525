"""Conversations to token ids and supervised positions, by one rule for all who need it.

An answer is trained after exactly the tokens that the server would be prompted with: the prompt
is rendered with the generation header, the answer and its end token are appended and supervised.
Turns share one sequence where the prompt of the later turn really begins with the earlier one's
tokens; a template that renders past turns differently (Qwen3 drops the think block from them)
gives a sequence a turn instead. So training and serving cannot differ by a token.

Knows nothing of files other than a model folder's tokenizer and template, and nothing of torch.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from gpu_assets.errors import RenderingError
from gpu_assets.rendering.profiles import DataProfile, get_profile
from gpu_assets.rendering.profiles.base import LogitsProcessor, Message
from gpu_assets.rendering.template import (
    CHATML,
    CHATML_END,
    CHATML_TOKENS,
    is_thinking,
    read_template,
    read_tokenizer_config,
    render,
)

TEMPLATE_VARIABLES: dict[str, Any] = {"enable_thinking": False}
"""Passed to every template everywhere; part of the renderer's digest."""

PROBE = "seven questions"
"""What a user says when a template is tried out."""


class Turn(NamedTuple):
    """What a model is asked to continue, and what it should say, end token included."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """One training sequence: `ids` of length T and, of the same length, which are supervised."""

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]

    @property
    def num_supervised(self) -> int:
        return sum(self.supervised)


@dataclass(frozen=True)
class Renderer:
    """Renders with one tokenizer, one template and one profile; `digest` identifies all three."""

    tokenizer: Tokenizer = field(repr=False)
    template: str = field(repr=False)
    profile: DataProfile
    end_token: str
    system_prompt: str | None = None
    bos_token: str | None = None

    @classmethod
    def load(cls, folder: Path, profile: str, system_prompt: str | None = None) -> "Renderer":
        """The renderer of a model folder, with the folder's template unless the profile replaces it.

        Raises:
            RenderingError: if the folder has no tokenizer, template or end token, one of them cannot be loaded,
                the profile is not registered, or the tokenizer lacks the tokens of the template that the profile
                puts in place of the folder's.
        """
        shaping = get_profile(profile)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise RenderingError(f"{folder} has no tokenizer.json; a fast tokenizer is required")
        config = read_tokenizer_config(folder)
        tokenizer, template = read_tokenizer(path), read_template(folder)
        if (effective := template_in_force(shaping, template)) != template:
            _require_chatml_tokens(tokenizer, folder, profile)
            template = effective
        end_token = CHATML_END if template == CHATML else _token_text(config.get("eos_token"))
        if end_token is None:
            raise RenderingError(f"{folder}/tokenizer_config.json names no eos_token, so answers could not end")
        renderer = cls(
            tokenizer=tokenizer,
            template=template,
            profile=shaping,
            end_token=end_token,
            system_prompt=system_prompt,
            bos_token=_token_text(config.get("bos_token")),
        )
        if PROBE not in renderer._render([{"role": "user", "content": PROBE}]):
            raise RenderingError(
                f"the template of {folder} drops what a message says: it wants a message's content as a list of parts, "
                "and here it is a text. Put a template for text into the folder's chat_template.jinja"
            )
        return renderer

    @property
    def template_sha256(self) -> str:
        return hashlib.sha256(self.template.encode()).hexdigest()

    @property
    def digest(self) -> str:
        """sha256 of all that decides the tokens of a conversation."""
        parts = {
            "template": self.template,
            "variables": TEMPLATE_VARIABLES,
            "profile": [self.profile.name, self.profile.version],
            "system_prompt": self.profile.system_prompt(self.system_prompt),
            "end_token": self.end_token,
            "tokenizer": hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def end_token_id(self) -> int:
        token_id = self.tokenizer.token_to_id(self.end_token)
        if token_id is None:
            raise RenderingError(f"the end token {self.end_token!r} is not in the tokenizer")
        return int(token_id)

    def special_tokens(self) -> frozenset[str]:
        """Texts that the tokenizer turns into control tokens; no content may hold one."""
        added = self.tokenizer.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if token.special)

    def logits_processors(self) -> Sequence[LogitsProcessor]:
        """What the profile does to logits while answers are generated."""
        return self.profile.logits_processors(self.tokenizer, self.end_token)

    def prompt_text(self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> str:
        """The text a model is asked to continue; `variables` are one request's own, over `TEMPLATE_VARIABLES`."""
        return self._render(self.profile.transform_prompt(messages, self.system_prompt), variables)

    def prompt_ids(self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> list[int]:
        """The tokens of `prompt_text`."""
        return self._encode(self.prompt_text(messages, variables))

    def training_samples(self, messages: Sequence[Message]) -> list[Sample]:
        """The sequences that teach every assistant turn of a conversation, each turn once.

        Raises:
            RenderingError: if the conversation has no assistant turn.
        """
        return self.encode_turns([self.training_turns(messages)])[0]

    def training_turns(self, messages: Sequence[Message]) -> list[Turn]:
        """The texts of every assistant turn of a conversation, in order.

        Raises:
            RenderingError: if the conversation has no assistant turn, or is unfit for the profile.
        """
        if (fault := self.profile.validate_example(messages)) is not None:
            raise RenderingError(f"unfit for the profile {self.profile.name}: {fault}")
        turns = [
            Turn(self.prompt_text(messages[:index]), self._answer(messages[: index + 1]) + self.end_token)
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        if not turns:
            raise RenderingError("the conversation has no assistant turn, so there is nothing to learn from it")
        return turns

    def encode_turns(self, conversations: Sequence[Sequence[Turn]]) -> list[list[Sample]]:
        """The sequences of many conversations, on all cores at once."""
        ids = iter(self.encode_batch([text for turns in conversations for turn in turns for text in turn]))
        encoded = []
        for turns in conversations:
            samples: list[Sample] = []
            for _ in turns:
                _append_turn(samples, next(ids), next(ids))
            encoded.append(samples)
        return encoded

    def completion_sample(self, text: str) -> Sample:
        """The sequence that teaches a plain text: every token but the first, and the end token."""
        return self.completion_samples([text])[0]

    def completion_samples(self, texts: Sequence[str]) -> list[Sample]:
        """The sequences of many plain texts, on all cores at once."""
        encoded = self.encode_batch([text + self.end_token for text in texts])
        return [Sample(ids=tuple(ids), supervised=(False,) + (True,) * (len(ids) - 1)) for ids in encoded]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, on all cores at once; no special token is added."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _answer(self, messages: Sequence[Message]) -> str:
        return self.profile.transform_example(messages, self.system_prompt)[-1]["content"]

    def _render(self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> str:
        return render(
            self.template,
            messages,
            add_generation_prompt=True,
            bos_token=self.bos_token or "",
            eos_token=self.end_token,
            **(TEMPLATE_VARIABLES | dict(variables or {})),
        )

    def _encode(self, text: str) -> list[int]:
        """A batch of one: other threads run meanwhile, which `encode` keeps waiting."""
        return self.encode_batch([text])[0]


def template_in_force(profile: DataProfile, own: str) -> str:
    """The model's own template, or plain ChatML where the profile replaces one with think blocks."""
    return CHATML if profile.replaces_thinking_template and is_thinking(own) else own


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`.

    Raises:
        RenderingError: if it cannot be loaded.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises no narrower one
        raise RenderingError(
            f"{path} cannot be loaded: {error}; wanted the tokenizer.json of a fast tokenizer"
        ) from None


def _append_turn(samples: list[Sample], prompt: list[int], answer: list[int]) -> None:
    """Continue the last sequence if the prompt begins with it, else begin a new one."""
    ids = tuple(prompt + answer)
    previous = samples[-1] if samples else None
    if previous is not None and tuple(prompt[: len(previous.ids)]) == previous.ids:
        samples.pop()
        context = previous.supervised + (False,) * (len(prompt) - len(previous.ids))
    else:
        context = (False,) * len(prompt)
    samples.append(Sample(ids=ids, supervised=context + (True,) * len(answer)))


def _require_chatml_tokens(tokenizer: Tokenizer, folder: Path, profile: str) -> None:
    missing = [token for token in CHATML_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise RenderingError(
            f"the template in {folder} has think blocks, which the profile {profile!r} replaces by ChatML, but the "
            f"tokenizer has no {' and no '.join(missing)}; set profile.name to 'plain', or use another model"
        )


def _token_text(token: Any) -> str | None:
    """Token entries are a string or an `AddedToken` dict."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
