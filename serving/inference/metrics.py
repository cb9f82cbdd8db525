"""Figures for Prometheus under vLLM's names, with our prefix: read at scrape time or counted as requests end."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.inference.pool import ModelPool

PREFIX = "gpu_assets:"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LABELS = ("model_name",)


class Metrics:
    """One registry a server; latencies in seconds."""

    def __init__(self, pool: ModelPool) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_PoolCollector(pool))
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens of answers.")
        self._first_token = self._histogram("time_to_first_token_seconds", "Submission to the first token.")
        self._between_tokens = self._histogram("inter_token_latency_seconds", "One token to the next of an answer.")
        self._latency = self._histogram("e2e_request_latency_seconds", "Arrival to the end of the answer.")

    def record(
        self, model_name: str, *, prompt_tokens: int, completion_tokens: int, first_token_s: float, seconds: float
    ) -> None:
        """Count a request that has ended, whether or not its client stayed."""
        self._prompt_tokens.labels(model_name).inc(prompt_tokens)
        self._generation_tokens.labels(model_name).inc(completion_tokens)
        if completion_tokens:
            self._first_token.labels(model_name).observe(first_token_s)
        self._latency.labels(model_name).observe(seconds)

    def between_tokens(self, model_name: str, seconds: float, tokens: int) -> None:
        """Count the time from one arrival of tokens of an answer to the next, in which so many came."""
        for _ in range(tokens):
            self._between_tokens.labels(model_name).observe(seconds / tokens)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(PREFIX + name, text, _LABELS, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(PREFIX + name, text, _LABELS, buckets=_SECONDS, registry=self._registry)


class _PoolCollector(Collector):
    """What the engines are doing now."""

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    def collect(self) -> Iterable[Metric]:
        running = GaugeMetricFamily(PREFIX + "num_requests_running", "Requests in a batch.", labels=_LABELS)
        waiting = GaugeMetricFamily(PREFIX + "num_requests_waiting", "Requests in the queue.", labels=_LABELS)
        labels = ("model_name", "weights_sha256", "champion")
        info = GaugeMetricFamily(PREFIX + "model_info", "Held models; always 1.", labels=labels)
        for model in self._pool.models:
            stats = model.engine.stats()
            running.add_metric([model.name], stats.running)
            waiting.add_metric([model.name], stats.waiting)
            info.add_metric([model.name, model.weights_sha256, str(model is self._pool.champion).lower()], 1)
        return [running, waiting, info]
