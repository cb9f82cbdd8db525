"""An engine that dies is replaced by the server itself."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import tenacity

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import Serving, Settings
from resources.artifacts import weights_sha256
from resources.keys import InferenceKeys
from serving.inference import watch as watch_module
from serving.inference.app import create_app
from serving.inference.engine import Engine
from serving.inference.loader import ModelFolder
from serving.inference.pool import LoadEngine
from tests.serving.inference.support import (
    ADMIN_KEY,
    CHAT,
    READ_KEY,
    VALID,
    Models,
    ScriptedEngine,
    error_of,
    run,
    started,
)

PATIENCE_S = 20


class Engines:
    """Makes engines and keeps them, and fails as often as a test says."""

    def __init__(self) -> None:
        self.made: list[ScriptedEngine] = []
        self.failures = 0

    def __call__(self, folder: ModelFolder) -> Engine:
        if self.failures:
            self.failures -= 1
            raise ArtifactInvalid("the disk is away")
        self.made.append(ScriptedEngine([1]))
        return self.made[-1]


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(watch_module, "MAX_PAUSE_S", 0.3)


@asynccontextmanager
async def served(settings: Settings, model: Path, load: LoadEngine | None) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings, InferenceKeys.of(READ_KEY, ADMIN_KEY), model, load)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"X-API-Key": ADMIN_KEY}
    async with (
        started(app),
        httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers, timeout=30) as client,
    ):
        yield client


async def until(condition: Callable[[httpx.Response], bool], client: httpx.AsyncClient, path: str = "/ready") -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition(await client.get(path)):
            await asyncio.sleep(0.02)


def is_ready(response: httpx.Response) -> bool:
    return response.status_code == 200


def has_code(code: str) -> Callable[[httpx.Response], bool]:
    return lambda response: response.status_code == 503 and error_of(response)["code"] == code


def restarts(text: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith("gpu_assets:engine_restarts_total")]
    return float(line.rsplit(" ", 1)[1])


def test_a_dead_champion_is_served_again_with_the_same_weights(
    settings: Settings, models: Models, engines: Engines
) -> None:
    async def check() -> None:
        async with served(settings, models.first, engines) as client:
            engines.made[0].alive = False
            refused = [await client.get("/ready"), await client.post(CHAT, json=VALID)]
            assert [error_of(answer)["code"] for answer in refused] == ["model_loading", "engine_stopped"]
            assert [answer.status_code for answer in refused] == [503, 503]
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            await until(is_ready, client)
            assert (await client.get("/ready")).json()["weights_sha256"] == weights_sha256(models.first)
            assert (await client.post(CHAT, json=VALID)).status_code == 200
            assert engines.made[0].stopped
            assert restarts((await client.get("/metrics")).text) == 1

    run(check())


def test_what_cannot_be_loaded_is_tried_again_and_is_ready_no_more_after_three_times(
    settings: Settings, models: Models, engines: Engines
) -> None:
    async def check() -> None:
        async with served(settings, models.first, engines) as client:
            engines.failures = 10**6
            engines.made[0].alive = False
            await until(has_code("engine_stopped"), client)
            assert engines.failures <= 10**6 - watch_module.TRIES_IN_THIS_PROCESS
            assert (await client.post(CHAT, json=VALID)).status_code == 503
            engines.failures = 0
            await until(is_ready, client)

    run(check())


def test_a_deployment_meanwhile_ends_the_tries(settings: Settings, models: Models, engines: Engines) -> None:
    async def check() -> None:
        async with served(settings, models.first, engines) as client:
            engines.failures = 1
            engines.made[0].alive = False
            await until(lambda _: engines.failures == 0, client)
            reloaded = await client.post("/models/reload", json={"model_path": str(models.second)})
            assert reloaded.status_code == 200
            await until(lambda answer: answer.json()["loaded_count"] == 1, client, "/models/pool")
            assert (await client.get("/ready")).json()["model"] == "second"

    run(check())


def test_a_champion_that_cannot_be_restored_keeps_no_other_waiting(
    settings: Settings, models: Models, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "MAX_PAUSE_S", 600.0)
    monkeypatch.setattr(tenacity, "wait_exponential", lambda **_: tenacity.wait_fixed(600))

    async def check() -> None:
        async with served(settings, models.first, engines) as client:
            await client.post("/models/pool/load", json={"model_path": str(models.second)})
            engines.failures = 1
            engines.made[0].alive = False
            await until(lambda _: engines.failures == 0, client)
            engines.made[1].alive = False
            await until(lambda answer: len(answer.json()["models"]) == 1, client, "/models")
            assert (await client.post("/models/reload", json={"model_path": str(models.third)})).is_success
            await until(lambda answer: answer.json()["loaded_count"] == 1, client, "/models/pool")
            engines.made[-1].alive = False
            await until(lambda _: len(engines.made) == 4, client)
            await until(is_ready, client)

    run(check())


@pytest.mark.parametrize(("error", "ends"), [(ArtifactInvalid("the disk is away"), False), (OSError("gone"), True)])
def test_the_process_ends_unless_the_folder_is_what_is_wrong(
    error: Exception, ends: bool, settings: Settings, models: Models
) -> None:
    made, ended = list[ScriptedEngine](), list[Exception]()

    def load(_: ModelFolder) -> Engine:
        if made:
            raise error
        made.append(ScriptedEngine([1]))
        return made[0]

    async def check() -> None:
        app = create_app(settings, InferenceKeys.of(READ_KEY, ADMIN_KEY), models.first, load, ended.append)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with started(app), httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            made[0].alive = False
            await until(has_code("engine_stopped"), client)
            assert f"could not be started again: {error}" in error_of(await client.get("/ready"))["message"]
            assert bool(ended) is ends

    run(check())


def test_another_model_that_is_dead_is_let_go(settings: Settings, models: Models, engines: Engines) -> None:
    async def check() -> None:
        async with served(settings, models.first, engines) as client:
            await client.post("/models/pool/load", json={"model_path": str(models.second)})
            assert len((await client.get("/models")).json()["models"]) == 2
            engines.made[1].alive = False
            await until(lambda answer: len(answer.json()["models"]) == 1, client, "/models")
            assert len(engines.made) == 2

    run(check())


def test_other_weights_in_the_champions_folder_are_not_served_in_its_place(
    settings: Settings, models: Models, engines: Engines, tmp_path: Path
) -> None:
    folder = tmp_path / "first"
    shutil.copytree(models.plain, folder)

    async def check() -> None:
        async with served(settings, folder, engines) as client:
            shutil.copy(models.first / "model.safetensors", folder / "model.safetensors")
            engines.made[0].alive = False
            await until(has_code("engine_stopped"), client)
            assert len(engines.made) == 1
            shutil.copy(models.plain / "model.safetensors", folder / "model.safetensors")
            await until(is_ready, client)

    run(check())


def test_the_real_engine_comes_back_after_its_thread_died(
    settings: Settings, models: Models, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.inference import transformers_engine

    made: list[transformers_engine.TransformersEngine] = []

    def load(folder: ModelFolder) -> Engine:
        made.append(transformers_engine.load_engine(folder, Serving(cache_tokens=4096)))
        return made[-1]

    def fail(*_: object, **__: object) -> None:
        raise MemoryError("a page is gone")

    async def check() -> None:
        async with served(settings, models.first, load) as client:
            before = (await client.post(CHAT, json=VALID)).json()["choices"]
            monkeypatch.setattr(made[0]._manager.model, "forward", fail)
            refused = await client.post(CHAT, json=VALID)
            assert refused.status_code == 503
            await until(is_ready, client)
            assert len(made) == 2
            assert (await client.post(CHAT, json=VALID)).json()["choices"] == before

    run(check())
