"""An answer as the spans of an MLflow trace: the conversation, and below it the passages that were found for it."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One answered request."""

    request: str
    """Id of the answer: `chatcmpl-` and 32 hexadecimal digits."""
    model: dict[str, str]
    """`model_name`, `model_version`, `digest` and `export` of the version that answered."""
    messages: list[dict[str, Any]]
    """The conversation; in place of a picture stand its hash, size and type."""
    settings: dict[str, Any]
    text: str
    reason: str
    usage: dict[str, int]
    start: int
    """Arrival of the request, in nanoseconds since 1970."""
    end: int
    """End of the answer, in nanoseconds since 1970."""
    retrieval: dict[str, Any] | None = None
    """`sources` that the model was shown, the numbers of those `cited`, and `seconds` by part of the search; None where
    no passage was looked for, and in the spool of a server that knew none."""


def spans_of(record: Record) -> list[Any]:
    """Build the spans of an answer, the whole one first; MLflow makes the trace and its tags from them."""
    from mlflow.tracing.constant import SpanAttributeKey as Key

    number = record.request.removeprefix("chatcmpl-")
    tags = {"mlflow.traceName": "chat", "request_id": record.request, **record.model}
    attributes = {
        Key.SPAN_TYPE: "CHAT_MODEL",
        Key.INPUTS: {"messages": record.messages, **record.settings},
        Key.OUTPUTS: {"role": "assistant", "content": record.text},
        "model": f"{record.model['model_name']}/{record.model['model_version']}",
        "finish_reason": record.reason,
        **record.usage,
        **{f"{Key.TRACE_TAG_PREFIX}{name}": value for name, value in tags.items()},
    }
    whole = _span(record, "chat", number[:16], None, record.end, attributes)
    return [whole] if record.retrieval is None else [whole, _search(record, number)]


def _search(record: Record, number: str) -> Any:
    """Build the span of the search, with its passages in the shape that MLflow shows as documents."""
    from mlflow.tracing.constant import SpanAttributeKey as Key

    retrieval = record.retrieval or {}
    documents = [
        {"id": source["chunk"], "page_content": source["text"], "metadata": source | {"doc_uri": source["document"]}}
        for source in retrieval["sources"]
    ]
    attributes = {
        Key.SPAN_TYPE: "RETRIEVER",
        Key.INPUTS: {"question": record.messages[-1]["content"]},
        Key.OUTPUTS: documents,
        "cited": retrieval["cited"],
        "seconds": retrieval["seconds"],
    }
    end = min(record.end, record.start + int(retrieval["seconds"]["all"] * 1e9))
    whole = number[:16]
    return _span(record, "retrieve", f"{int(whole, 16) ^ 1:016x}", whole, end, attributes)


def _span(record: Record, name: str, span: str, parent: str | None, end: int, attributes: dict[str, Any]) -> Any:
    from mlflow.entities import Span
    from mlflow.tracing.constant import SpanAttributeKey as Key

    trace = f"tr-{record.request.removeprefix('chatcmpl-')}"
    return Span.from_dict(
        {
            "trace_id": trace,
            "span_id": span,
            "parent_span_id": parent,
            "name": name,
            "start_time_unix_nano": record.start,
            "end_time_unix_nano": end,
            "status": {"code": "ERROR" if record.reason == "failed" else "OK"},
            "attributes": {key: json.dumps(value) for key, value in {Key.REQUEST_ID: trace, **attributes}.items()},
        }
    )
