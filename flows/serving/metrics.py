"""What `/metrics` shows, in Prometheus's words. A registry of its own: nothing of the process's other libraries."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from flows.serving.follower import Follower
from flows.serving.traces import Traces

if TYPE_CHECKING:
    from flows.serving.requests import Exchange

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
"""Bounds of the histograms' buckets."""


class Metrics:
    """Counters of the server; `page` is what Prometheus reads."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, follower: Follower, traces: Traces, taken: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "polm_requests", "Requests by HTTP status and version", ("status", "version"), registry=self._registry
        )
        self._tokens = Counter("polm_tokens", "Tokens read and written", ("kind",), registry=self._registry)
        self._seconds = Histogram("polm_request_seconds", "Whole requests", registry=self._registry, buckets=SECONDS)
        self._first = Histogram(
            "polm_first_token_seconds", "Until the first text", registry=self._registry, buckets=SECONDS
        )
        self._registry.register(_State(follower, traces, taken))

    def count(self, exchange: "Exchange", status: int) -> None:
        """Count a request that the model was asked."""
        self._requests.labels(status, exchange.served.version).inc()
        self._tokens.labels("prompt").inc(exchange.usage["prompt_tokens"])
        self._tokens.labels("completion").inc(exchange.usage["completion_tokens"])
        self._seconds.observe(time.monotonic() - exchange.began)
        if exchange.first is not None:
            self._first.observe(exchange.first)

    def refuse(self, status: int) -> None:
        """Count a request that was refused; `count` has those that the model was asked: 200, 499, 500, 504."""
        if status in (400, 401, 403, 404, 413, 429, 503):
            self._requests.labels(status, "").inc()

    def page(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)


class _State:
    """What is read when it is asked for."""

    def __init__(self, follower: Follower, traces: Traces, taken: Callable[[], int]) -> None:
        self._follower, self._traces, self._taken = follower, traces, taken

    def collect(self) -> Iterator[Metric]:
        """The current values."""
        yield GaugeMetricFamily("polm_requests_taken", "Being answered or waiting", value=self._taken())
        yield GaugeMetricFamily("polm_traces_waiting_bytes", "Traces in the spool", value=self._traces.waiting)
        served = self._follower.current
        info = GaugeMetricFamily("polm_model_info", "The version served now", labels=("name", "version"))
        info.add_metric((served.name, served.version), 1)
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
