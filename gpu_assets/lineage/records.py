"""What the ledger holds, as values and in the shape that programs read: rates in percent, two decimals."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gpu_assets.datasets.validations import Validation

TOP_RULES = 5
OFFENDING_SHARE = 0.05
"""Share of rows that did not go on, or of datasets that were refused, above which a generator is a worst offender."""
OFFENDING_DATASETS = 10
"""Datasets before which nobody is called the worst; a second validation of one makes it no second dataset."""


@dataclass(frozen=True)
class Rows:
    """Rows of datasets, each dataset once: `total = accepted + rejected + refused_with_file`.

    `rejected` broke a rule themselves, and `by_rule` adds up to them; `refused_with_file` broke none, but their
    file was refused as a whole.
    """

    total: int = 0
    accepted: int = 0
    rejected: int = 0
    refused_with_file: int = 0
    by_rule: Mapping[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Rows that did not go on."""
        return self.rejected + self.refused_with_file

    @property
    def lost_share(self) -> float:
        return self.lost / self.total if self.total else 0.0

    @property
    def top_rules(self) -> dict[str, int]:
        """The rules that rejected most rows, most first."""
        ordered = sorted(self.by_rule.items(), key=lambda item: (-item[1], item[0]))
        return dict(ordered[:TOP_RULES])

    def to_json(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "refused_with_file": self.refused_with_file,
            "rejected_rate": percent(self.lost, self.total),
            "rejected_by_rule": dict(sorted(self.by_rule.items())),
        }


@dataclass(frozen=True)
class Verdicts:
    """Validations, every one counted."""

    total: int = 0
    passed: int = 0

    @property
    def failed(self) -> int:
        return self.total - self.passed

    def to_json(self) -> dict[str, int]:
        return {"total": self.total, "passed": self.passed, "failed": self.failed}


@dataclass(frozen=True)
class Entry:
    """What is known of one generator, or of one validator, in one version; `id` is `name@version`.

    `counterparts` are the verdicts with each validator, or on each generator. Of the `datasets`, `datasets_refused`
    did not pass. `tokens` are those of rows that went on; `duplicates` were found in `rows`. `last_seen` is ISO 8601.
    """

    id: str
    verdicts: Verdicts
    counterparts: Mapping[str, Verdicts]
    datasets: int
    datasets_refused: int
    rows: Rows
    tokens: int
    supervised_tokens: int
    duplicates: int
    last_seen: str

    @property
    def lost_share(self) -> float:
        """Of its rows that did not go on, or of its datasets that were refused, whichever is larger.

        A file that the spec gate refused was never counted in rows.
        """
        return max(self.rows.lost_share, self.datasets_refused / self.datasets if self.datasets else 0.0)

    @property
    def is_known_well(self) -> bool:
        """Whether so many of its datasets were validated that it may be called the worst."""
        return self.datasets >= OFFENDING_DATASETS

    @property
    def is_offender(self) -> bool:
        """Whether it counts among the worst offenders."""
        return self.is_known_well and self.lost_share > OFFENDING_SHARE

    def to_json(self, counterpart: str) -> dict[str, Any]:
        """`counterpart` is the key of the verdicts by the other side."""
        return {
            **self.verdicts.to_json(),
            "fail_rate": percent(self.verdicts.failed, self.verdicts.total),
            counterpart: {name: verdicts.to_json() for name, verdicts in self.counterparts.items()},
            "last_seen": self.last_seen,
            "top_errors": self.rows.top_rules,
            "datasets": self.datasets,
            "datasets_refused": self.datasets_refused,
            "rows": self.rows.to_json(),
            "tokens": self.tokens,
            "supervised_tokens": self.supervised_tokens,
            "duplicates": self.duplicates,
        }

    def headline(self) -> dict[str, Any]:
        """What the summary says of it."""
        return {
            "id": self.id,
            "fail_rate": percent(self.verdicts.failed, self.verdicts.total),
            "rejected_rate": percent(self.rows.lost, self.rows.total),
            "total": self.verdicts.total,
        }


@dataclass(frozen=True)
class Day:
    """The validations of one day (UTC), and what was known of all rows when it ended."""

    day: str
    validations: int
    passed: int
    failed: int
    rows: int
    rows_lost: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rejected_rate": percent(self.rows_lost, self.rows)}


def percent(part: int, whole: int) -> float:
    """In percent, two decimals; 0 of nothing."""
    return round(100 * part / whole, 2) if whole else 0.0


@dataclass(frozen=True)
class AssetVersion:
    """An asset, or one partition of it, as a run read or wrote it.

    `version` is Dagster's data version, the content's hash. `columns` are pairs of name and type.
    """

    asset: str
    partition: str | None
    version: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    row_count: int | None = None
    validation: Validation | None = None

    @property
    def name(self) -> str:
        return self.asset if self.partition is None else f"{self.asset}/{self.partition}"


@dataclass(frozen=True)
class EndedRun:
    """A run that has ended; times in seconds since the epoch, `error` is the sentence of one that failed."""

    run_id: str
    job: str
    outcome: Literal["COMPLETE", "FAIL", "ABORT"]
    started_at: float
    ended_at: float
    inputs: tuple[AssetVersion, ...]
    outputs: tuple[AssetVersion, ...]
    error: str | None = None
