"""The check of real rows: each answer is trained after exactly the tokens that the server prompts with."""

from pathlib import Path

import polars as pl

from gpu_assets.errors import RenderingError
from gpu_assets.rendering import Renderer
from gpu_assets.rendering.parity import prefix_fault

PARITY_CHECK = "prefix_parity"
CHECKED_ROWS = 64
"""Of a dataset, spread evenly over it: what a template or a profile does to one conversation it does to all."""


class PromptSkew(RenderingError):
    """A model is or would be trained after other tokens than it is prompted with."""


def parity_fault(rows_path: Path, renderer: Renderer) -> str | None:
    """What differs in the first row that differs, or None; plain texts have no prompts."""
    rows = pl.scan_parquet(rows_path)
    if "messages" not in rows.collect_schema():
        return None
    num_rows = rows.select(pl.len()).collect().item()
    step = max(1, num_rows // CHECKED_ROWS)
    conversations = rows.select("messages").gather_every(step).collect()["messages"].to_list()
    for place, messages in enumerate(conversations):
        fault = prefix_fault(renderer, renderer.training_samples(messages), messages)
        if fault is not None:
            return f"accepted row {place * step + 1}: {fault}"
    return None
