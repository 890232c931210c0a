"""OpenAI's chat completion going out: the shapes of answers and errors. `chat_request.py` has what comes in.

Source: platform.openai.com/docs/api-reference/chat.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from flows.serving.grounded import Source, cited
from tasks.retrieval.prompts import PromptFormat


@dataclass(frozen=True)
class Identity:
    """What every message about one answer repeats."""

    id: str
    """Id of the answer: `chatcmpl-` and 32 hexadecimal digits."""
    model: str
    """Version that answers, e.g. `polm-tiny/3`."""
    fingerprint: str
    """Version and bytes of the model, OpenAI's `system_fingerprint`."""


class RequestError(Exception):
    """A request that is not answered, in OpenAI's shape."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        """Say what is wrong.

        Args:
            status: status code of HTTP.
            message: what, why, and what to do.
            param: field at fault.
            code: word for programs.
            retry: seconds after which to ask again.
        """
        super().__init__(message)
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.status, self.retry = status, retry
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def completion(
    identity: Identity, text: str, reason: str, usage: dict[str, int], more: dict[str, Any]
) -> dict[str, Any]:
    """Write a whole answer. `more` has further fields of its message."""
    message = {"role": "assistant", "content": text, "refusal": None, **more}
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    return _head("chat.completion", identity) | {"choices": [choice], "usage": usage}


def chunk(identity: Identity, delta: dict[str, Any] | None, reason: str | None, **more: Any) -> bytes:
    """Write one event of a streamed answer; without a delta, one that carries the usage alone."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]
    return event(_head("chat.completion.chunk", identity) | {"choices": choices, **more})


def annotations(text: str, form: PromptFormat, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Write the citations of an answer as chat completions have them, each with what it cites.

    Args:
        text: the answer.
        form: the reader's format.
        sources: what it was shown.

    Returns:
        Annotations of the type `url_citation`, the only one of chat completions. A document has no address on the web:
        its URL is `document:<id>#char=<start>,<end>`, with the fragment of RFC 5147. `source` is the passage without
        its text, a field that is not OpenAI's.
    """
    written = []
    for source, start, end in cited(text, form, sources):
        url = f"document:{quote(source.document)}#char={source.start},{source.end}"
        citation = {"start_index": start, "end_index": end, "title": source.place, "url": url}
        record = {key: value for key, value in source.record().items() if key != "text"}
        written.append({"type": "url_citation", "url_citation": citation, "source": record})
    return written


def event(body: dict[str, Any]) -> bytes:
    """Write a server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def usage(prompt: int, answer: int) -> dict[str, int]:
    """Count tokens in OpenAI's shape; the token that ends an answer is not one of the answer's."""
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _head(kind: str, identity: Identity) -> dict[str, Any]:
    return {
        "id": identity.id,
        "object": kind,
        "created": int(time.time()),
        "model": identity.model,
        "system_fingerprint": identity.fingerprint,
    }
