"""From a dataset that was taken in to a validated one: both gates, Parquet, quarantine.

`datasets/<key>/validated/` holds `rows.parquet` and `report.json`; rejected rows lie in
`quarantine/<key>/` with line number and reason. A dataset that a gate refuses has a reason in
quarantine and no `validated/`; its data stays where it is.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from gpu_assets.datasets.evaluation_items import read_evaluation_items
from gpu_assets.datasets.names import SIDECAR_SUFFIX
from gpu_assets.datasets.past import GeneratorPast
from gpu_assets.datasets.records import (
    Dataset,
    find_dataset,
    forget_refusal,
    join_next_step,
    sidecar_sha256,
    write_refusal,
)
from gpu_assets.datasets.reserved import RESERVED
from gpu_assets.datasets.validated import (
    REPORT_FILE,
    ROWS_FILE,
    VALIDATED_FOLDER,
    VALIDATED_KIND,
    ValidatedDataset,
    drop_kept,
    keep_replaced,
    keep_withdrawn,
    read_validated_folder,
)
from gpu_assets.errors import DatasetInvalid
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Settings, Validation
from resources.artifacts import MANIFEST_FILE, publishing, sha256_file, sha256_json, write_json
from resources.clock import utc_now
from resources.workspace import Workspace
from validators import (
    VALIDATORS,
    DatasetSpec,
    DataValidator,
    Level,
    Limits,
    RejectedRow,
    Report,
    Rule,
    Sidecar,
    SpecValidator,
    check_generator,
    read_columns,
    read_sidecar,
)
from validators.contamination import EvaluationIndex
from validators.duplicates import DuplicateFinder, text_entries
from validators.history import RowHistory
from validators.rows import Message, completion_turns
from validators.sinks import RowCollector

REJECTED_FILE = "rejected.jsonl"
REASON_FILE = "reason.json"
_ROWS_AT_ONCE = 4096

MENDED_BY_A_SETTING = frozenset({Rule.TOO_MANY_REJECTED, Rule.TRUNCATED, Rule.UNKNOWN_COLUMN})
"""Rules whose limit is a setting; their messages name it."""


class GateRefused(DatasetInvalid):
    """A gate refused the dataset; `gate` says which.

    `next_step` is empty where the sentence says it already. `sidecar` is there where it could be read, `report`
    where the file was read to its end.
    """

    def __init__(
        self,
        sentence: str,
        gate: Literal["spec", "content"],
        next_step: str = "",
        sidecar: Sidecar | None = None,
        report: Report | None = None,
    ) -> None:
        super().__init__(sentence)
        self.gate = gate
        self.next_step = next_step
        self.sidecar = sidecar
        self.report = report

    @property
    def with_next_step(self) -> str:
        return join_next_step(str(self), self.next_step)


@dataclass(frozen=True)
class Gates:
    """Both gates, configured once for many datasets."""

    spec: SpecValidator
    content: DataValidator
    thresholds: Validation
    workspace: Workspace
    past: GeneratorPast
    renderer: Renderer
    job: Mapping[str, Any]
    """What the platform knows of every training job: its base model and `max_length`."""

    @classmethod
    def build(cls, settings: Settings, workspace: Workspace, renderer: Renderer) -> "Gates":
        thresholds = settings.validation
        content = DataValidator(
            renderer,
            Limits(thresholds, settings.hyperparams.max_length),
            RESERVED,
            EvaluationIndex.build(read_evaluation_items(workspace), thresholds.boilerplate_items),
        )
        job = {"base_model": settings.model_name, "max_length": settings.hyperparams.max_length}
        return cls(SpecValidator(), content, thresholds, workspace, GeneratorPast(workspace), renderer, job)

    def validate(self, dataset: Dataset) -> ValidatedDataset:
        """Pass a dataset through both gates.

        Side effects: `datasets/<key>/validated/` where it passes, `quarantine/<key>/` where rows are
        rejected or it does not pass.

        Raises:
            GateRefused: with the sentence of the gate that refused it.
        """
        self._forget_earlier_verdict(dataset)
        if dataset.refused is not None:
            raise GateRefused(dataset.refused, "spec")
        with RowHistory.open(self.workspace.row_history, read_only=False) as history:
            try:
                sidecar, report, accepted = self._pass_both(dataset, history)
            except GateRefused as refusal:
                history.forget(dataset.key)
                self.past.forget(dataset.key)
                self._keep_refusal(dataset, refusal)
                raise
        if "length_histogram" in report.stats:
            self.past.add(sidecar.generator_id, dataset.key, report.stats["length_histogram"])
        published = _publish(self.workspace, dataset, sidecar, report, accepted)
        forget_refusal(dataset.folder)
        return published

    def _pass_both(self, dataset: Dataset, history: RowHistory) -> tuple[Sidecar, Report, pl.DataFrame]:
        """What both gates found, and the accepted rows, which the history then knows."""
        sidecar, spec = self._pass_spec_gate(dataset)
        finder = DuplicateFinder(history, dataset.key, self.thresholds.near_duplicate_similarity)
        report, rows = self._read(dataset, sidecar, spec, finder)
        self._quarantine(dataset, rows.rejected)
        if not report.valid:
            raise GateRefused(report.headline(), "content", _mend_rows(dataset, report), sidecar, report)
        accepted = rows.accepted()
        signed = report.level is Level.DEEP
        entries = finder.entries(accepted["line"].to_numpy()) if signed else text_entries(_conversations(accepted))
        history.replace(dataset.key, entries)
        return sidecar, report, accepted

    def _read(
        self, dataset: Dataset, sidecar: Sidecar, spec: DatasetSpec, finder: DuplicateFinder
    ) -> tuple[Report, RowCollector]:
        rows = RowCollector(spec.kind)
        try:
            report = self.content.validate_file(
                dataset.data_path,
                spec,
                level=None,
                sink=rows,
                generator_id=sidecar.generator_id,
                duplicates=finder,
                past=self.past.lengths(sidecar.generator_id, excluding=dataset.key),
            )
        except DatasetInvalid as error:
            raise GateRefused(str(error), "content", _retry(dataset), sidecar) from None
        return replace(report, path=dataset.original_name), rows

    def _pass_spec_gate(self, dataset: Dataset) -> tuple[Sidecar, DatasetSpec]:
        """The dataset's sidecar and schema, with sentences that call both files as the user does."""
        name, sidecar_name = dataset.original_name, f"{dataset.original_name}{SIDECAR_SUFFIX}"
        next_step = f"Drop a corrected {sidecar_name} into the inbox"
        sidecar = None
        try:
            sidecar = read_sidecar(dataset.sidecar_path, sidecar_name)
            registered = check_generator(
                sidecar, sidecar_name, allow_unregistered=self.thresholds.allow_unregistered_generators
            )
            next_step = _drop_corrected(dataset)
            columns = read_columns(dataset.data_path, self.thresholds.max_row_bytes, name)
            next_step = f"Drop a {sidecar_name} that names the schema, or a corrected {name}, into the inbox"
            spec = self.spec.choose(sidecar.schema_id, columns).spec
            job = {**self.job, "dataset_path": str(dataset.data_path), "schema_id": spec.id}
            return registered, self.spec.validate_job(job, sidecar.extra)
        except DatasetInvalid as error:
            raise GateRefused(str(error), "spec", next_step, sidecar) from None

    def _forget_earlier_verdict(self, dataset: Dataset) -> None:
        for name in (REASON_FILE, REPORT_FILE, REJECTED_FILE):
            if dataset.refused is None:
                (self.workspace.quarantine / dataset.key / name).unlink(missing_ok=True)

    def _quarantine(self, dataset: Dataset, rejected: Sequence[RejectedRow]) -> None:
        if not rejected:
            return
        folder = self.workspace.quarantine / dataset.key
        folder.mkdir(parents=True, exist_ok=True)
        rows = (json.dumps(row.to_row(), ensure_ascii=False) for row in rejected)
        (folder / REJECTED_FILE).write_text("\n".join(rows) + "\n", encoding="utf-8")

    def _keep_refusal(self, dataset: Dataset, refusal: GateRefused) -> None:
        """Reason and report to quarantine, what was accepted before beside them, and the refusal to the dataset."""
        folder = self.workspace.quarantine / dataset.key
        folder.mkdir(parents=True, exist_ok=True)
        reason = {
            "kind": "refusal",
            "sentence": str(refusal),
            "original_name": dataset.original_name,
            "data": str(dataset.data_path),
            "next_step": refusal.next_step,
            "at": utc_now(),
        }
        write_json(folder / REASON_FILE, reason)
        keep_withdrawn(self.workspace, dataset.key)
        if refusal.report is not None:
            write_json(folder / REPORT_FILE, refusal.report.to_json())
        write_refusal(dataset.folder, str(refusal), dict(VALIDATORS), sidecar_sha256(dataset.folder), refusal.next_step)


def dataset_to_validate(workspace: Workspace, key: str) -> Dataset:
    """The dataset of a key, whose copy must still be what was taken in.

    Raises:
        SettingsError: if there is none.
        DatasetInvalid: if its data was changed after it was taken in, or cannot be read.
    """
    dataset = find_dataset(workspace, key)
    if dataset.refused is None:
        try:
            found = sha256_file(dataset.data_path)
        except OSError as error:
            raise DatasetInvalid(
                f"{dataset.data_path} cannot be read ({error.strerror}): restore the file or its rights. "
                f"{_retry(dataset)}"
            ) from None
        if found != dataset.sha256:
            raise DatasetInvalid(
                f"{dataset.data_path} was changed after it was taken in: its content is {found[:8]}, its manifest says "
                f"{dataset.sha256[:8]}. Drop the changed file into the inbox, where it becomes a dataset of its own"
            )
    return dataset


def _conversations(accepted: pl.DataFrame) -> Iterator[tuple[int, Sequence[Message]]]:
    """Lines and their turns."""
    for rows in accepted.iter_slices(_ROWS_AT_ONCE):
        lines = rows["line"].to_list()
        if "text" in rows.columns:
            yield from ((line, completion_turns(text)) for line, text in zip(lines, rows["text"], strict=True))
        else:
            chats = rows["messages"].to_list()
            yield from ((line, [Message(**turn) for turn in chat]) for line, chat in zip(lines, chats, strict=True))


def _drop_corrected(dataset: Dataset) -> str:
    return f"Drop a corrected {dataset.original_name} into the inbox, where it becomes a dataset of its own"


def _retry(dataset: Dataset) -> str:
    return f"When the cause is corrected, run: gpu-assets queue retry {dataset.key}"


def _mend_rows(dataset: Dataset, report: Report) -> str:
    """A retry helps only where a setting could let the file pass."""
    rules = {problem.rule for problem in report.blocking}
    if not report.accepted or not rules <= MENDED_BY_A_SETTING:
        return _drop_corrected(dataset)
    return f"{_drop_corrected(dataset)}; or change the setting and run: gpu-assets queue retry {dataset.key}"


def _publish(
    workspace: Workspace, dataset: Dataset, sidecar: Sidecar, report: Report, accepted: pl.DataFrame
) -> ValidatedDataset:
    """The accepted rows in the place of those before, which are kept if they are others."""
    rows_sha256 = sha256_json(accepted["row_sha256"].to_list())
    keep_replaced(workspace, dataset.key, rows_sha256)
    with publishing(dataset.folder / VALIDATED_FOLDER) as temporary:
        accepted.write_parquet(temporary / ROWS_FILE)
        write_json(temporary / REPORT_FILE, report.to_json())
        manifest = {
            "kind": VALIDATED_KIND,
            "format": 1,
            "key": dataset.key,
            "dataset_sha256": dataset.sha256,
            "rows_sha256": rows_sha256,
            "schema": report.schema,
            "accepted": report.accepted,
            "rejected": report.rejected,
            "generator": {
                "id": sidecar.generator_id,
                "version": sidecar.generator_version,
                "inferred": sidecar.inferred,
            },
            "validators": dict(report.validators),
            "headline": report.headline(),
            "validated_at": utc_now(),
        }
        write_json(temporary / MANIFEST_FILE, manifest)
    drop_kept(workspace, dataset.key, rows_sha256)
    return read_validated_folder(dataset.folder / VALIDATED_FOLDER)
