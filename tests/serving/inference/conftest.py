"""Fixtures: real tiny models, and one real server process."""

from collections.abc import Iterator

import pytest

from gpu_assets.settings import load_settings
from serving.inference.loader import inspect_folder
from tests.serving.inference.support import (
    START_TIMEOUT_S,
    Inspect,
    Models,
    Server,
    start_server,
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
    started = start_server(tmp_path_factory.mktemp("server"), "--model", str(models.first))
    try:
        started.client.wait_ready(START_TIMEOUT_S)
        yield started
    finally:
        started.stop()


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
