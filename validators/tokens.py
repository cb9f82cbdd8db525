"""Token counts of rows, by the renderer that trains on them."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpu_assets.errors import RenderingError
from gpu_assets.rendering import Renderer, Sample
from gpu_assets.rendering.renderer import Turn
from validators.report import Rule
from validators.rows import Rejection, Row


@dataclass(frozen=True, slots=True)
class TokenCount:
    """A row's tokens before any cut; `truncated` if one of its sequences is over the limit."""

    num_tokens: int
    num_supervised: int
    truncated: bool


def count_tokens(renderer: Renderer, rows: Sequence[Row], kind: str, max_length: int) -> list[TokenCount | Rejection]:
    """Render rows as training does, and count; a row is rejected if it cannot be rendered, or if training
    would be left with no supervised token of it."""
    if kind == "completion":
        samples = renderer.completion_samples([row.text for row in rows])
        return [_count([sample], max_length) for sample in samples]
    rendered = [_render(renderer, row) for row in rows]
    encoded = iter(renderer.encode_turns([turns for turns in rendered if not isinstance(turns, Rejection)]))
    return [turns if isinstance(turns, Rejection) else _count(next(encoded), max_length) for turns in rendered]


def _render(renderer: Renderer, row: Row) -> list[Turn] | Rejection:
    try:
        return renderer.training_turns([{"role": turn.role, "content": turn.content} for turn in row.messages])
    except RenderingError as error:
        return Rejection(Rule.UNRENDERABLE, str(error)[:200])


def _count(samples: Sequence[Sample], max_length: int) -> TokenCount | Rejection:
    num_tokens = sum(len(sample.ids) for sample in samples)
    num_supervised = sum(sample.num_supervised for sample in samples)
    truncated = any(len(sample.ids) > max_length for sample in samples)
    if not (any(any(sample.supervised[:max_length]) for sample in samples) if truncated else num_supervised):
        return Rejection(
            Rule.UNSUPERVISED,
            f"of {num_tokens:,} tokens none of the first {max_length:,} (hyperparams.max_length) is an answer's: the "
            "system turn or the prompt fills them; shorten it or raise hyperparams.max_length",
        )
    return TokenCount(num_tokens, num_supervised, truncated)
