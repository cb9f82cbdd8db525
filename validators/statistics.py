"""Statistics of accepted rows: lengths, truncation and balance."""

from typing import Any

import polars as pl

from validators.spec import Kind

SHARE_DIGITS = 6


def token_statistics(accepted: pl.DataFrame, max_length: int) -> dict[str, Any]:
    """Token counts per row, before any cut, and what `max_length` cuts; empty if nothing was counted."""
    tokens, supervised = accepted["num_tokens"].drop_nulls(), accepted["num_supervised"].drop_nulls()
    if tokens.is_empty():
        return {}
    return {
        "max_length": max_length,
        "num_tokens": _distribution(tokens),
        "num_supervised": _distribution(supervised),
        "supervised_share": _share(int(supervised.sum()), int(tokens.sum())),
        "truncated_rows": int(accepted["truncated"].sum()),
        "truncated_share": _share(int(accepted["truncated"].sum()), accepted.height),
    }


def balance_statistics(accepted: pl.DataFrame, kind: Kind) -> dict[str, Any]:
    """Characters per role and how many answers differ; of completions, how many texts differ."""
    if accepted.is_empty():
        return {}
    if kind == "completion":
        texts = accepted["text"]
        characters = {"text": int(texts.str.len_chars().sum())}
        return {"characters": characters, "distinct_texts_share": _share(texts.n_unique(), texts.len())}
    turns = accepted.select(pl.col("messages").explode()).unnest("messages")
    by_role = turns.group_by("role").agg(pl.col("content").str.len_chars().sum()).sort("role")
    characters = {str(role): int(count) for role, count in by_role.iter_rows()}
    answers = turns.filter(pl.col("role") == "assistant")["content"]
    return {
        "characters": characters,
        "turns": turns.height,
        "answer_to_prompt_ratio": _share(characters.get("assistant", 0), characters.get("user", 0)),
        "distinct_answers_share": _share(answers.n_unique(), answers.len()),
    }


def _distribution(values: pl.Series) -> dict[str, int]:
    quantiles = {"min": 0.0, "median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    picked = {name: int(values.quantile(at, "nearest") or 0) for name, at in quantiles.items()}
    return {**picked, "total": int(values.sum())}


def _share(part: int, whole: int) -> float:
    return round(part / whole, SHARE_DIGITS) if whole else 0.0
