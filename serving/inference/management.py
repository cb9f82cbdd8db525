"""What clients send and get where models are managed, and where the server tells of itself. Types only."""

from typing import Literal

from pydantic import BaseModel, Field, computed_field, model_validator

from serving.inference.protocol import StrictRequest

Owner = Literal["platform"]
"""Who may let a held model go unasked: the platform its own candidates; None is a person, who decides alone."""


class ModelPath(StrictRequest):
    """Which folder to load, and for whom."""

    model_path: str = Field(min_length=1, description="A model folder on the server's host.")
    owner: Owner | None = Field(default=None, description="Set by the platform; what a person loads has none.")


class ModelId(StrictRequest):
    """Which model is meant."""

    id: str = Field(min_length=1)


class ModelPathOrId(StrictRequest):
    """Which model to hold: a folder's, or one that has an id."""

    model_path: str | None = Field(default=None, min_length=1, description="A model folder on the server's host.")
    id: str | None = Field(default=None, min_length=1, description="A registered model.")
    owner: Owner | None = Field(default=None, description="Set by the platform, with model_path.")

    @model_validator(mode="after")
    def _one_of_them(self) -> "ModelPathOrId":
        if (self.model_path is None) == (self.id is None):
            raise ValueError("model_path or id: one of them is wanted, and not both")
        return self


class Registering(StrictRequest):
    """An id for a folder's model."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="1 to 100 of A-Z, a-z, 0-9, . _ -.")
    source: str = Field(min_length=1, description="A model folder on the server's host.")
    tags: list[str] = Field(default=[], max_length=32, description="For people; the server does nothing with them.")


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
    memory_bytes: int | None = Field(default=None, description="Weights and cache; null where it cannot be known.")
    engine: str | None = None

    @computed_field
    def model_id(self) -> str | None:
        """As older clients know `id`."""
        return self.id

    @computed_field
    def vram_usage_gb(self) -> float | None:
        """As older clients know `memory_bytes`, in 10^9 bytes."""
        return None if self.memory_bytes is None else round(self.memory_bytes / 10**9, 3)


class PoolEntry(ModelInfo):
    """A held model and what it is doing."""

    is_champion: bool
    is_previous: bool = Field(description="The champion before: going back to it loads nothing.")
    in_flight: int
    request_count: int
    last_used: str | None = Field(description="When a request last began; ISO 8601, UTC.")
    owner: Owner | None = None


class PoolInfo(BaseModel):
    """/models/pool."""

    loaded_count: int
    max_models: int
    total_memory_bytes: int = Field(description="Of the models whose memory is known.")
    models: list[PoolEntry]


class ListedModel(BaseModel):
    """A model that is registered, held, or both."""

    id: str
    path: str
    source: str = Field(description="The folder as it was registered; path of what was not.")
    weights_sha256: str
    created_at: str = Field(description="When it was registered, else loaded; ISO 8601, UTC.")
    tags: list[str]
    is_loaded: bool
    is_active: bool


class ModelListing(BaseModel):
    """/models."""

    models: list[ListedModel]


class ActiveModel(BaseModel):
    """/models/active."""

    active_model: str | None = Field(description="The champion's id; null if there is none.")
    weights_sha256: str | None
    checkpoint_step: int | None


class Registered(ListedModel):
    """The model that has the id now."""

    status: Literal["registered"] = "registered"


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


class Versions(BaseModel):
    """What the server consists of; null for what is not installed."""

    version: str
    api: str = Field(description="OpenAI's, as in the paths.")
    python: str
    torch: str | None
    transformers: str | None
    cuda: str | None = Field(description="The CUDA that torch brings along.")
    vllm: str | None


class Gpu(BaseModel):
    """One GPU; null for what it does not tell."""

    index: int
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    memory_free_bytes: int
    utilization_percent: int | None
    temperature_celsius: int | None
    power_watts: float | None
    power_limit_watts: float | None


class Gpus(BaseModel):
    """/gpu."""

    available: bool
    why: str | None = Field(default=None, description="Why there is none.")
    driver_version: str | None = None
    device_count: int = 0
    gpus: list[Gpu] = []


class Host(BaseModel):
    """/system."""

    cpu_count: int
    cpu_percent: float = Field(description="Since the last time it was asked.")
    load_1m: float
    load_5m: float
    load_15m: float
    memory_total_bytes: int
    memory_available_bytes: int
    disk_total_bytes: int = Field(description="Of the file system of the platform's home.")
    disk_free_bytes: int
    process_rss_bytes: int
    process_threads: int
    uptime_s: float = Field(description="Of this process.")
