"""The trace of an answer, as the server writes it."""

import time
from typing import Any, cast

from flows.serving.follower import LoadedVersion
from flows.serving.spans import Record
from flows.serving.traces import Traces
from flows.tracking import client

NAME = "polm-tiny"
ANSWER = "chatcmpl-0123456789abcdef0123456789abcdef"


def trace(
    request: str,
    version: str = "1",
    messages: list[dict[str, Any]] | None = None,
    retrieval: dict[str, Any] | None = None,
) -> None:
    """Write the trace of an answer as the server does."""
    tags = dict(client.client().get_model_version(NAME, "1").tags)
    model = LoadedVersion(NAME, version, tags, cast(Any, None)).origin
    messages = messages or [{"role": "user", "content": "What is 2 + 3?"}]
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    traces = Traces("tiny")
    now = time.time_ns()
    end = now + 10**6
    traces.put(Record(request, model, messages, {"temperature": 0.0}, "It is 5.", "stop", usage, now, end, retrieval))
    traces.close()
    assert (traces.written, traces.failed, traces.dropped) == (1, 0, 0)
