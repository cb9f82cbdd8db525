"""What clients send and get where models are managed, and where the server tells of itself. Types only."""

from typing import Literal

from pydantic import BaseModel, Field

from serving.inference.protocol import StrictRequest

Owner = Literal["platform"]
"""Who may let a held model go unasked: the platform its own candidates; None is a person, who decides alone."""


class ModelPath(StrictRequest):
    """Which folder to load, and for whom."""

    model_path: str = Field(min_length=1, description="A model folder on the server's host.")
    owner: Owner | None = Field(default=None, description="Set by the platform; what a person loads has none.")


class ModelId(StrictRequest):
    """Which held model is meant."""

    id: str = Field(min_length=1)


class ProfileInfo(BaseModel):
    """The data profile that shapes a model's prompts."""

    name: str
    version: str


class ModelInfo(BaseModel):
    """A held model, or `loaded: false` and nothing else."""

    loaded: bool
    id: str | None = Field(default=None, description="Addresses this model; the name, or the hash if names collide.")
    name: str | None = Field(default=None, description="The folder's name.")
    weights_sha256: str | None = None
    checkpoint_step: int | None = None
    path: str | None = None
    profile: ProfileInfo | None = None
    template_sha256: str | None = None
    renderer_digest: str | None = None
    loaded_at: str | None = Field(default=None, description="ISO 8601, UTC.")


class PoolEntry(ModelInfo):
    """A held model and what it is doing."""

    is_champion: bool
    in_flight: int
    owner: Owner | None = None


class PoolInfo(BaseModel):
    """/models/pool."""

    loaded_count: int
    models: list[PoolEntry]


class Reloaded(ModelInfo):
    """The model that the alias points at now."""

    status: Literal["reloaded"] = "reloaded"
    seconds: float


class Unloaded(BaseModel):
    """The model that is no longer held; requests that it has begun are finished."""

    status: Literal["unloaded"] = "unloaded"
    id: str
    weights_sha256: str


class Undeployed(BaseModel):
    """The alias points at nothing; what it pointed at stays held."""

    status: Literal["undeployed"] = "undeployed"
    weights_sha256: str | None = Field(default=None, description="What it pointed at; null if at nothing.")


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"
    version: str
    uptime_s: float


class Readiness(BaseModel):
    """The champion's engine runs."""

    status: Literal["ready"] = "ready"
    model: str
    weights_sha256: str
