"""A model that does not fit is refused before any of it is loaded, and idle ones make room first."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import Settings
from serving.inference.engine import Engine
from serving.inference.held import HeldModel
from serving.inference.loader import ModelFolder
from serving.inference.memory import Memory, MemoryShort, host_memory, needed_bytes, num_weights
from serving.inference.pool import ModelPool
from tests.serving.inference.support import Models, ScriptedEngine, change_json, run, write_talkative_model


class Device:
    """So many bytes, of which every engine that runs takes what it was said to need."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.engines: dict[str, ScriptedEngine] = {}
        self.pool: ModelPool | None = None

    def load(self, folder: ModelFolder) -> Engine:
        self.engines[folder.name] = ScriptedEngine([1])
        return self.engines[folder.name]

    def free(self) -> int:
        assert self.pool is not None
        return self.room - sum(engine.alive for engine in self.engines.values()) * SIZE

    def look(self) -> Memory:
        return Memory("fp32", self.free)


SIZE = 4 * (853_376 + 32_768 * 4 * 2 * 2 * 32)
"""Of the tiny model: weights, and the cache of four layers with two heads of 32."""


def make_pool(settings: Settings, room: int, reserve_gb: float = 0.0) -> tuple[ModelPool, Device]:
    serving = settings.serving.model_copy(update={"memory_reserve_gb": reserve_gb, "max_models": 4})
    device = Device(room)
    device.pool = ModelPool(settings.model_copy(update={"serving": serving}), device.load, device.look)
    return device.pool, device


def names(models: list[HeldModel]) -> list[str]:
    return [model.name for model in models]


def test_a_model_takes_its_weights_and_its_cache(models: Models, settings: Settings) -> None:
    weights = sum(weight.numel() for weight in load_file(models.first / "model.safetensors").values())
    cache = settings.serving.cache_tokens * 2 * 4 * 2 * 32
    assert num_weights(models.first) == weights
    assert needed_bytes(models.first, "fp32", settings.serving) == 4 * (weights + cache) == SIZE
    assert needed_bytes(models.first, "bf16", settings.serving) == 2 * (weights + cache)


def test_the_sections_of_a_multimodal_config_are_read(models: Models, settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_talkative_model(folder, 1)
    config = folder / "config.json"
    text = {"num_hidden_layers": 4, "num_attention_heads": 2, "hidden_size": 64}
    config.write_text("{}")
    change_json(config, text_config=text)
    assert needed_bytes(folder, "fp32", settings.serving) == SIZE


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x05\0\0\0\0\0\0\0{not}"])
def test_a_file_without_a_header_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactInvalid, match="no safetensors file"):
        num_weights(tmp_path)


def test_the_machines_memory_is_known() -> None:
    free = host_memory().free_bytes()
    assert free is not None and free > 0


def test_a_model_that_does_not_fit_is_refused_with_figures_and_nothing_is_let_go(
    settings: Settings, models: Models
) -> None:
    pool, device = make_pool(settings, room=SIZE + SIZE // 2)

    async def check() -> None:
        await pool.reload(models.first)
        with pytest.raises(MemoryShort, match=r"takes 0\.07 GB.*0\.04 GB are free and idle models hold 0\.00 GB"):
            await pool.reload(models.second)
        assert (pool.champion or 0) is pool.find("first")
        assert list(device.engines) == ["first"]

    run(check())


def test_what_must_stay_free_is_not_taken(settings: Settings, models: Models) -> None:
    pool, _ = make_pool(settings, room=2 * SIZE, reserve_gb=0.1)
    with pytest.raises(MemoryShort, match="0.1 GB must stay free"):
        run(pool.reload(models.first))


def test_idle_models_make_room_the_least_recently_used_first_and_no_more_than_needed(
    settings: Settings, models: Models
) -> None:
    pool, device = make_pool(settings, room=3 * SIZE + 1)

    async def check() -> None:
        await pool.reload(models.first)
        await pool.load(models.second)
        await pool.load(models.third)
        with pool.find("second").lease():
            pass
        await pool.load(models.plain)
        assert names(pool.models) == ["first", "second", "plain-folder"]
        assert device.engines["third"].stopped and not device.engines["second"].stopped

    run(check())


def test_the_model_before_goes_where_memory_is_short(settings: Settings, models: Models) -> None:
    pool, _ = make_pool(settings, room=2 * SIZE + 1)

    async def check() -> None:
        for folder in (models.first, models.second, models.third):
            await pool.reload(folder)
        assert names(pool.models) == ["second", "third"]

    run(check())


def test_neither_the_champion_nor_a_busy_model_goes_for_memory(settings: Settings, models: Models) -> None:
    pool, _ = make_pool(settings, room=2 * SIZE + 1)

    async def check() -> None:
        await pool.reload(models.first)
        second = await pool.load(models.second)
        with second.lease(), pytest.raises(MemoryShort):
            await pool.load(models.third)
        assert names(pool.models) == ["first", "second"]

    run(check())


def test_a_dead_champions_memory_is_given_back_before_it_is_loaded_anew(settings: Settings, models: Models) -> None:
    pool, device = make_pool(settings, room=SIZE + 1)

    async def check() -> None:
        champion = await pool.reload(models.first)
        dead = device.engines["first"]
        dead.alive = False
        assert await pool.restore(champion)
        assert dead.stopped
        assert pool.require_ready() is not champion

    run(check())


def test_where_free_memory_is_not_known_models_are_counted_only(settings: Settings, models: Models) -> None:
    pool = ModelPool(settings, lambda folder: ScriptedEngine([1]), lambda: Memory("bf16", lambda: None))
    assert run(pool.reload(models.first)).name == "first"
