"""A request's body read as a chat completion, or refused in the words of the client that sent it."""

from typing import Any

from pydantic import BaseModel, ValidationError

from flows.serving import json_body
from flows.serving.chat_request import ChatRequest, Format, Message, RagOptions, StreamOptions
from flows.serving.json_body import BodyError
from flows.serving.message_parts import ImageUrl, InputAudio, TextPart
from flows.serving.openai_api import RequestError
from tasks.stage.config import nearest

BODY_LIMIT = 1_000_000
"""Bytes that a request of words may have."""
SHOWING_LIMIT = 20_000_000
"""Bytes that a request may have which can show pictures or play sounds."""
NEAR = 0.8
"""Likeness of a wrong key and a right one, from 0 to 1, from which the right one is suggested."""
WORDS = {
    "list_type": "input should be a valid array",
    "dict_type": "input should be a valid object",
    "model_type": "input should be a valid object",
}
"""Pydantic's kinds of errors that it words for Python; the client wrote JSON."""


def parse(body: bytes, limit: int = BODY_LIMIT) -> ChatRequest:
    """Read a request of at most so many bytes.

    Raises:
        RequestError: naming the first field that is wrong, by its path in the body.
    """
    if len(body) > limit:
        raise RequestError(413, f"the request has {len(body)} bytes, at most {limit} are taken; send less")
    try:
        data = json_body.read(body)
        request = ChatRequest.model_validate(data)
    except BodyError as e:
        raise RequestError(400, str(e), param=json_body.name(e.path) or None) from None
    except ValidationError as e:
        raise _refusal(e, data) from None
    for number, message in enumerate(request.messages):
        _check(message, ("messages", number))
    if request.messages[-1].role == "assistant":
        raise RequestError(
            400, "'messages' ends with one of the assistant's; send one of the user's to be answered", param="messages"
        )
    if any(not stop for stop in request.stops()):
        raise RequestError(400, "'stop' holds an empty text; leave it out", param="stop")
    return request


def _check(message: Message, path: json_body.Path) -> None:
    """Raise RequestError for a message that has no text, or one that the tokenizer would cut off."""
    for inner, text in message.texts().items():
        if "\0" in text:  # the tokenizer's strings are C's: everything behind it would be lost, unsaid
            param = json_body.name((*path, *inner))
            raise RequestError(400, f"'{param}' holds the character NUL; leave it out", param=param)
    shown = message.shown()
    if shown and message.role != "user":
        param = json_body.name((*path, "content", shown[0][0]))
        raise RequestError(400, f"'{param}' is shown by '{message.role}'; only the user shows something", param=param)
    text = "".join(message.texts().values())
    if message.role != "assistant" and not shown and not text.strip():  # an answer may have been empty
        param = json_body.name((*path, "content"))
        raise RequestError(400, f"'{param}' is empty; send a text", param=param)


def _refusal(error: ValidationError, data: Any) -> RequestError:
    """Say the first error in the client's words."""
    errors = [(_place(e["loc"], data, e["type"] == "missing"), e) for e in error.errors(include_url=False)]
    first = errors[0][0]
    # A text that may also be a list of parts has an error for each; the one that came further knows more.
    within = [(path, e) for path, e in errors if path[: len(first)] == first]
    path, worst = max(within, key=lambda pair: (len(pair[0]), not pair[1]["type"].endswith("_type")))
    name = json_body.name(path)
    if not name:
        return RequestError(400, "the body must be a JSON object with the key 'messages'")
    if worst["type"] == "missing":
        return RequestError(400, f"'{name}' is missing; send it", param=name)
    if worst["type"] == "extra_forbidden":
        key = nearest(str(path[-1]), _keys(path), NEAR)
        hint = f"; did you mean '{json_body.name((*path[:-1], key))}'?" if key else "; leave it out"
        return RequestError(400, f"'{name}' is not supported by this server{hint}", param=name, code="unsupported")
    reason = WORDS.get(worst["type"], worst["msg"][:1].lower() + worst["msg"][1:].replace("False", "false"))
    return RequestError(400, f"'{name}' is {json_body.shown(worst['input'])}: {reason}", param=name)


def _place(location: json_body.Path, data: Any, missing: bool) -> json_body.Path:
    """Take the names of types out of pydantic's location: they lead nowhere in the body.

    Args:
        location: keys, indices and names of types.
        data: the body.
        missing: whether the last key is one that is not there.
    """
    path: list[int | str] = []
    for number, part in enumerate(location, 1):
        inside = (isinstance(data, list) and isinstance(part, int)) or (isinstance(data, dict) and part in data)
        if inside:
            data = data[part]
        if inside or (missing and number == len(location)):
            path.append(part)
    return tuple(path)


def _keys(path: json_body.Path) -> list[str]:
    """List the keys that the object may have in which the path ends."""
    inside: dict[json_body.Path, type[BaseModel]] = {
        (): ChatRequest,
        ("messages",): Message,
        ("messages", "content"): TextPart,
        ("messages", "content", "image_url"): ImageUrl,
        ("messages", "content", "input_audio"): InputAudio,
        ("stream_options",): StreamOptions,
        ("rag",): RagOptions,
        ("response_format",): Format,
    }
    level = tuple(part for part in path[:-1] if isinstance(part, str))
    return [*inside[level].model_fields]
