"""Every answer as an MLflow trace, written by a thread of its own: a dead MLflow delays and fails no request."""

import logging
import os
import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

from flows import store
from flows._served import Served

log = logging.getLogger("polm")
ROOM = 2000
"""Traces that may wait. More are dropped and counted: memory stays bounded when MLflow is slower than the model."""
FLUSH_SECONDS = 20.0
"""That the last traces have when the server ends."""


@dataclass(frozen=True)
class Record:
    """One answered request."""

    request: str
    """Its id, `chatcmpl-…`."""
    served: Served
    messages: list[dict[str, str]]
    settings: dict[str, Any]
    text: str
    reason: str
    usage: dict[str, int]
    start: int
    """Nanoseconds since 1970."""
    end: int
    """Nanoseconds since 1970."""


class Traces:
    """The queue and its thread."""

    def __init__(self, recipe: str) -> None:
        """Start the thread. Traces go to the recipe's experiment, beside its runs."""
        # We are the thread that waits: MLflow's own would hide what failed.
        os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
        self.written, self.dropped, self.failed = 0, 0, 0
        self._recipe = recipe
        self._queue: queue.Queue[Record | None] = queue.Queue(ROOM)
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Have it written. Never blocks, never raises."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, as far as `FLUSH_SECONDS` allow."""
        deadline = time.monotonic() + FLUSH_SECONDS
        try:
            self._queue.put(None, timeout=FLUSH_SECONDS)
        except queue.Full:
            self.dropped += 1
        self._thread.join(max(0.0, deadline - time.monotonic()))
        left = self._queue.qsize()
        if self.dropped or self.failed or left:
            log.warning(
                "traces: %d written, %d dropped, %d failed, %d unwritten", self.written, self.dropped, self.failed, left
            )

    def _work(self) -> None:
        experiment = None
        while (record := self._queue.get()) is not None:
            try:
                experiment = experiment or store.experiment_id(store.client(), self._recipe)
                _write(record, experiment)
                self.written += 1
            except Exception as e:
                self.failed += 1
                if self.failed in (1, 10, 100, 1000) or self.failed % 10_000 == 0:
                    log.warning("a trace was not written (%d so far): %s", self.failed, e)


def _write(record: Record, experiment: str) -> None:
    import mlflow

    served = record.served
    tags = {"request_id": record.request, "model_name": served.name, "model_version": served.version}
    tags |= {"digest": served.tags["digest"], "export": served.tags["export"]}
    span = mlflow.start_span_no_context(
        name="chat",
        span_type="CHAT_MODEL",
        inputs={"messages": record.messages, **record.settings},
        attributes={"model": served.label, "finish_reason": record.reason, **record.usage},
        tags=tags,
        experiment_id=experiment,
        start_time_ns=record.start,
    )
    span.set_outputs({"role": "assistant", "content": record.text})
    span.end(end_time_ns=record.end)
