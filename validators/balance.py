"""What the rows of a file show together: skills out of bounds, one answer too often, drift from the past."""

import math
from collections.abc import Iterator, Sequence

import polars as pl

from gpu_assets.settings import SkillBounds, Validation
from validators.policy import Policy
from validators.quoting import quote
from validators.report import Finding, Rule
from validators.rows import Message
from validators.statistics import length_histogram

MIN_ROWS = 100
"""Shares of fewer rows say little."""
SHORT_PROMPT = 40
"""Characters; a shorter prompt, such as "Write a story", may ask for as much as one of this length."""
SHORT_ANSWER = 10
"""Characters; a number or a label may answer a long prompt."""


def find_imbalance(rows: pl.DataFrame, policy: Policy, past: Sequence[int] | None = None) -> Iterator[Finding]:
    """What a file's rows show together, of those with at least 100 rows.

    Args:
        rows: as `RowStatistics.rows` gives them.
        past: the length histogram of what the same generator made before, or None if it made nothing.
    """
    thresholds = policy.thresholds
    for skill, bounds in thresholds.skills.items():
        yield from _find_outside(rows.filter(skill=skill), skill, bounds)
    if rows.height < MIN_ROWS:
        return
    if past is not None and sum(past) >= MIN_ROWS:
        yield from _find_drift(length_histogram(rows["total"]), past, thresholds.max_drift)
    commonest = rows["answer"].value_counts(sort=True)
    share = commonest["count"][0] / rows.height
    if share > thresholds.max_answer_share:
        yield Finding(
            Rule.ANSWER_BALANCE,
            f"{share:.1%} of {rows.height:,} rows have the same answer, over the limit of "
            f"{thresholds.max_answer_share:.1%} (validation.max_answer_share)",
        )


def find_imbalanced_turns(messages: Sequence[Message], thresholds: Validation) -> Finding | None:
    """Whether all that is asked is many times as long as all that is answered, or the other way round."""
    answered = sum(len(message.content) for message in messages if message.role == "assistant")
    asked = sum(len(message.content) for message in messages) - answered
    if answered > thresholds.max_answer_ratio * max(asked, SHORT_PROMPT) or (
        answered > SHORT_ANSWER and asked > thresholds.max_prompt_ratio * answered
    ):
        return Finding(Rule.PROMPT_ANSWER_RATIO, f"{asked:,} characters asked, {answered:,} answered")
    return None


def population_stability(expected: Sequence[int], observed: Sequence[int]) -> float:
    """The population stability index of two histograms over the same bins; below 0.1 they are alike.

    Sum of (o - e) ln(o / e) over the bins' shares (Siddiqi, Credit Risk Scorecards, 2006), every bin
    with half a row more so that empty ones are finite.
    """
    bins = [(e, o) for e, o in zip(expected, observed, strict=True) if e or o]
    totals = sum(expected) + len(bins) / 2, sum(observed) + len(bins) / 2
    shares = [((e + 0.5) / totals[0], (o + 0.5) / totals[1]) for e, o in bins]
    return sum((o - e) * math.log(o / e) for e, o in shares)


def _find_outside(rows: pl.DataFrame, skill: str, bounds: SkillBounds) -> Iterator[Finding]:
    if rows.height < MIN_ROWS:
        return
    name = quote(skill)
    outside = rows.filter(~pl.col("total").is_between(bounds.min_tokens, bounds.max_tokens)).height / rows.height
    if outside > bounds.tolerance:
        yield Finding(
            Rule.LENGTH_BOUNDS,
            f"{outside:.1%} of the rows of skill {name} are not of {bounds.min_tokens} to {bounds.max_tokens:,} "
            f"tokens, over the limit of {bounds.tolerance:.1%} (validation.skills)",
        )
    diversity = rows["answer"].n_unique() / rows.height
    if bounds.min_diversity is not None and diversity < bounds.min_diversity:
        yield Finding(
            Rule.ANSWER_DIVERSITY,
            f"{diversity:.1%} of the answers of skill {name} are distinct, under the limit of "
            f"{bounds.min_diversity:.1%} (validation.skills)",
        )


def _find_drift(observed: Sequence[int], past: Sequence[int], limit: float) -> Iterator[Finding]:
    index = population_stability(past, observed)
    if index > limit:
        yield Finding(
            Rule.DRIFT,
            f"row lengths are unlike what the generator made before: population stability index {index:.2f}, over the "
            f"limit of {limit:.2f} (validation.max_drift)",
        )
