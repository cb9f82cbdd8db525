"""Assets of taking in: `datasets` and `validated_datasets`, at home on the trainer; neither needs a GPU.

One step carries each file of a range through both, one after the other, so that one bad file
stops nothing: the others are recorded, and the run then fails with the bad ones' sentences.
"""

import time
from collections.abc import Iterator

import dagster as dg
import polars as pl

from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.datasets.observe import validation_of_pass, validation_of_refusal
from gpu_assets.datasets.parity import PARITY_CHECK, PromptSkew, parity_fault
from gpu_assets.datasets.records import DATASETS_PARTITIONS, Dataset
from gpu_assets.datasets.validate import GateRefused, Gates, dataset_to_validate
from gpu_assets.datasets.validated import ValidatedDataset, problem_keys
from gpu_assets.datasets.validations import VALIDATION_METADATA, VALIDATION_TAG, VALIDATION_TAG_VALUE, Validation
from gpu_assets.errors import ArtifactInvalid, EvaluationInvalid, PlatformError
from gpu_assets.rendering import Renderer
from resources.events import check_results, record_materialization
from resources.platform import Platform
from resources.plots import histogram, markdown_picture
from resources.routing import Routing
from serving.skills import binary
from validators import DATASET_SPECS, VALIDATORS, accepted_schema
from validators.spec import Kind

DATASETS = dg.DynamicPartitionsDefinition(name=DATASETS_PARTITIONS)
GROUP = "datasets"
CODE_VERSION = "+".join(f"{name}@{version}" for name, version in VALIDATORS.items())
"""Of both gates: validated datasets of another version are validated again."""
HISTORY_POOL = "row_history"
"""One run at a time writes the history of accepted rows."""
CHECKS = {
    "spec_gate": "datasets",
    "content_gate": "validated_datasets",
    "disjoint_from_evaluation": "validated_datasets",
    PARITY_CHECK: "validated_datasets",
}
"""Check to the asset that shows it."""
DESCRIBING_FAILED = (ArithmeticError, LookupError, OSError, TypeError, ValueError, pl.exceptions.PolarsError)
"""What a fault in one dataset's metadata raises; the other datasets of the run go on."""
Verdicts = dict[str, dict[str, str | None]]
"""Check to dataset to what is wrong with it, None where nothing is."""


def build(routing: Routing) -> list[dg.AssetsDefinition]:
    """The stage's assets, with the trainer's tag."""

    @dg.multi_asset(
        name="gates",
        group_name=GROUP,
        specs=[
            dg.AssetSpec(
                "datasets",
                description="An inbox file and its sidecar, taken in: an immutable copy under its content's hash.",
                kinds={"jsonl"},
                partitions_def=DATASETS,
                skippable=True,
                tags=routing.tags("trainer"),
            ),
            dg.AssetSpec(
                "validated_datasets",
                description="Accepted rows as Parquet; rejected rows, with line number and reason, in quarantine.",
                deps=["datasets", "base_model", "evaluation_sets"],
                code_version=CODE_VERSION,
                kinds={"polars", "parquet"},
                partitions_def=DATASETS,
                skippable=True,
                tags=routing.tags("trainer"),
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec("spec_gate", asset="datasets", description="The file's schema is a known one."),
            dg.AssetCheckSpec("content_gate", asset="validated_datasets", description="Its rows are fit to train on."),
            dg.AssetCheckSpec(
                "disjoint_from_evaluation",
                asset="validated_datasets",
                description="No accepted row asks a problem that is reserved for evaluation.",
            ),
            dg.AssetCheckSpec(
                PARITY_CHECK,
                asset="validated_datasets",
                description="Its answers are trained after exactly the tokens that the server will prompt with.",
            ),
        ],
        can_subset=True,
        pool=HISTORY_POOL,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def gates(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[dg.AssetCheckResult]:
        try:
            both = _gates(platform)
        except PlatformError as error:
            raise dg.Failure(f"no file was looked at: {error}", allow_retries=False) from error
        for sentence in both.past.unreadable:
            context.log.warning(f"left out of what its generator made before: {sentence}")
        refused: dict[str, str] = {}
        verdicts: Verdicts = {check: {} for check in CHECKS}
        for key in context.partition_keys:
            try:
                _take_in_one(context, platform, both, key, verdicts)
            except PlatformError as error:
                refused[key] = error.with_next_step if isinstance(error, GateRefused) else str(error)
                context.log.error(f"{key}: {refused[key]}")
        for check, asset in CHECKS.items():
            yield from check_results(asset, check, verdicts[check])
        if refused:
            raise _failure(refused, len(context.partition_keys))

    return [gates]


def _gates(platform: Platform) -> Gates:
    settings = platform.settings
    model = ensure_base_model(settings, platform.workspace)
    renderer = Renderer.load(model.folder, settings.profile.name, settings.profile.system_prompt)
    return Gates.build(settings, platform.workspace, renderer)


def _take_in_one(
    context: dg.AssetExecutionContext, platform: Platform, gates: Gates, key: str, verdicts: Verdicts
) -> None:
    """One file through both gates; what was reached is recorded, and the verdicts are added.

    Raises:
        GateRefused: with the gate's sentence.
        ArtifactInvalid: if what passed cannot be described; then it is not recorded.
    """
    begun = time.monotonic()
    dataset = dataset_to_validate(platform.workspace, key)
    selected = {asset.to_user_string() for asset in context.selected_asset_keys}
    if "datasets" in selected and dataset.refused is None:
        record_materialization(
            context, "datasets", key, data_version=dataset.sha256, metadata=_describe_dataset(dataset)
        )
    if "validated_datasets" not in selected:
        return
    try:
        validated = _pass_gates(gates, dataset, verdicts)
    except GateRefused as refusal:
        _record_validation(context, validation_of_refusal(dataset, refusal, time.monotonic() - begun))
        raise
    _record_validation(context, validation_of_pass(dataset, validated, time.monotonic() - begun))
    try:
        metadata = _describe_validated(validated, time.monotonic() - begun)
    except DESCRIBING_FAILED as error:
        raise ArtifactInvalid(f"{key} passed both gates, but cannot be described: {error!r}") from error
    record_materialization(
        context,
        "validated_datasets",
        key,
        data_version=validated.rows_sha256,
        metadata=metadata,
        code_version=CODE_VERSION,
    )


def _record_validation(context: dg.AssetExecutionContext, validation: Validation) -> None:
    """One observation a validation, passed or not: a refused dataset has no materialization."""
    event = dg.AssetObservation(
        asset_key="validated_datasets",
        partition=validation.key,
        metadata={VALIDATION_METADATA: dg.MetadataValue.json(validation.to_json())},
        tags={VALIDATION_TAG: VALIDATION_TAG_VALUE},
    )
    context.log_event(event)


def _pass_gates(gates: Gates, dataset: Dataset, verdicts: Verdicts) -> ValidatedDataset:
    try:
        validated = gates.validate(dataset)
    except GateRefused as refusal:
        verdicts["spec_gate"][dataset.key] = str(refusal) if refusal.gate == "spec" else None
        if refusal.gate == "content":
            verdicts["content_gate"][dataset.key] = str(refusal)
        raise
    verdicts["spec_gate"][dataset.key] = verdicts["content_gate"][dataset.key] = None
    leaked = sorted(filter(binary.is_held_out, problem_keys(validated.rows_path)))
    fault = f"{len(leaked)} reserved problems, such as {leaked[0]}" if leaked else None
    verdicts["disjoint_from_evaluation"][dataset.key] = fault
    if fault is not None:
        raise EvaluationInvalid(f"{dataset.key} holds {fault}")
    skew = parity_fault(validated.rows_path, gates.renderer)
    verdicts[PARITY_CHECK][dataset.key] = skew
    if skew is not None:
        raise PromptSkew(f"{dataset.key}, {skew}: the template or the profile shows a model other text than it learns")
    return validated


def _failure(refused: dict[str, str], files: int) -> dg.Failure:
    sentences = " | ".join(f"{key}: {sentence}" for key, sentence in refused.items())
    return dg.Failure(
        f"{len(refused)} of {files} files are refused, the others went on. {sentences}",
        metadata={"refused": dg.MetadataValue.json(refused)},
        allow_retries=False,
    )


def _describe_dataset(dataset: Dataset) -> dict[str, object]:
    return {
        "path": dg.MetadataValue.path(dataset.data_path),
        "sha256": dataset.sha256,
        "size_bytes": dataset.size_bytes,
        "original_name": dataset.original_name,
        "priority": dataset.priority,
        "has_sidecar": dataset.sidecar_path is not None,
        "taken_in_at": dataset.taken_in_at,
    }


def _describe_validated(validated: ValidatedDataset, seconds: float) -> dict[str, object]:
    """Without a histogram of lengths where level QUICK counted no tokens."""
    manifest, stats = validated.manifest, validated.report["stats"]
    rows = pl.scan_parquet(validated.rows_path)
    lengths = rows.select("num_tokens").collect()["num_tokens"].drop_nulls().to_list()
    picture = markdown_picture(histogram(lengths, "tokens of a row"), "tokens of a row") if lengths else None
    described: dict[str, object] = {
        "path": dg.MetadataValue.path(validated.rows_path),
        "dagster/row_count": validated.rows,
        "dagster/column_schema": _column_schema(DATASET_SPECS[validated.schema].kind),
        "rejected": validated.rejected,
        "schema": validated.schema,
        "generator_id": validated.generator_id,
        "generator_version": str(validated.generator_version),
        "generator_inferred": manifest["generator"]["inferred"],
        "validators": dg.MetadataValue.json(manifest["validators"]),
        "problems": dg.MetadataValue.json(validated.report["problems"]),
        "stats": dg.MetadataValue.json(stats),
        "dataset_sha256": manifest["dataset_sha256"],
        "rows_sha256": validated.rows_sha256,
        "duration_s": round(seconds, 3),
    }
    return described if picture is None else described | {"lengths": dg.MetadataValue.md(picture)}


def _column_schema(kind: Kind) -> dg.TableSchema:
    """The pandera schema that accepted rows are held to."""
    columns = accepted_schema(kind).columns.items()
    return dg.TableSchema(
        [
            dg.TableColumn(
                name,
                str(column.dtype),
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=column.unique),
            )
            for name, column in columns
        ]
    )
