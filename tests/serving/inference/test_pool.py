"""Which model an id means, which one is let go, and that no request ever loses its model."""

import asyncio
import shutil
import threading
from pathlib import Path

import pytest

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import Settings
from serving.inference.engine import Engine, EngineStopped
from serving.inference.loader import ModelFolder, NotAModelFolder, inspect_folder
from serving.inference.pool import AmbiguousModel, ModelPool, NoChampion, PoolBusy, StillLoading, UnknownModel
from serving.inference.probe import ProbeFailed
from serving.inference.registry import IdReserved
from tests.serving.inference.support import Models, ScriptedEngine, change_json, run, write_model


class Loaded:
    """Makes scripted engines and remembers them by the folder's name."""

    def __init__(self) -> None:
        self.engines: dict[str, ScriptedEngine] = {}
        self.count = 0
        self.fail = False

    def __call__(self, folder: ModelFolder) -> Engine:
        if self.fail:
            raise ArtifactInvalid("no memory left")
        self.count += 1
        self.engines[folder.name] = ScriptedEngine([1])
        return self.engines[folder.name]


@pytest.fixture
def loaded() -> Loaded:
    return Loaded()


@pytest.fixture
def pool(settings: Settings, loaded: Loaded) -> ModelPool:
    return ModelPool(settings, loaded)


def names(pool: ModelPool) -> list[str]:
    return [model.name for model in pool.models]


def test_the_alias_flips_and_the_model_before_stays_held(pool: ModelPool, models: Models) -> None:
    async def check() -> None:
        with pytest.raises(NoChampion):
            pool.find("champion")
        await pool.reload(models.first)
        await pool.reload(models.second)
        assert pool.find("champion").name == "second"
        assert names(pool) == ["first", "second"]
        assert pool.previous is pool.find("first")

    run(check())


def test_the_champion_before_goes_last_and_going_back_to_it_loads_nothing(
    pool: ModelPool, loaded: Loaded, models: Models
) -> None:
    async def check() -> None:
        await pool.reload(models.first)
        await pool.reload(models.second)
        await pool.load(models.third)
        await pool.load(models.plain)  # the third was used later than the first, and goes
        assert names(pool) == ["first", "second", models.plain.name]
        await pool.reload(models.first)
        assert (loaded.count, pool.previous) == (4, pool.find("second"))
        await pool.unload("second")
        assert pool.previous is None

    run(check())


def test_a_model_is_found_by_alias_name_step_and_hash_and_by_nothing_else(pool: ModelPool, models: Models) -> None:
    async def check() -> None:
        second = await pool.reload(models.second)
        for model_id in ("champion", "second", "checkpoint-20", second.weights_sha256, second.weights_sha256[:8]):
            assert pool.find(model_id) is second
        for model_id in ("Second", "checkpoint-2", "checkpoint-020", second.weights_sha256[:7], ""):
            with pytest.raises(UnknownModel, match="held are: champion, second"):
                pool.find(model_id)

    run(check())


def test_the_same_name_with_other_weights_is_another_model(pool: ModelPool, models: Models, tmp_path: Path) -> None:
    namesake = write_model(tmp_path / "second", seed=5, step=21)

    async def check() -> None:
        older, newer = await pool.load(models.second), await pool.load(namesake)
        assert older is not newer
        with pytest.raises(AmbiguousModel, match=f"{older.weights_sha256}.*{newer.weights_sha256}"):
            pool.find("second")
        assert [pool.id_of(model) for model in (older, newer)] == [older.weights_sha256, newer.weights_sha256]
        assert pool.find("checkpoint-21") is newer
        await pool.unload(pool.id_of(older))
        assert pool.find(pool.id_of(newer)) is pool.find("second") is newer

    run(check())


def test_a_step_that_two_models_have_names_neither(pool: ModelPool, models: Models, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=6, step=20)

    async def check() -> None:
        await pool.load(models.second)
        await pool.load(other)
        with pytest.raises(AmbiguousModel, match="second .* other .*ask by weights hash"):
            pool.find("checkpoint-20")

    run(check())


def test_weights_that_are_held_are_not_loaded_twice(
    pool: ModelPool, loaded: Loaded, models: Models, tmp_path: Path
) -> None:
    shutil.copytree(models.first, tmp_path / "copy")

    async def check() -> None:
        await pool.reload(models.first)
        assert await pool.reload(tmp_path / "copy") is await pool.load(models.first)
        assert loaded.count == 1

    run(check())


def test_held_weights_are_loaded_anew_from_the_folder_that_was_named_last(
    pool: ModelPool, loaded: Loaded, models: Models, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        shutil.copytree(models.first, tmp_path / name)

    async def check() -> None:
        await pool.reload(tmp_path / "a")
        held = await pool.reload(tmp_path / "b")
        shutil.rmtree(tmp_path / "a")
        loaded.engines["a"].alive = False
        assert await pool.restore(held)
        assert pool.require_ready().folder.path == tmp_path / "b"

    run(check())


def test_the_first_model_does_not_take_the_place_of_one_that_was_chosen(pool: ModelPool, models: Models) -> None:
    async def check() -> None:
        await pool.reload(models.second)
        await pool.serve_first(models.first, "platform")
        assert pool.require_ready().name == "second"
        await pool.undeploy("champion")
        await pool.serve_first(models.first, "platform")
        assert pool.champion is None

    run(check())


def test_a_dead_engine_gives_its_memory_back_before_its_requests_end(
    pool: ModelPool, loaded: Loaded, models: Models
) -> None:
    async def check() -> None:
        first = await pool.reload(models.first)
        with first.lease():
            dead = loaded.engines["first"]
            dead.alive = False
            async with asyncio.timeout(5):
                assert await pool.restore(first)
            assert dead.stopped

    run(check())


def test_held_weights_with_another_renderer_are_refused(pool: ModelPool, models: Models, tmp_path: Path) -> None:
    shutil.copytree(models.plain, tmp_path / "copy")
    template = tmp_path / "copy" / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")

    async def check() -> None:
        await pool.load(models.plain)
        with pytest.raises(PoolBusy, match="another renderer"):
            await pool.load(tmp_path / "copy")

    run(check())


@pytest.mark.parametrize(
    ("changed", "is_other"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, True),
        ({"rms_norm_eps": 0.1}, True),
        ({"transformers_version": "0.0.1", "_name_or_path": "elsewhere"}, False),
    ],
)
def test_held_weights_under_another_configuration_are_refused(
    changed: dict[str, object], is_other: bool, pool: ModelPool, models: Models, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(models.plain, copy)
    change_json(copy / "config.json", **changed)

    async def check() -> None:
        held = await pool.reload(models.plain)
        if is_other:
            with pytest.raises(PoolBusy, match="another configuration"):
                await pool.reload(copy)
            assert held.folder.path == models.plain.resolve()
        else:
            assert await pool.reload(copy) is held
        assert pool.champion is held

    run(check())


@pytest.mark.parametrize("text", ['["no object"]', "{", "\xff", "[" * 100_000, '{"architectures": ["A", "B"]}'])
def test_a_configuration_that_is_none_is_refused(text: str, pool: ModelPool, models: Models, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(models.plain, copy)
    (copy / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(NotAModelFolder, match=r"config\.json"):
        run(pool.load(copy))


def test_no_model_is_registered_under_the_name_of_another_that_is_held(pool: ModelPool, models: Models) -> None:
    profile = pool.settings.profile

    async def check() -> None:
        held = await pool.reload(models.first)
        with pytest.raises(IdReserved, match=rf"'first'.*{held.weights_sha256}"):
            pool.register("first", str(models.second), inspect_folder(models.second, profile), [])
        pool.register("first", str(models.first), inspect_folder(models.first, profile), [])
        assert pool.find("first") is held

    run(check())


def test_no_model_is_registered_under_a_name_that_two_held_models_have(
    pool: ModelPool, models: Models, tmp_path: Path
) -> None:
    namesake = tmp_path / "first"
    shutil.copytree(models.second, namesake)

    async def check() -> None:
        for folder in (models.first, namesake):
            await pool.load(folder)
        for folder in (models.first, namesake):
            with pytest.raises(IdReserved):
                pool.register("first", str(folder), inspect_folder(folder, pool.settings.profile), [])

    run(check())


def test_the_least_recently_used_idle_model_makes_room(
    pool: ModelPool, loaded: Loaded, models: Models, tmp_path: Path
) -> None:
    async def check() -> None:
        await pool.reload(models.first)
        for folder in (models.second, models.third):
            await pool.load(folder)
        with pool.find("second").lease():
            pass
        await pool.load(models.plain)
        assert names(pool) == ["first", "second", "plain-folder"]
        await asyncio.sleep(0.05)
        assert loaded.engines["third"].stopped

    run(check())


def test_neither_the_champion_nor_a_busy_model_makes_room(pool: ModelPool, models: Models) -> None:
    async def check() -> None:
        await pool.reload(models.first)
        second, third = await pool.load(models.second), await pool.load(models.third)
        with second.lease(), third.lease(), pytest.raises(PoolBusy, match="3 models are held"):
            await pool.load(models.plain)
        assert names(pool) == ["first", "second", "third"]

    run(check())


def test_the_champion_is_not_unloaded(pool: ModelPool, models: Models) -> None:
    async def check() -> None:
        await pool.reload(models.first)
        with pytest.raises(PoolBusy, match="first is the champion"):
            await pool.unload("first")
        with pytest.raises(UnknownModel):
            await pool.unload("second")

    run(check())


def test_an_unloaded_model_ends_with_its_last_request(pool: ModelPool, loaded: Loaded, models: Models) -> None:
    async def check() -> None:
        second = await pool.load(models.second)
        with second.lease():
            await pool.unload("second")
            with pytest.raises(UnknownModel):
                pool.find("second")
            await asyncio.sleep(0.05)
            assert not loaded.engines["second"].stopped
        await asyncio.sleep(0.05)
        assert loaded.engines["second"].stopped

    run(check())


def test_after_an_undeployment_nothing_is_the_champion_and_the_model_stays_held(
    pool: ModelPool, models: Models
) -> None:
    async def check() -> None:
        first = await pool.reload(models.first)
        await pool.load(models.second)
        with pytest.raises(PoolBusy, match="second is not the champion, first is; nothing is changed"):
            await pool.undeploy("second")
        assert await pool.undeploy(first.weights_sha256) is first
        assert await pool.undeploy("champion") is None
        with pytest.raises(NoChampion):
            pool.require_ready()
        assert names(pool) == ["first", "second"]
        await pool.unload("first")

    run(check())


def test_a_model_that_a_person_ever_loaded_is_not_the_platforms(pool: ModelPool, models: Models) -> None:
    async def check() -> None:
        first = await pool.load(models.first, owner="platform")
        second = await pool.load(models.second)
        assert (first.owner, second.owner) == ("platform", None)
        assert (await pool.reload(models.second, owner="platform")).owner is None
        assert (await pool.load(models.first, owner="platform")).owner == "platform"
        assert (await pool.load(models.first)).owner is None
        assert (await pool.load(models.first, owner="platform")).owner is None
        assert [model.owner for model in pool.models] == [None, None]

    run(check())


def test_readiness_tells_a_dead_engine_from_a_model_that_is_being_loaded(
    settings: Settings, models: Models, loaded: Loaded
) -> None:
    go_on = threading.Event()

    def slow(folder: ModelFolder) -> Engine:
        assert go_on.wait(20)
        return loaded(folder)

    async def check() -> None:
        pool = ModelPool(settings, slow)
        for _ in range(2):
            go_on.clear()
            loading = asyncio.create_task(pool.reload(models.first))
            await asyncio.sleep(0.05)
            with pytest.raises(StillLoading):
                pool.require_ready()
            go_on.set()
            await loading
            assert pool.require_ready().name == "first"
            loaded.engines["first"].alive = False
            with pytest.raises(EngineStopped):
                pool.require_ready()

    run(check())


def test_a_load_that_fails_leaves_what_is_held(pool: ModelPool, loaded: Loaded, models: Models) -> None:
    async def check() -> None:
        first = await pool.reload(models.first)
        loaded.fail = True
        with pytest.raises(ArtifactInvalid):
            await pool.reload(models.second)
        assert pool.champion is first
        assert names(pool) == ["first"]

    run(check())


def test_a_model_that_cannot_warm_up_is_stopped_and_not_held(
    settings: Settings, models: Models, loaded: Loaded
) -> None:
    def dead(folder: ModelFolder) -> Engine:
        engine = loaded(folder)
        engine.start = lambda: None  # type: ignore[method-assign]
        return engine

    async def check() -> None:
        pool = ModelPool(settings, dead)
        with pytest.raises(ProbeFailed, match="first is not served: it does not answer a smoke prompt"):
            await pool.reload(models.first)
        assert pool.champion is None and not pool.models
        assert loaded.engines["first"].stopped

    run(check())


def test_a_champion_whose_engine_died_is_loaded_anew(pool: ModelPool, loaded: Loaded, models: Models) -> None:
    async def check() -> None:
        before = await pool.reload(models.first)
        loaded.engines["first"].alive = False
        after = await pool.load(models.first)
        assert after is not before
        assert pool.champion is after
        assert names(pool) == ["first"]

    run(check())


def test_closing_stops_every_engine(pool: ModelPool, loaded: Loaded, models: Models) -> None:
    async def check() -> None:
        await pool.reload(models.first)
        await pool.load(models.second)
        await pool.close()
        assert all(engine.stopped for engine in loaded.engines.values())

    run(check())
