"""The state that a parent's optimizer left, to be gone on with or not. Torch code: import inside the function that
needs it.
"""

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import Hyperparams
from gpu_assets.training.optimizers import require_libraries
from gpu_assets.training.publish import OPTIMIZER_KIND, optimizer_of
from gpu_assets.training.records import Parent
from gpu_assets.training.sharding import cut_state
from resources.artifacts import read_manifest, require_as_written
from resources.workspace import Workspace

STATE_FILE = "optimizer.bin"
FACTS_FILE = "optimizer.json"


def find_state(parent: Parent, hyperparams: Hyperparams, workspace: Workspace) -> str | None:
    """The sha256 of the state that a run with these hyperparameters goes on with; None if the parent is a base model.

    Raises:
        ArtifactInvalid: why the state of a checkpoint is not gone on with.
        SettingsError: if the optimizer needs a library that is not installed.
    """
    if parent.kind == "base_model":
        return None
    if hyperparams.lora.rank:
        raise ArtifactInvalid("the adapters of LoRA are new, and so is the optimizer's state")
    folder = optimizer_of(parent.weights_sha256, workspace)
    if folder is None:
        raise ArtifactInvalid(f"no optimizer's state of {parent.name} is kept")
    try:
        files = _hashes_that_hold(folder)
        _require_type(folder, hyperparams)
        require_libraries(hyperparams)
        _require_numbers(folder / STATE_FILE)
    except ArtifactInvalid as error:
        raise ArtifactInvalid(f"the optimizer's state of {parent.name} cannot be gone on with: {error}") from None
    return files[STATE_FILE]


def load_parent_state(folder: Path, optimizer: torch.optim.Optimizer) -> int:
    """Go on with a parent's optimizer state; its settings are the run's own.

    Returns:
        The optimizer steps that the state has been through.

    Raises:
        ArtifactInvalid: if it is no state of this optimizer.
    """
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    state = _read_state(folder / STATE_FILE)
    try:
        optimizer.load_state_dict(cut_state(state, optimizer))
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactInvalid(
            f"{folder / STATE_FILE} is no state of this run's optimizer: {type(error).__name__}: {error}; move "
            f"{folder} away and materialize checkpoints again, with a new state"
        ) from error
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    return int(_facts(folder)["steps"])


def save_state(folder: Path, state: Mapping[str, Any], hyperparams: Hyperparams, steps: int) -> None:
    """Keep a whole state, what it is a state of, and how many optimizer steps it has been through."""
    torch.save(state, folder / STATE_FILE)
    facts = {"type": optimizer_type(hyperparams), "steps": steps}
    (folder / FACTS_FILE).write_text(json.dumps(facts), encoding="utf-8")


def optimizer_type(hyperparams: Hyperparams) -> str:
    """What a state must be of to be gone on from: the optimizer, and the precision of the weights."""
    return f"{hyperparams.optimizer.type}, {hyperparams.weights_precision}"


def _hashes_that_hold(folder: Path) -> dict[str, str]:
    """The hashes of the files, which hold.

    Raises:
        ArtifactInvalid: naming the first file that differs from its manifest.
    """
    files = read_manifest(folder, OPTIMIZER_KIND).get("files")
    if not isinstance(files, dict) or not files.keys() >= {STATE_FILE, FACTS_FILE}:
        raise ArtifactInvalid(f"the manifest of {folder} names no hashes of {STATE_FILE} and {FACTS_FILE}")
    require_as_written(folder, files)
    return files


def _require_type(folder: Path, hyperparams: Hyperparams) -> None:
    found, wanted = _facts(folder)["type"], optimizer_type(hyperparams)
    if found != wanted:
        raise ArtifactInvalid(f"it is of {found}, this run's is {wanted}")


def _require_numbers(path: Path) -> None:
    state = _read_state(path, mmap=True)
    for index, values in state["state"].items():
        for name, value in values.items():
            if not all(_is_finite(tensor) for tensor in _plain(value)):
                raise ArtifactInvalid(f"{name} of parameter {index} in {path} is not finite")


def _read_state(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """On the host, whatever the device: the optimizer knows what belongs where."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, OSError) as error:
        raise ArtifactInvalid(f"{path} is no optimizer's state: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict) or not state.keys() >= {"state", "param_groups"}:
        raise ArtifactInvalid(f"{path} is no optimizer's state")
    return state


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactInvalid(f"{path} cannot be read: {error}") from None
    if not isinstance(facts, dict) or not facts.keys() >= {"type", "steps"}:
        raise ArtifactInvalid(f"{path} does not say what it is a state of, and how many steps it has been through")
    return facts


def _plain(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of a value; a quantized one is made of several, and some libraries put several under one name."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _plain(part)
        return
    if not isinstance(value, torch.Tensor):
        return
    if type(value) is torch.Tensor:
        yield value
        return
    names, _ = value.__tensor_flatten__()  # type: ignore[attr-defined]
    for name in names:
        yield from _plain(getattr(value, name))


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
