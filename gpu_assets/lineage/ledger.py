"""The ledger: from the validations of all datasets to totals by generator and by validator.

Every validation counts as one, also a second one of the same dataset. Rows, tokens and duplicates count once a
dataset, as its newest validation found them, since a later look at the same rows corrects the earlier one: for
generators the newest of all, which may name another generator after the sidecar was corrected, and for a
validator the newest of those that it made in this version.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gpu_assets.datasets.validations import Validation
from gpu_assets.lineage.records import Day, Entry, Rows, Verdicts, percent

UNVERSIONED = "?"
Series = Mapping[str, Sequence[tuple[datetime, float]]]


@dataclass(frozen=True)
class Ledger:
    """Entries by id; `over_time` has a day for each on which something was validated.

    `shares` is the share of each generator's rows that did not go on, after each of its validations.
    """

    validations: int
    last_updated: str | None
    generators: Mapping[str, Entry]
    validators: Mapping[str, Entry]
    over_time: Sequence[Day]
    shares: Series

    @property
    def worst_offenders(self) -> list[Entry]:
        """Generators of whose rows too many did not go on, or of whose datasets too many were refused; worst first."""
        offenders = [entry for entry in self.generators.values() if entry.is_offender]
        return sorted(offenders, key=lambda entry: (-entry.lost_share, entry.id))

    @property
    def failed(self) -> int:
        return sum(day.failed for day in self.over_time)

    def to_lineage_json(self) -> dict[str, Any]:
        """For programs; equal for equal validations, whenever it is asked for."""
        return {
            "total_validations": self.validations,
            "last_updated": self.last_updated,
            "generators": {name: entry.to_json("by_validator") for name, entry in self.generators.items()},
            "validators": {name: entry.to_json("by_generator") for name, entry in self.validators.items()},
            "summary": {
                "total_generators": len(self.generators),
                "total_validators": len(self.validators),
                "worst_generator": _worst(self.generators),
                "worst_validator": _worst(self.validators),
                "overall_fail_rate": percent(self.failed, self.validations),
                "worst_offenders": [
                    {**entry.headline(), "top_errors": entry.rows.top_rules} for entry in self.worst_offenders
                ],
            },
            "over_time": [day.to_json() for day in self.over_time],
        }


def build_ledger(validations: Iterable[Validation]) -> Ledger:
    """The ledger of validations, given in the order in which they were made."""
    made = list(validations)
    newest = {id(found) for found in _newest(made)}
    over_time, shares = _history(made)
    return Ledger(
        validations=len(made),
        last_updated=made[-1].at if made else None,
        generators=_entries(made, _generators_of, _validators_of, lambda group: [v for v in group if id(v) in newest]),
        validators=_entries(made, _validators_of, _generators_of, _newest),
        over_time=over_time,
        shares=shares,
    )


def generator_of(validation: Validation) -> str:
    return f"{validation.generator_id}@{validation.generator_version or UNVERSIONED}"


def _generators_of(validation: Validation) -> list[str]:
    return [generator_of(validation)]


def _validators_of(validation: Validation) -> list[str]:
    return [f"{name}@{version}" for name, version in validation.validators.items()]


def _newest(validations: Iterable[Validation]) -> list[Validation]:
    """The last validation of each dataset."""
    return list({found.key: found for found in validations}.values())


def _entries(
    validations: Iterable[Validation],
    names_of: Callable[[Validation], list[str]],
    counterparts_of: Callable[[Validation], list[str]],
    standing: Callable[[list[Validation]], list[Validation]],
) -> dict[str, Entry]:
    """An entry a name, sorted by it; `standing` picks the validations of a name that count its rows."""
    groups: defaultdict[str, list[Validation]] = defaultdict(list)
    for found in validations:
        for name in names_of(found):
            groups[name].append(found)
    return {name: _entry(name, groups[name], counterparts_of, standing(groups[name])) for name in sorted(groups)}


def _entry(
    name: str,
    group: list[Validation],
    counterparts_of: Callable[[Validation], list[str]],
    standing: list[Validation],
) -> Entry:
    counterparts: defaultdict[str, list[Validation]] = defaultdict(list)
    for found in group:
        for other in counterparts_of(found):
            counterparts[other].append(found)
    went_on = [found for found in standing if found.passed]
    return Entry(
        id=name,
        verdicts=_verdicts(group),
        counterparts={other: _verdicts(counterparts[other]) for other in sorted(counterparts)},
        datasets=len(standing),
        datasets_refused=len(standing) - len(went_on),
        rows=_rows(standing),
        tokens=sum(found.tokens for found in went_on),
        supervised_tokens=sum(found.supervised_tokens for found in went_on),
        duplicates=sum(found.duplicates for found in standing),
        last_seen=group[-1].at,
    )


def _verdicts(validations: Sequence[Validation]) -> Verdicts:
    return Verdicts(len(validations), sum(found.passed for found in validations))


def _rows(validations: Iterable[Validation]) -> Rows:
    accepted = rejected = refused = 0
    by_rule: Counter[str] = Counter()
    for found in validations:
        accepted += found.accepted if found.passed else 0
        refused += 0 if found.passed else found.accepted
        rejected += found.rejected
        by_rule.update(found.rejected_by_rule)
    return Rows(accepted + rejected + refused, accepted, rejected, refused, dict(by_rule))


def _worst(entries: Mapping[str, Entry]) -> dict[str, Any] | None:
    known = [entry for entry in entries.values() if entry.is_known_well and entry.lost_share > 0]
    return max(known, key=lambda entry: (entry.lost_share, entry.verdicts.failed)).headline() if known else None


@dataclass
class _Standing:
    """Rows of datasets as their newest validations found them, kept up to date one validation at a time."""

    of_dataset: dict[str, Validation] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    def add(self, validation: Validation) -> None:
        if (earlier := self.of_dataset.get(validation.key)) is not None:
            self._count(earlier, -1)
        self._count(validation, 1)
        self.of_dataset[validation.key] = validation

    def _count(self, validation: Validation, sign: int) -> None:
        name = generator_of(validation)
        self.rows[name] += sign * validation.rows
        self.lost[name] += sign * (validation.rejected if validation.passed else validation.rows)


def _history(validations: Iterable[Validation]) -> tuple[list[Day], Series]:
    standing = _Standing()
    shares: defaultdict[str, list[tuple[datetime, float]]] = defaultdict(list)
    total: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    rows_at_end: dict[str, tuple[int, int]] = {}
    for found in validations:
        standing.add(found)
        name, at = generator_of(found), datetime.fromisoformat(found.at).astimezone(UTC)
        if rows := standing.rows[name]:
            shares[name].append((at, standing.lost[name] / rows))
        day = at.date().isoformat()
        total[day] += 1
        passed[day] += found.passed
        rows_at_end[day] = (standing.rows.total(), standing.lost.total())
    days = [Day(day, total[day], passed[day], total[day] - passed[day], *rows_at_end[day]) for day in sorted(total)]
    return days, dict(shares)
