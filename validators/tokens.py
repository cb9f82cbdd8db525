"""Token counts of rows, by the renderer that trains on them."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpu_assets.errors import RenderingError
from gpu_assets.rendering import Renderer, Sample
from validators.report import Rule
from validators.rows import Rejection, Row


@dataclass(frozen=True, slots=True)
class TokenCount:
    """A row's tokens before any cut; `truncated` if one of its sequences is over the limit."""

    num_tokens: int
    num_supervised: int
    truncated: bool


def count_tokens(renderer: Renderer, row: Row, kind: str, max_length: int) -> TokenCount:
    """Render a row as training does.

    Raises:
        Rejection: if it cannot be rendered, or training would be left with no supervised token.
    """
    try:
        samples = _samples(renderer, row, kind)
    except RenderingError as error:
        raise Rejection(Rule.UNRENDERABLE, str(error)[:200]) from None
    num_tokens = sum(len(sample.ids) for sample in samples)
    num_supervised = sum(sample.num_supervised for sample in samples)
    truncated = any(len(sample.ids) > max_length for sample in samples)
    if not (any(any(sample.supervised[:max_length]) for sample in samples) if truncated else num_supervised):
        raise Rejection(
            Rule.UNSUPERVISED,
            f"of {num_tokens:,} tokens none within max_length={max_length:,} is an answer's: the prompt fills it",
        )
    return TokenCount(num_tokens, num_supervised, truncated)


def _samples(renderer: Renderer, row: Row, kind: str) -> Sequence[Sample]:
    if kind == "completion":
        return [renderer.completion_sample(row.text)]
    return renderer.training_samples([{"role": message.role, "content": message.content} for message in row.messages])
