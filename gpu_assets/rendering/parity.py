"""Whether what is trained on is what the server prompts with, compared token by token."""

from collections.abc import Iterator, Sequence

from gpu_assets.rendering.profiles.base import Message
from gpu_assets.rendering.renderer import Renderer, Sample


def prefix_fault(served: Renderer, samples: Sequence[Sample], messages: Sequence[Message]) -> str | None:
    """How the prompts that answers were trained after differ from those that a server renders, or None.

    Args:
        served: as the server loads it.
        samples: the sequences of the conversation, as they are trained on.
    """
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    trained = [prompt for sample in samples for prompt in _prompts(sample)]
    if len(trained) != len(answers):
        return f"{len(trained)} answers are supervised, the conversation has {len(answers)}"
    for index, prompt in zip(answers, trained, strict=True):
        wanted = served.prompt_ids(messages[:index])
        if prompt != wanted:
            same = next((at for at, pair in enumerate(zip(prompt, wanted, strict=False)) if pair[0] != pair[1]), None)
            at = min(len(prompt), len(wanted)) if same is None else same
            return (
                f"turn {index + 1} is trained after {len(prompt)} tokens and served after {len(wanted)}; "
                f"token {at + 1} is the first that differs"
            )
    return None


def _prompts(sample: Sample) -> Iterator[list[int]]:
    """What stands before each answer of a sequence."""
    before = (False, *sample.supervised)
    for start, (previous, here) in enumerate(zip(before, sample.supervised, strict=False)):
        if here and not previous:
            yield list(sample.ids[:start])
