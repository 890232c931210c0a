"""What `/metrics` shows, in Prometheus's words. A registry of its own: nothing of the process's other libraries."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from flows.serving.follower import Follower
from flows.serving.traces import Traces

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
"""Bounds of the histograms' buckets."""
SEARCHES = (0.0003, 0.001, 0.003, *SECONDS)
"""The same of searches, which may take less."""


class Metrics:
    """Counters of the server; `page` is what Prometheus reads."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, follower: Follower, traces: Traces, in_flight: Callable[[], int]) -> None:
        """Args: in_flight: says how many requests are being answered or wait."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "polm_requests", "Requests by HTTP status and version", ("status", "version"), registry=self._registry
        )
        self._tokens = Counter("polm_tokens", "Tokens read and written", ("kind",), registry=self._registry)
        self._seconds = Histogram("polm_request_seconds", "Whole requests", registry=self._registry, buckets=SECONDS)
        self._first = Histogram(
            "polm_first_token_seconds", "Until the first text", registry=self._registry, buckets=SECONDS
        )
        self._passages = Counter("polm_passages", "Passages shown", registry=self._registry)
        self._retrieval = Histogram(
            "polm_retrieval_seconds", "Searches, by part", ("part",), registry=self._registry, buckets=SEARCHES
        )
        self._registry.register(_State(follower, traces, in_flight))

    def count(self, status: int, version: str, usage: dict[str, int], *, seconds: float, first: float | None) -> None:
        """Count a request that the model was asked.

        Args:
            status: how it ended, as a status of HTTP.
            version: version of the registered model that was asked.
            usage: tokens, by OpenAI's names.
            seconds: how long the request took.
            first: seconds until the first text; None when there was none.
        """
        self._requests.labels(status, version).inc()
        self._tokens.labels("prompt").inc(usage["prompt_tokens"])
        self._tokens.labels("completion").inc(usage["completion_tokens"])
        self._seconds.observe(seconds)
        if first is not None:
            self._first.observe(first)

    def retrieved(self, seconds: Mapping[str, float], passages: int) -> None:
        """Count a search.

        Args:
            seconds: how long it took, by part of the index.
            passages: shown to the model.
        """
        self._passages.inc(passages)
        for part, value in seconds.items():
            self._retrieval.labels(part).observe(value)

    def refuse(self, status: int) -> None:
        """Count a request that was refused; `count` has those that the model was asked: 200, 499, 500, 504."""
        if status in (400, 401, 403, 404, 413, 429, 503):
            self._requests.labels(status, "").inc()

    def page(self) -> bytes:
        """Render the page."""
        return generate_latest(self._registry)


class _State:
    """Gauges and counters that are read when Prometheus asks for them."""

    def __init__(self, follower: Follower, traces: Traces, in_flight: Callable[[], int]) -> None:
        self._follower, self._traces, self._in_flight = follower, traces, in_flight

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        yield GaugeMetricFamily("polm_requests_taken", "Being answered or waiting", value=self._in_flight())
        yield GaugeMetricFamily("polm_traces_waiting_bytes", "Traces in the spool", value=self._traces.waiting)
        current = self._follower.current
        info = GaugeMetricFamily("polm_model_info", "The version served now", labels=("name", "version"))
        info.add_metric((current.name, current.version), 1)
        yield info
        values: dict[str, tuple[str, Any]] = {
            "polm_swaps": ("Times that another version was loaded", self._follower.swaps),
            "polm_follow_failures": ("Times that the alias could not be followed", self._follower.failures),
            "polm_traces_written": ("Traces that MLflow took", self._traces.written),
            "polm_traces_dropped": ("Traces for which the disk had no room", self._traces.dropped),
            "polm_traces_failed": ("Traces that MLflow refused", self._traces.failed),
        }
        for name, (text, value) in values.items():
            yield CounterMetricFamily(name, text, value=value)
