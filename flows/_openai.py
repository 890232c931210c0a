"""OpenAI's chat completion in and out: what a request may hold, and the shapes of answers and errors.

What would change the answer and cannot be done is refused; what changes nothing (`user`, `metadata`, …) is taken.
Source: platform.openai.com/docs/api-reference/chat.
"""

import difflib
import json
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows._answer import Sampling

BODY_LIMIT = 1_000_000
"""Bytes of a request."""


class RequestError(Exception):
    """A request that is not answered, in OpenAI's shape."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        """Say what is wrong.

        Args:
            status: of HTTP.
            message: what, why, and what to do.
            param: the field at fault.
            code: a word for programs.
            retry: seconds after which to ask again.
        """
        super().__init__(message)
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.status, self.retry = status, retry
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str | list[_Part]
    name: str | None = None
    """Taken and not shown to the model: no template here knows it."""
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    audio: None = None
    annotations: None = None
    """Clients send a previous answer back with these keys, empty."""

    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False


class _Format(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]


class ChatRequest(BaseModel):
    """The body of `POST /v1/chat/completions`. Absent values are OpenAI's own; they are part of the protocol."""

    model_config = ConfigDict(extra="forbid", strict=True)
    messages: Annotated[list[Message], Field(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=1)] = None
    """Not OpenAI's; other servers take it too."""
    seed: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Literal[1] | None = None
    presence_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    frequency_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    logprobs: Literal[False] | None = None
    response_format: _Format | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def turns(self) -> list[dict[str, str]]:
        """The conversation for a chat template."""
        return [{"role": m.role, "content": m.text()} for m in self.messages]

    def limit(self) -> int | None:
        """Longest answer asked for, in tokens."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling(self, room: int) -> Sampling:
        """How to draw the answer.

        Args:
            room: tokens that the context and the server leave for it; a longer answer is cut there.
        """
        return Sampling(
            max_new_tokens=min(self.limit() or room, room),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=self.stops(),
        )


def parse(body: bytes) -> ChatRequest:
    """Read a request. Raises RequestError naming the first field that is wrong."""
    if len(body) > BODY_LIMIT:
        raise RequestError(413, f"the request has {len(body)} bytes, at most {BODY_LIMIT} are taken; send less")
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as e:
        raise _refusal(e) from None
    for number, message in enumerate(request.messages):
        if message.role != "assistant" and not message.text().strip():  # an answer may have been empty
            param = f"messages[{number}].content"
            raise RequestError(400, f"'{param}' is empty; send a text", param=param)
    if request.messages[-1].role == "assistant":
        raise RequestError(
            400, "the last message is the assistant's; send one of the user's to be answered", param="messages"
        )
    if any(not stop for stop in request.stops()):
        raise RequestError(400, "'stop' holds an empty text; leave it out", param="stop")
    return request


def _refusal(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return RequestError(400, f"the body is not JSON: {first['msg']}")
    path = [part for part in first["loc"] if isinstance(part, int) or (part.isidentifier() and part != "str")]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    if not name:
        return RequestError(400, "the body must be a JSON object with the key 'messages'")
    if first["type"] == "missing":
        return RequestError(400, f"'{name}' is missing; send it", param=name)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, list(ChatRequest.model_fields), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "; leave it out"
        return RequestError(400, f"'{name}' is not supported by this server{hint}", param=name, code="unsupported")
    shown = json.dumps(first["input"], ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return RequestError(400, f"'{name}' is {shown}: {first['msg'][:1].lower()}{first['msg'][1:]}", param=name)


def completion(
    name: str, model: str, fingerprint: str, text: str, reason: str, usage: dict[str, int]
) -> dict[str, Any]:
    """A whole answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    return _head("chat.completion", name, model, fingerprint) | {"choices": [choice], "usage": usage}


def chunk(
    name: str, model: str, fingerprint: str, delta: dict[str, str] | None, reason: str | None, **more: Any
) -> bytes:
    """One event of a streamed answer; without a delta, one that carries the usage alone."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]
    return event(_head("chat.completion.chunk", name, model, fingerprint) | {"choices": choices, **more})


def event(body: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def usage(prompt: int, answer: int) -> dict[str, int]:
    """Counts of tokens; the token that ends an answer is not one of the answer's."""
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _head(kind: str, name: str, model: str, fingerprint: str) -> dict[str, Any]:
    created = int(time.time())
    return {"id": name, "object": kind, "created": created, "model": model, "system_fingerprint": fingerprint}
