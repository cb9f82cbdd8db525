"""What the training stage reads and writes, as values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpu_assets.base_model.records import BaseModel, RendererRecord
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import Hyperparams
from gpu_assets.training.batches import Layout
from resources.artifacts import read_manifest, sha256_json

CHECKPOINT_KIND = "checkpoint"
BASE_WEIGHTS = "base_weights_sha256"
"""Metadata of a materialization of `checkpoints`: the line that it is in."""
DETERMINED_KEYS = frozenset(
    {
        "kind",
        "format",
        "name",
        "model_name",
        "step",
        "weights_sha256",
        "plan_id",
        "parent",
        "base_weights_sha256",
        "datasets",
        "replay",
        "architecture",
        "renderer",
        "hyperparams",
        "config_sha256",
        "optimizer_state",
        "fresh_optimizer",
        "rows",
        "times_seen",
        "epochs",
        "tokens",
        "padding_share",
        "masks",
        "loss",
        "loss_curve",
        "gradient_norm_curve",
        "learning_rate_curve",
        "rollbacks",
    }
)
"""Keys of a checkpoint's manifest that follow from its plan, on a CPU to the last bit."""
MEASURED_KEYS = frozenset(
    {
        "sequence",
        "measured",
        "device",
        "resumed_from_step",
        "micro_batch_splits",
        "duration_s",
        "created_at",
        "fingerprint",
    }
)
"""The others, which differ between runs, machines and homes: `sequence` counts what a home published, `fingerprint` has
log-probabilities, whose last digits are the machine's.
"""


@dataclass(frozen=True)
class Parent:
    """The model that training goes on from."""

    kind: Literal["base_model", "checkpoint"]
    name: str
    folder: Path
    weights_sha256: str
    base_weights_sha256: str
    step: int

    @classmethod
    def of_base(cls, base: BaseModel) -> "Parent":
        return cls("base_model", base.name, base.folder, base.weights_sha256, base.weights_sha256, step=0)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "weights_sha256": self.weights_sha256, "step": self.step}


@dataclass(frozen=True)
class TrainingDataset:
    """A validated dataset as training sees it; `rows_sha256` identifies its accepted rows in their order."""

    key: str
    rows_path: Path
    rows_sha256: str
    rows: int

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "sha256": self.rows_sha256, "rows": self.rows}


@dataclass(frozen=True)
class ReplayedRows:
    """Rows of an earlier dataset that are trained on again, by their hashes, ascending."""

    key: str
    rows_path: Path
    rows_sha256: str
    row_hashes: tuple[str, ...]

    @property
    def rows(self) -> int:
        return len(self.row_hashes)

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "sha256": self.rows_sha256,
            "rows": self.rows,
            "row_hashes_sha256": sha256_json(list(self.row_hashes)),
        }


@dataclass(frozen=True)
class Numerics:
    """What of the machine decides the batches and the numbers; `device` is torch's type, such as cpu or cuda.

    `processes` and `sharding` are those of settings.distributed: sums over processes are taken in another order.
    """

    device: str
    precision: Literal["fp32", "bf16"]
    layout: Layout
    processes: int = 1
    sharding: Literal["none", "full"] = "none"

    @property
    def shards(self) -> int:
        """The devices among which weights and states are cut up."""
        return self.processes if self.sharding == "full" else 1

    def __str__(self) -> str:
        alone = f"{self.device}, {self.precision}, {self.layout}"
        return alone if self.processes == 1 else f"{alone}, {self.processes} processes, sharding {self.sharding}"


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides the weights of the next checkpoint; equal plans give equal weights."""

    model_name: str
    parent: Parent
    datasets: tuple[TrainingDataset, ...]
    hyperparams: Hyperparams
    renderer: RendererRecord
    numerics: Numerics
    replay: tuple[ReplayedRows, ...] = ()
    optimizer_state: str | None = None
    """sha256 of the parent's optimizer state, which is gone on with; None begins anew."""

    @property
    def config_sha256(self) -> str:
        return sha256_json(self.hyperparams.model_dump())

    @property
    def rows(self) -> int:
        return sum(dataset.rows for dataset in self.datasets)

    @property
    def recipe_id(self) -> str:
        """sha256 of what is trained on what and how, whatever the machine."""
        return sha256_json(
            {
                "parent": self.parent.weights_sha256,
                "datasets": [[dataset.key, dataset.rows_sha256] for dataset in self.datasets],
                "replay": [rows.to_json() for rows in self.replay],
                "config": self.config_sha256,
                "optimizer_state": self.optimizer_state,
                "renderer": self.renderer.digest,
            }
        )

    @property
    def plan_id(self) -> str:
        """sha256 of the plan; names the folder of its resume points."""
        return sha256_json({"recipe": self.recipe_id, "numerics": asdict(self.numerics)})

    def to_json(self) -> dict[str, Any]:
        return {
            "plan_id": self.plan_id,
            "recipe_id": self.recipe_id,
            "numerics": asdict(self.numerics),
            "parent": self.parent.to_json(),
            "datasets": [dataset.to_json() for dataset in self.datasets],
            "replay": [rows.to_json() for rows in self.replay],
            "hyperparams": self.hyperparams.model_dump(),
            "optimizer_state": self.optimizer_state,
            "renderer": self.renderer.to_json(),
        }


@dataclass(frozen=True)
class TokenCount:
    """Tokens of one pass over the data, padding excluded."""

    total: int
    supervised: int


@dataclass(frozen=True)
class Measured:
    """What a run was measured to do, which differs from run to run and machine to machine.

    Rates count each token as often as it was trained on, over all the time that training took. `mfu` is a share of
    `matmul_peak_flops`, the measured operations a second of a matrix product, and None for an unknown model family.
    `gradient_norm` is the mean of the last twentieth of the steps, before clipping; `learning_rate` is the last one.
    """

    tokens_per_s: float
    supervised_tokens_per_s: float
    mfu: float | None
    matmul_peak_flops: float
    gradient_norm: float
    learning_rate: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class TrainingOutcome:
    """The trained model, not yet published.

    `times_seen` is the least and the most that a sequence was seen.
    `loss_curve` holds (step of the line, mean loss a supervised token in nats), ascending; the other curves are alike.
    `masks` is the `masks.MaskCheck` of the batches as JSON.
    `rollbacks` are `guards.Rollback`s as JSON; `micro_batch_splits` is how often micro-batches were halved to fit.
    """

    model_folder: Path
    optimizer_folder: Path | None
    steps: int
    loss: float
    loss_curve: tuple[tuple[int, float], ...]
    gradient_norm_curve: tuple[tuple[int, float], ...]
    learning_rate_curve: tuple[tuple[int, float], ...]
    tokens: TokenCount
    rows_seen: int
    times_seen: tuple[int, int]
    padding_share: float
    seconds: float
    resumed_from_step: int | None
    device: str
    measured: Measured
    rollbacks: tuple[dict[str, Any], ...] = ()
    micro_batch_splits: int = 0
    masks: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint, read from its manifest."""

    folder: Path
    name: str
    step: int
    sequence: int
    weights_sha256: str
    base_weights_sha256: str
    parent_sha256: str
    dataset_keys: tuple[str, ...]
    loss: float
    created_at: str
    manifest: dict[str, Any]

    @property
    def manifest_sha256(self) -> str:
        """sha256 of what is determined in the manifest: the same dataset, config and seed give it again."""
        return sha256_json(determined_part(self.manifest))

    @classmethod
    def read(cls, folder: Path) -> "Checkpoint":
        """The checkpoint in a folder.

        Raises:
            ArtifactInvalid: if the folder has no manifest of a checkpoint, or it lacks a field.
        """
        manifest = read_manifest(folder, CHECKPOINT_KIND)
        try:
            return cls._from_manifest(folder, manifest)
        except (KeyError, TypeError) as error:
            raise ArtifactInvalid(
                f"the manifest of {folder} is not a checkpoint's: {error!r}; move the folder away"
            ) from None

    @classmethod
    def _from_manifest(cls, folder: Path, manifest: dict[str, Any]) -> "Checkpoint":
        return cls(
            folder=folder,
            name=manifest["name"],
            step=manifest["step"],
            sequence=manifest["sequence"],
            weights_sha256=manifest["weights_sha256"],
            base_weights_sha256=manifest["base_weights_sha256"],
            parent_sha256=manifest["parent"]["weights_sha256"],
            dataset_keys=tuple(dataset["key"] for dataset in manifest["datasets"]),
            loss=manifest["loss"],
            created_at=manifest["created_at"],
            manifest=manifest,
        )


def determined_part(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of a checkpoint's manifest follows from its plan."""
    return {key: value for key, value in manifest.items() if key in DETERMINED_KEYS}


def checkpoint_name(step: int, weights_sha256: str) -> str:
    """`checkpoint-<N>-<sha8>`, N the global step of the line."""
    return f"checkpoint-{step}-{weights_sha256[:8]}"


def token_count_json(tokens: TokenCount) -> dict[str, int]:
    return asdict(tokens)
