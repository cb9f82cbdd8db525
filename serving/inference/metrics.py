"""Figures for Prometheus under vLLM's names, with our prefix: read at scrape time or counted as requests end.

The label `model_name` has at most `MAX_MODEL_NAMES` values at once: every checkpoint is a new name, and a
server that runs for months would otherwise export each for ever.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.inference.held import HeldModel
from serving.inference.pool import ModelPool

PREFIX = "gpu_assets:"
MAX_MODEL_NAMES = 16
ABORTED = "abort"
"""The finish reason of an answer whose client left or whose engine died."""

_FIRST_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BETWEEN_TOKENS_S = (0.0005, 0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.025, 0.04, 0.075, 0.15, 0.3, 1.0, 5.0)
_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SWAP_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_MODEL = "model_name"

Family = TypeVar("Family", Counter, Histogram)


class Metrics:
    """One registry a server; latencies in seconds."""

    def __init__(self, pool: ModelPool) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_PoolCollector(pool))
        self._of_models: list[Counter | Histogram] = []
        self._names: dict[str, None] = {}
        self._prompt_tokens = self._of_model(self._counter("prompt_tokens", "Tokens of prompts.", _MODEL))
        self._generation_tokens = self._of_model(self._counter("generation_tokens", "Tokens of answers.", _MODEL))
        self._ended = self._of_model(
            self._counter("request_success", "Answers that ended, by why.", _MODEL, "finished_reason")
        )
        self._first_token = self._of_model(
            self._histogram("time_to_first_token_seconds", "Submission to the first token.", _FIRST_TOKEN_S, _MODEL)
        )
        self._between_tokens = self._of_model(
            self._histogram("inter_token_latency_seconds", "One token to the next.", _BETWEEN_TOKENS_S, _MODEL)
        )
        self._latency = self._of_model(
            self._histogram("e2e_request_latency_seconds", "Arrival to the end of the answer.", _REQUEST_S, _MODEL)
        )
        self._requests = self._counter("requests", "Requests to /v1, by the name of their key.", "key_name")
        self._refused = self._counter("requests_refused", "Requests refused, by status and code.", "status", "code")
        self._swap = self._histogram("swap_duration_seconds", "A deployment: loading, checks and the flip.", _SWAP_S)
        self._restarts = self._counter("engine_restarts", "Engines that died and were built anew.")

    def record(
        self,
        model_name: str,
        *,
        prompt_tokens: int,
        completion_tokens: int,
        first_token_s: float,
        seconds: float,
        finish_reason: str = ABORTED,
    ) -> None:
        """Count an answer that has ended, whether or not its client stayed."""
        self._keep(model_name)
        self._prompt_tokens.labels(model_name).inc(prompt_tokens)
        self._generation_tokens.labels(model_name).inc(completion_tokens)
        self._ended.labels(model_name, finish_reason).inc()
        if completion_tokens:
            self._first_token.labels(model_name).observe(first_token_s)
        self._latency.labels(model_name).observe(seconds)

    def between_tokens(self, model_name: str, seconds: float, tokens: int) -> None:
        """Count the time from one arrival of tokens of an answer to the next, in which so many came."""
        self._keep(model_name)
        series = self._between_tokens.labels(model_name)
        for _ in range(tokens):
            series.observe(seconds / tokens)

    def requested(self, key_name: str) -> None:
        """Count a request to /v1, refused or not, by whose key it came with."""
        self._requests.labels(key_name).inc()

    def refused(self, status: int, code: str | None) -> None:
        """Count an answer in the error shape."""
        self._refused.labels(str(status), code or "none").inc()

    def swapped(self, seconds: float) -> None:
        """Count a deployment that succeeded."""
        self._swap.observe(seconds)

    def engine_restarted(self) -> None:
        """Count an engine that had died and was built anew."""
        self._restarts.inc()

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)

    def _keep(self, model_name: str) -> None:
        """Note that a name is in use, and forget the one that was longest out of use if there are too many."""
        self._names.pop(model_name, None)
        self._names[model_name] = None
        if len(self._names) > MAX_MODEL_NAMES:
            oldest = next(iter(self._names))
            del self._names[oldest]
            for family in self._of_models:
                family.remove_by_labels({_MODEL: oldest})

    def _of_model(self, family: Family) -> Family:
        self._of_models.append(family)
        return family

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, text, labels, buckets=buckets, registry=self._registry)


class _PoolCollector(Collector):
    """What the engines are doing now; models that were let go are not in it."""

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    def collect(self) -> Iterable[Metric]:
        running = _gauge("num_requests_running", "Requests in a batch.")
        waiting = _gauge("num_requests_waiting", "Requests in the queue.")
        cache = _gauge("kv_cache_usage_perc", "Share of the key-value cache in use; 1 is all of it.")
        info = _gauge("model_info", "Held models; always 1.", "weights_sha256", "checkpoint_step", "champion")
        for name, models in _by_name(self._pool.models).items():
            stats = [model.engine.stats() for model in models]
            running.add_metric([name], sum(each.running for each in stats))
            waiting.add_metric([name], sum(each.waiting for each in stats))
            cache.add_metric([name], max(each.cache_use for each in stats))
            for model in models:
                champion = str(model is self._pool.champion).lower()
                step = "" if model.folder.step is None else str(model.folder.step)
                info.add_metric([name, model.weights_sha256, step, champion], 1)
        return [running, waiting, cache, info]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, labels=[_MODEL, *labels])


def _by_name(models: Iterable[HeldModel]) -> dict[str, list[HeldModel]]:
    """Two versions of one name are one series: the same labels twice are no exposition."""
    named: dict[str, list[HeldModel]] = {}
    for model in models:
        named.setdefault(model.name, []).append(model)
    return named
