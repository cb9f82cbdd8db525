"""What /metrics says is what happened, to the digit, and it never grows beyond bounds."""

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpu_assets.errors import ServiceHttpError
from gpu_assets.settings import Settings
from serving.inference.metrics import MAX_MODEL_NAMES, PREFIX, Metrics
from serving.inference.pool import ModelPool
from tests.serving.inference.support import (
    CHAT,
    COMPLETIONS,
    READ_KEY,
    VALID,
    Models,
    ScriptedEngine,
    Serve,
    Server,
    change_json,
    events_of,
    run,
)

FIRST = {"model_name": "first"}


class Figures:
    """A scrape: values by name and labels; a series that is not there is 0."""

    def __init__(self, text: str) -> None:
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series = (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items()))
                assert sample.name.startswith(PREFIX), sample.name
                assert series not in self._values, series
                self._values[series] = sample.value

    def of(self, name: str, **labels: str) -> float:
        return self._values.get((name, frozenset(labels.items())), 0.0)

    def labels(self, name: str) -> list[dict[str, str]]:
        return [dict(labels) for named, labels in self._values if named == name]

    def since(self, before: "Figures", name: str) -> dict[tuple[str, ...], float]:
        """By how much the series of a name grew, by the values of their labels but the model's; those that did."""
        grown: dict[tuple[str, ...], float] = {}
        for (named, labels), value in self._values.items():
            growth = value - before._values.get((named, labels), 0.0)
            if named == name and growth:
                grown[tuple(text for label, text in sorted(labels) if label != "model_name")] = growth
        return grown


def figures(server: Server) -> Figures:
    response = server.request("GET", "/metrics", key=READ_KEY)
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Figures(response.text)


def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not come true in 10 s")


def test_answers_tokens_and_reasons_are_counted(first_is_champion: Server) -> None:
    server, before = first_is_champion, figures(first_is_champion)
    asked: list[tuple[str, dict[str, Any]]] = [
        (CHAT, VALID),
        (CHAT, VALID | {"n": 2, "temperature": 1, "seed": 4}),
        (CHAT, VALID | {"n": 3, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 6}),
        (COMPLETIONS, {"model": "first", "prompt": ["one and", "two"], "max_tokens": 3, "n": 2}),
    ]
    usages, reasons = [], Counter[str]()
    for path, body in asked:
        response = server.request("POST", path, json=body)
        answers = events_of(response) if body.get("stream") else [response.json()]
        usages.append(answers[-1]["usage"])
        reasons.update(c["finish_reason"] for answer in answers for c in answer["choices"] if c["finish_reason"])
    after = figures(server)
    assert reasons.total() == 10
    assert after.since(before, "request_success_total") == {(reason,): float(n) for reason, n in reasons.items()}
    assert after.since(before, "prompt_tokens_total") == {(): sum(usage["prompt_tokens"] for usage in usages)}
    assert after.since(before, "generation_tokens_total") == {(): sum(usage["completion_tokens"] for usage in usages)}
    assert after.since(before, "time_to_first_token_seconds_count") == {(): 10}
    assert after.since(before, "e2e_request_latency_seconds_count") == {(): 10}
    assert after.since(before, "requests_total") == {("admin-1",): 4}
    assert after.since(before, "requests_refused_total") == {}
    seconds = [
        after.since(before, f"{name}_seconds_sum")[()] for name in ("time_to_first_token", "e2e_request_latency")
    ]
    assert 0 < seconds[0] < seconds[1]


REFUSED: list[tuple[str, str, str | None, dict[str, Any], tuple[str, str]]] = [
    ("POST", CHAT, None, {"json": VALID}, ("invalid_api_key", "401")),
    ("POST", CHAT, "wrong", {"json": VALID}, ("invalid_api_key", "401")),
    ("GET", "/gpu", READ_KEY, {}, ("admin_only", "403")),
    ("GET", "/nowhere", READ_KEY, {}, ("not_found", "404")),
    ("GET", "/nowhere/else", READ_KEY, {}, ("not_found", "404")),
    ("DELETE", "/health", READ_KEY, {}, ("method_not_allowed", "405")),
    ("POST", CHAT, READ_KEY, {"json": VALID | {"model": "nobody"}}, ("model_not_found", "404")),
    ("POST", CHAT, READ_KEY, {"json": VALID | {"max_tokens": -1}}, ("invalid_value", "400")),
    ("POST", CHAT, READ_KEY, {"json": VALID | {"colour": 1}}, ("unsupported_parameter", "400")),
    ("POST", CHAT, READ_KEY, {"content": b"{"}, ("invalid_body", "400")),
    ("POST", COMPLETIONS, READ_KEY, {"data": {"a": "b"}}, ("unsupported_content_type", "415")),
    ("POST", CHAT, READ_KEY, {"content": b" " * (2**20 + 2**24)}, ("request_too_large", "413")),
]


def test_refusals_are_counted_by_status_and_code(server: Server) -> None:
    before = figures(server)
    for method, path, key, arguments, _ in REFUSED:
        server.request(method, path, key, **arguments)
    after = figures(server)
    assert after.since(before, "requests_refused_total") == Counter(labels for *_, labels in REFUSED)
    asked = [key for _, path, key, *_ in REFUSED if path.startswith("/v1/") and key == READ_KEY]
    assert after.since(before, "requests_total") == {("read-1",): len(asked)}
    assert after.since(before, "request_success_total") == {}


def test_paths_keys_and_models_that_a_client_makes_up_are_no_labels(server: Server) -> None:
    for number in range(5):
        server.request("GET", f"/made-up/{number}")
        server.request("POST", CHAT, f"made-up-{number}", json=VALID)
        server.request("POST", CHAT, json=VALID | {"model": f"made-up-{number}"})
    assert "made-up" not in server.request("GET", "/metrics").text


def test_a_client_that_leaves_is_counted_as_an_abort(first_is_champion: Server) -> None:
    server, before = first_is_champion, figures(first_is_champion)
    body = VALID | {"max_tokens": 1900, "stream": True, "n": 2}
    with (
        httpx.Client(base_url=server.url, headers={"X-API-Key": READ_KEY}, trust_env=False, timeout=30) as client,
        client.stream("POST", CHAT, json=body) as response,
    ):
        lines = response.iter_lines()
        while '"content":""' in (line := next(lines)) or not line:
            pass
        during = figures(server)
        assert during.of("num_requests_running", **FIRST) + during.of("num_requests_waiting", **FIRST) == 2
        assert 0 < during.of("kv_cache_usage_perc", **FIRST) <= 1
    until(lambda: figures(server).since(before, "request_success_total") == {("abort",): 2})
    until(lambda: figures(server).of("num_requests_running", **FIRST) == 0)
    after = figures(server)
    assert after.since(before, "generation_tokens_total")[()] >= 1
    assert after.since(before, "e2e_request_latency_seconds_count") == {(): 2}


def test_swaps_are_counted_and_the_version_is_told(first_is_champion: Server, models: Models, tmp_path: Path) -> None:
    server, client, before = first_is_champion, first_is_champion.client, figures(first_is_champion)
    assert [each["champion"] for each in before.labels("model_info")] == ["true"]
    client.reload(models.second)
    spoilt = tmp_path / "spoilt"
    shutil.copytree(models.third, spoilt)
    change_json(spoilt / "manifest.json", weights_sha256="0" * 64)
    with pytest.raises(ServiceHttpError):
        client.reload(spoilt)
    after = figures(server)
    assert after.since(before, "swap_duration_seconds_count") == {(): 1}
    assert after.since(before, "swap_duration_seconds_sum")[()] > 0
    assert list(after.since(before, "requests_refused_total")) in (
        [("model_refused", "409")],
        [("invalid_model_folder", "400")],
    )
    told = {each["model_name"]: (each["champion"], each["checkpoint_step"]) for each in after.labels("model_info")}
    assert told == {"first": ("false", ""), "second": ("true", "20")}
    assert {each["weights_sha256"] for each in after.labels("model_info")} == {
        model.weights_sha256 for model in client.pool().models
    }
    client.unload("first")
    left = figures(server)
    for name in ("model_info", "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert [each["model_name"] for each in left.labels(name)] == ["second"]


def test_an_engine_that_dies_midway_is_an_abort_and_no_refusal(serve: Serve, engine: ScriptedEngine) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        before, engine.dies_midway = Figures((await http.get("/metrics")).text), True
        streamed = await http.post(CHAT, json=VALID | {"stream": True})
        assert "engine_stopped" in streamed.text
        told = Figures((await http.get("/metrics")).text)
        assert told.of("request_success_total", **FIRST, finished_reason="abort") == 1
        assert told.of("generation_tokens_total", **FIRST) == 1
        assert told.since(before, "requests_refused_total") == {}
        assert (await http.post(CHAT, json=VALID)).status_code == 503
        told = Figures((await http.get("/metrics")).text)
        assert told.of("requests_refused_total", status="503", code="engine_stopped") == 1
        assert told.of("request_success_total", **FIRST, finished_reason="abort") == 2

    serve(check)


def test_times_between_tokens_are_one_fewer_than_the_tokens_of_each_answer(
    serve: Serve, engine: ScriptedEngine
) -> None:
    engine.stepwise = True

    async def check(http: httpx.AsyncClient) -> None:
        await http.post(CHAT, json=VALID | {"stream": True, "n": 3})
        told = Figures((await http.get("/metrics")).text)
        assert told.of("generation_tokens_total", **FIRST) == 3 * len(engine.token_ids)
        assert told.of("inter_token_latency_seconds_count", **FIRST) == 3 * (len(engine.token_ids) - 1)

    serve(check)


@contextmanager
def held(settings: Settings, *folders: Path) -> Iterator[ModelPool]:
    """A pool that holds these folders, on scripted engines of which each runs one request."""
    pool = ModelPool(settings, lambda folder: ScriptedEngine([1], running=1))

    async def load() -> None:
        for folder in folders:
            await pool.load(folder)

    run(load())
    yield pool


def test_two_versions_of_one_name_are_one_series(settings: Settings, models: Models, tmp_path: Path) -> None:
    same_name = tmp_path / models.first.name
    shutil.copytree(models.second, same_name)
    with held(settings, models.first, same_name) as pool:
        told = Figures(Metrics(pool).render().decode())
    assert told.of("num_requests_running", **FIRST) == 2
    assert told.labels("num_requests_waiting") == [FIRST]
    assert len({each["weights_sha256"] for each in told.labels("model_info")}) == 2


def test_a_server_that_runs_for_months_exports_few_names_the_latest(settings: Settings) -> None:
    with held(settings) as pool:
        metrics = Metrics(pool)
        for step in range(3 * MAX_MODEL_NAMES):
            name = f"checkpoint-{step}"
            metrics.between_tokens(name, 0.5, tokens=2)
            for reason in ("stop", "length", "abort"):
                metrics.record(
                    name, prompt_tokens=2, completion_tokens=3, first_token_s=0.1, seconds=1, finish_reason=reason
                )
        told = Figures(metrics.render().decode())
    latest = {f"checkpoint-{step}" for step in range(2 * MAX_MODEL_NAMES, 3 * MAX_MODEL_NAMES)}
    for name in (
        "prompt_tokens_total",
        "generation_tokens_total",
        "request_success_total",
        "time_to_first_token_seconds_count",
        "inter_token_latency_seconds_count",
        "e2e_request_latency_seconds_count",
    ):
        assert {each["model_name"] for each in told.labels(name)} == latest, name
    assert told.of("inter_token_latency_seconds_sum", model_name=max(latest)) == 0.5
