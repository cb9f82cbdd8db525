"""The clients as resources: an asset of a real run asks the real server."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from gpu_assets import inference, trainer
from gpu_assets.settings import PROJECT_ROOT, load_settings
from resources.artifacts import weights_sha256
from resources.clients import CLIENTS
from resources.platform import Platform
from resources.services import InferenceClient, OracleClient, PredictionClient
from tests.serving.inference.support import ADMIN_KEY, READ_KEY, Server, ready_server, write_model

QUESTION = "add ①⓪ and ①"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "first", seed=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Server]:
    with ready_server(tmp_path_factory.mktemp("server"), "--model", str(folder)) as started:
        yield started


@pytest.fixture
def platform(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A platform whose hosts.json leads to the real server."""
    hosts = json.loads((PROJECT_ROOT / "hosts.json").read_text())
    hosts["hosts"]["3090"]["services"]["inference"]["port"] = int(server.url.rpartition(":")[2])
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(hosts))
    monkeypatch.setenv("GPU_ASSETS_HOSTS_FILE", str(path))
    monkeypatch.setenv("INFERENCE_READ_KEY", READ_KEY)
    monkeypatch.setenv("INFERENCE_ADMIN_KEY", ADMIN_KEY)
    return Platform(load_settings())


@dg.asset
def asked(
    prediction: dg.ResourceParam[PredictionClient],
    oracle: dg.ResourceParam[OracleClient],
    inference: dg.ResourceParam[InferenceClient],
) -> dg.MaterializeResult[None]:
    messages = [{"role": "user", "content": QUESTION}]
    with prediction.chat_stream(messages, temperature=0, max_tokens=6) as pieces:
        streamed = "".join(piece.text for piece in pieces)
    held = prediction.model_ids()
    answers = oracle.batch([QUESTION] * 3, inference.info().weights_sha256 or "", max_tokens=6)
    (pulse,) = oracle.pulse()
    return dg.MaterializeResult(
        metadata={
            "streamed": streamed,
            "at once": prediction.chat(messages, temperature=0, max_tokens=6).text,
            "held": list(held),
            "batch": [answer.text for answer in answers],
            "asked one": oracle.ask(QUESTION, "champion", max_tokens=6).text,
            "weights": answers[0].weights_sha256,
            "answers": pulse.answers,
            "is healthy": prediction.health_check(),
            "figures": sorted(prediction.get_metrics()),
        }
    )


def test_an_asset_asks_the_server_through_each_client(platform: Platform, folder: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([asked], resources={"platform": platform, **CLIENTS}, instance=instance)
        assert result.success
    (event,) = result.asset_materializations_for_node("asked")
    found = {name: value.value for name, value in event.metadata.items()}
    assert found["streamed"] == found["at once"] == found["asked one"] != ""
    assert found["batch"] == [found["streamed"]] * 3
    assert found["weights"] == weights_sha256(folder)
    assert found["held"] == ["champion", "first"]
    assert found["answers"] is True and found["is healthy"] is True
    assert "gpu_assets:generation_tokens" in found["figures"]


def test_every_location_has_the_same_clients_so_that_they_can_be_merged(platform: Platform) -> None:
    for location in (trainer, inference):
        resources = location.build(platform).resources or {}
        assert {name: resources[name] for name in CLIENTS} == CLIENTS
