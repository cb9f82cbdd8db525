"""Models that a person gave an id: `<home>/serving/registered-models.json`, replaced whole.

An id stands for weights, not for whatever its folder comes to hold. Knows nothing of engines or of what is loaded.
"""

import re
from pathlib import Path

import msgspec

from gpu_assets.errors import ArtifactInvalid, PlatformError
from resources.artifacts import write_json
from resources.clock import utc_now
from serving.inference.loader import ModelFolder

REGISTRY_FILE = "registered-models.json"
RESERVED_ID = re.compile(r"champion|checkpoint-\d+(-[0-9a-f]{8})?|[0-9a-f]{8,64}")


class IdReserved(PlatformError):
    """An id means something else already."""


class Registration(msgspec.Struct, frozen=True):
    """A registered model; `source` is the folder as it was given, `path` where that led."""

    id: str
    path: str
    source: str
    weights_sha256: str
    created_at: str
    tags: list[str]


class _File(msgspec.Struct):
    models: list[Registration]
    format: int = 1


class Registry:
    """What is registered, read once."""

    def __init__(self, file: Path) -> None:
        """Raises:
        ArtifactInvalid: if the file is there and is not what this class wrote.
        """
        self._file = file
        self._models: dict[str, Registration] = {}
        if file.is_file():
            try:
                read = msgspec.json.decode(file.read_bytes(), type=_File)
            except msgspec.DecodeError as error:
                raise ArtifactInvalid(
                    f"{file} is not a list of registered models: {error}; restore it, or delete it and register again"
                ) from None
            self._models = {model.id: model for model in read.models}

    @property
    def models(self) -> list[Registration]:
        return list(self._models.values())

    def get(self, model_id: str) -> Registration | None:
        return self._models.get(model_id)

    def register(self, model_id: str, source: str, folder: ModelFolder, tags: list[str]) -> Registration:
        """Give a folder's weights an id, which what had it before loses.

        Raises:
            IdReserved: if requests mean something else by the id.
        """
        if RESERVED_ID.fullmatch(model_id):
            raise IdReserved(
                f"id: {model_id!r} is the alias, a checkpoint's or a hash already; choose one that says what it is for"
            )
        model = Registration(model_id, str(folder.path), source, folder.weights_sha256, utc_now(), tags)
        models = {**self._models, model_id: model}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._file, msgspec.to_builtins(_File(list(models.values()))))
        self._models = models
        return model
