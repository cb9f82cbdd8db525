"""The profile that adds nothing but the configured system prompt."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from gpu_assets.rendering.profiles.base import LogitsProcessor, Message, with_system_prompt


class PlainProfile:
    """Conversations as they are; a configured system prompt is put before those that have none."""

    name = "plain"
    version = "1.0"
    replaces_thinking_template = False

    def system_prompt(self, configured: str | None) -> str | None:
        return configured

    def transform_prompt(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        return with_system_prompt(messages, system_prompt)

    def transform_example(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        return with_system_prompt(messages, system_prompt)

    def validate_example(self, messages: Sequence[Message]) -> str | None:
        return None

    def bare_answer(self, answer: str) -> str:
        return answer

    def logits_processors(self, tokenizer: Tokenizer, end_token: str) -> Sequence[LogitsProcessor]:
        return ()
