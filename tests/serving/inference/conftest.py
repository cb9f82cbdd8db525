"""Fixtures: real tiny models, real engines in this process, and one real server process."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gpu_assets.settings import Serving, Settings, load_settings
from resources.keys import InferenceKeys
from serving.inference.app import create_app
from serving.inference.loader import inspect_folder
from tests.serving.inference.support import (
    ADMIN_KEY,
    READ_KEY,
    Check,
    Inspect,
    Models,
    ScriptedEngine,
    Serve,
    Server,
    StartEngine,
    ready_server,
    started,
    write_model,
    write_talkative_model,
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("served")
    plain = root / "plain-folder"
    write_talkative_model(plain, seed=9)
    return Models(
        first=write_model(root / "first", seed=1),
        second=write_model(root / "second", seed=2, step=20),
        third=write_model(root / "third", seed=3, step=30),
        plain=plain,
    )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Iterator[Server]:
    """One server for all tests that leave it as they found it; `first_is_champion` sees to that."""
    with ready_server(tmp_path_factory.mktemp("server"), "--model", str(models.first)) as running:
        yield running


@pytest.fixture
def first_is_champion(server: Server, models: Models) -> Iterator[Server]:
    """The server with the first model as its champion and nothing else held."""
    client = server.client
    client.reload(models.first)
    for model in client.pool().models:
        if not model.is_champion:
            client.unload(model.id)
    yield server


@pytest.fixture
def inspect() -> Inspect:
    settings = load_settings()
    return lambda path: inspect_folder(path, settings.profile)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and much slower on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def start_engine(inspect: Inspect) -> Iterator[StartEngine]:
    """Starts the real engine on a model folder; stopped after the test."""
    from serving.inference.transformers_engine import TransformersEngine, load_engine

    with ExitStack() as stopping:

        def start(folder: Path, serving: Serving | None = None) -> TransformersEngine:
            engine = load_engine(inspect(folder), serving or Serving(cache_tokens=8192))
            stopping.callback(engine.stop)
            engine.start()
            return engine

        yield start


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(token_ids=[70, 71, 72])


@pytest.fixture
def serve(engine: ScriptedEngine, settings: Settings, models: Models) -> Serve:
    """Run a check against the application in this process, with the scripted engine as its champion."""
    keys = InferenceKeys.of(READ_KEY, ADMIN_KEY)
    app = create_app(settings, keys, models.first, load_engine=lambda folder: engine)

    @asynccontextmanager
    async def client() -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"X-API-Key": READ_KEY}
        async with (
            started(app),
            httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers) as http,
        ):
            yield http

    def run(check: Check) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30), client() as http:
                await check(http)

        asyncio.run(bounded())

    return run
