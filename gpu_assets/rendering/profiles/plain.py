"""The profile that adds nothing but the configured system prompt."""

from collections.abc import Sequence

from gpu_assets.rendering.profiles.base import Message


class PlainProfile:
    """Conversations as they are; a configured system prompt is put before those that have none."""

    name = "plain"
    version = "1.0"

    def transform_example(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        return self.transform_prompt(messages, system_prompt)

    def transform_prompt(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        if system_prompt is None or (messages and messages[0]["role"] == "system"):
            return list(messages)
        return [{"role": "system", "content": system_prompt}, *messages]
