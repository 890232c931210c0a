"""OpenAI's chat completion coming in: what a request may hold.

A client writes out much that changes nothing: a null, an empty list, a setting at its neutral value, a hint that only
its own cache needs. All of that is taken. What would change the answer and cannot be done is refused, by the path of
the field in the body. Source: platform.openai.com/docs/api-reference/chat; the settings that are not OpenAI's are those
of vLLM, llama.cpp and the Hugging Face servers.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from flows.serving import json_body
from flows.serving.answer import Sampling
from flows.serving.json_body import BodyError
from flows.serving.openai_api import RequestError
from tasks.stage.config import nearest

BODY_LIMIT = 1_000_000
"""Bytes of a request."""
EVERY = 2**31 - 1
"""Of `top_k`: more tokens than any vocabulary has."""
NEAR = 0.8
"""Likeness of a wrong key and a right one, from 0 to 1, from which the right one is suggested."""
WORDS = {
    "list_type": "input should be a valid array",
    "dict_type": "input should be a valid object",
    "model_type": "input should be a valid object",
}
"""Pydantic's kinds of errors that it words for Python; the client wrote JSON."""

Zero = Annotated[float | None, Field(ge=0, le=0)]
One = Annotated[float | None, Field(ge=1, le=1)]


def _unless(*neutral: int, instead: int | None) -> BeforeValidator:
    """Read these integers as another value. Stands behind the bounds, which would refuse it otherwise."""

    def read(value: Any) -> Any:
        return instead if isinstance(value, int) and not isinstance(value, bool) and value in neutral else value

    return BeforeValidator(read)


class _Body(BaseModel):
    """A part of a request. A key that nobody knows is wrong, unless it holds nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nothing(cls, data: Any) -> Any:
        """Clients write out what they do not use: `tools: null`, `tool_calls: []`, `logit_bias: {}`."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key in cls.model_fields or value not in (None, [], {})}


class Part(_Body):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str
    cache_control: dict[str, Any] | None = None
    """A hint to Anthropic's cache; no answer depends on it."""


class Message(_Body):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None
    """Null only in an answer that is sent back."""
    name: str | None = None
    """Taken and not shown to the model: no template here knows it."""
    id: str | int | None = None
    reasoning_content: Literal[""] | None = None
    reasoning: Literal[""] | None = None
    """A client sends an answer back as it keeps it; these are empty in ours."""

    def texts(self) -> dict[json_body.Path, str]:
        """The texts of the content, by their path in the message."""
        if isinstance(self.content, list):
            return {("content", number, "text"): part.text for number, part in enumerate(self.content)}
        return {("content",): self.content or ""}

    def turn(self) -> dict[str, str]:
        """The message for a chat template. `developer` is OpenAI's newer name of `system`."""
        return {"role": "system" if self.role == "developer" else self.role, "content": "".join(self.texts().values())}


class StreamOptions(_Body):
    """What else a stream carries."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: Literal[False] | None = None


class Format(_Body):
    """How the answer is written."""

    type: Literal["text"]


class ChatRequest(_Body):
    """The body of `POST /v1/chat/completions`. Absent values are OpenAI's own; they are part of the protocol."""

    messages: Annotated[list[Message], Field(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int | None, Field(ge=1), _unless(-1, instead=None)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1), _unless(-1, instead=None)] = None
    """-1 is llama.cpp's and LM Studio's way to write that there is no limit."""
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=1), _unless(-1, 0, instead=EVERY)] = None
    """0 (Hugging Face) and -1 (vLLM) are every token."""
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**64), _unless(-1, instead=None)] = None
    """-1 is llama.cpp's way to write that each draw is new."""
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Here only at the value that changes nothing.
    n: Literal[1] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    ignore_eos: Literal[False] | None = None
    min_tokens: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    presence_penalty: Zero = None
    frequency_penalty: Zero = None
    repetition_penalty: One = None
    min_p: Zero = None
    top_a: Zero = None
    typical_p: One = None
    repeat_penalty: One = None
    length_penalty: One = None
    use_beam_search: Literal[False] | None = None
    skip_special_tokens: Literal[True] | None = None
    add_generation_prompt: Literal[True] | None = None
    continue_final_message: Literal[False] | None = None
    logit_bias: dict[str, Zero] | None = None
    response_format: Format | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None
    reasoning_effort: Literal["none"] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    """Without tools these three say nothing."""

    # No answer depends on these.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    cache_prompt: bool | None = None

    def turns(self) -> list[dict[str, str]]:
        """The conversation for a chat template."""
        return [message.turn() for message in self.messages]

    def limit(self) -> int | None:
        """Longest answer asked for, in tokens."""
        return min((n for n in (self.max_completion_tokens, self.max_tokens) if n is not None), default=None)

    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def settings(self) -> dict[str, Any]:
        """The settings that the client gave, for the trace."""
        hints = {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "cache_prompt"}
        return self.model_dump(exclude={"messages", "model", *hints}, exclude_none=True)

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
            seed=None if self.seed is None else self.seed % 2**31,
            stop=self.stops(),
        )


def parse(body: bytes) -> ChatRequest:
    """Read a request. Raises RequestError naming the first field that is wrong, by its path in the body."""
    if len(body) > BODY_LIMIT:
        raise RequestError(413, f"the request has {len(body)} bytes, at most {BODY_LIMIT} are taken; send less")
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
    if message.role != "assistant" and not message.turn()["content"].strip():  # an answer may have been empty
        param = json_body.name((*path, "content"))
        raise RequestError(400, f"'{param}' is empty; send a text", param=param)


def _refusal(error: ValidationError, data: Any) -> RequestError:
    """The first error, in the client's words."""
    found = [(_place(e["loc"], data, e["type"] == "missing"), e) for e in error.errors(include_url=False)]
    first = found[0][0]
    # A text that may also be a list of parts has an error for each; the one that came further knows more.
    within = [(path, e) for path, e in found if path[: len(first)] == first]
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
    said = WORDS.get(worst["type"], worst["msg"][:1].lower() + worst["msg"][1:].replace("False", "false"))
    return RequestError(400, f"'{name}' is {json_body.shown(worst['input'])}: {said}", param=name)


def _place(location: json_body.Path, data: Any, missing: bool) -> json_body.Path:
    """Pydantic's location without the names of types in it, which lead nowhere in the body.

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
    """Keys that the object may have in which the path ends."""
    inside: dict[json_body.Path, type[BaseModel]] = {
        (): ChatRequest,
        ("messages",): Message,
        ("messages", "content"): Part,
        ("stream_options",): StreamOptions,
        ("response_format",): Format,
    }
    level = tuple(part for part in path[:-1] if isinstance(part, str))
    return [*inside[level].model_fields]
