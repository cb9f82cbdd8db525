"""The asset of the lineage stage, at home on the trainer; needs no GPU."""

from collections.abc import Iterable, Mapping

import dagster as dg

from gpu_assets.lineage.events import NEWEST_COUNTED, Observed, ended_runs, read_ended_run, read_validations
from gpu_assets.lineage.ledger import Ledger, build_ledger
from gpu_assets.lineage.records import OFFENDING_DATASETS, OFFENDING_SHARE, Entry, percent
from resources.artifacts import sha256_json
from resources.platform import Platform
from resources.plots import markdown_picture, shares_over_time
from resources.routing import Routing

GROUP = "lineage"
CHECK = "no_worst_offender"
EXPORTED_PER_RUN = 100
"""Runs whose OpenLineage file a ledger run writes at most; what is more waits for the next."""
PICTURED = 8
SHOWN = 50
HEADINGS = (
    "validations",
    "failed",
    "datasets",
    "refused",
    "rows",
    "lost",
    "lost %",
    "top rules",
    "tokens",
    "duplicates",
    "last seen",
)
Described = dict[str, dg.MetadataValue | str | int | float]


def build(routing: Routing) -> list[dg.AssetsDefinition]:
    """The stage's assets."""

    @dg.asset(
        group_name=GROUP,
        kinds={"python"},
        tags=routing.tags("trainer"),
        deps=["validated_datasets"],
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset="generator_ledger",
                description=f"No generator lost over {OFFENDING_SHARE:.0%} of its rows, or had as many of its "
                f"datasets refused, in {OFFENDING_DATASETS} datasets or more.",
            )
        ],
    )
    def generator_ledger(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """Per generator and per validator: totals, failures, rows by rule, worst offenders."""
        from gpu_assets.lineage.openlineage import export_runs

        observed = read_validations(context.instance)
        for sentence in observed.unreadable:
            context.log.warning(f"not counted: {sentence}")
        ledger = build_ledger(observed.validations)
        exported = export_runs(
            platform.workspace,
            ended_runs(context.instance),
            lambda run_id: read_ended_run(context.instance, run_id),
            EXPORTED_PER_RUN,
        )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(sha256_json(ledger.to_lineage_json())),
            metadata={**_describe(ledger, observed), "runs_exported": len(exported)},
            check_results=[_check(ledger)],
        )

    return [generator_ledger]


def _check(ledger: Ledger) -> dg.AssetCheckResult:
    offenders = ledger.worst_offenders
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not offenders,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(_sentence(entry) for entry in offenders),
        metadata={"worst_offenders": dg.MetadataValue.json([entry.headline() for entry in offenders])},
    )


def _sentence(entry: Entry) -> str:
    rules = ", ".join(f"{rule} {count:,}" for rule, count in entry.rows.top_rules.items())
    lost = f"{entry.id} lost {entry.rows.lost:,} of {entry.rows.total:,} rows ({entry.rows.lost_share:.1%})"
    refused = f", {entry.datasets_refused:,} of {entry.datasets:,} datasets refused" if entry.datasets_refused else ""
    return f"{lost} in {entry.verdicts.total:,} validations{refused}" + (f": {rules}" if rules else "")


def _describe(ledger: Ledger, observed: Observed) -> Described:
    rows = [entry.rows for entry in ledger.generators.values()]
    total, lost = sum(found.total for found in rows), sum(found.lost for found in rows)
    return {
        NEWEST_COUNTED: observed.newest_id if observed.newest_id is not None else 0,
        "validations": ledger.validations,
        "validations_failed": ledger.failed,
        "num_generators": len(ledger.generators),
        "num_validators": len(ledger.validators),
        "rows": total,
        "rows_lost": lost,
        "rejected_rate_percent": percent(lost, total),
        "num_worst_offenders": len(ledger.worst_offenders),
        "worst_offenders": dg.MetadataValue.md(
            "\n".join(f"- {_sentence(entry)}" for entry in ledger.worst_offenders) or "none"
        ),
        "num_unreadable": len(observed.unreadable),
        "unreadable": dg.MetadataValue.json(list(observed.unreadable[-SHOWN:])),
        "generators": dg.MetadataValue.md(_table("generator", ledger.generators.values())),
        "validators": dg.MetadataValue.md(_table("validator", ledger.validators.values())),
        "over_time": dg.MetadataValue.json([day.to_json() for day in ledger.over_time[-SHOWN:]]),
        "rejected_over_time": dg.MetadataValue.md(_picture(ledger)),
        "ledger": dg.MetadataValue.json(_bounded(ledger)),
    }


def _table(what: str, entries: Iterable[Entry]) -> str:
    """As Markdown, those that lost most first."""
    headings = (what, *HEADINGS)
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    ordered = sorted(entries, key=lambda entry: (-entry.lost_share, entry.id))
    lines += [f"| {' | '.join(_cells(entry))} |" for entry in ordered[:SHOWN]]
    return "\n".join(lines)


def _cells(entry: Entry) -> list[str]:
    rows = entry.rows
    return [
        entry.id.replace("|", r"\|"),
        f"{entry.verdicts.total:,}",
        f"{entry.verdicts.failed:,}",
        f"{entry.datasets:,}",
        f"{entry.datasets_refused:,}",
        f"{rows.total:,}",
        f"{rows.lost:,}",
        f"{percent(rows.lost, rows.total):.2f}",
        ", ".join(f"{rule} {count:,}" for rule, count in rows.top_rules.items()),
        f"{entry.tokens:,}",
        f"{entry.duplicates:,}",
        entry.last_seen,
    ]


def _picture(ledger: Ledger) -> str:
    by_rows = sorted(ledger.shares, key=lambda name: -ledger.generators[name].rows.total)
    pictured = {name: ledger.shares[name] for name in by_rows[:PICTURED]}
    figure = shares_over_time(pictured, OFFENDING_SHARE, "rows lost, %")
    return markdown_picture(figure, "share of each generator's rows that did not go on, over time")


def _bounded(ledger: Ledger) -> Mapping[str, object]:
    """The ledger as programs read it, without the days, which are an entry of their own."""
    return {name: value for name, value in ledger.to_lineage_json().items() if name != "over_time"}
