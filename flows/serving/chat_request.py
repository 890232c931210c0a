"""OpenAI's chat completion coming in: what a request may hold.

A client writes out much that changes nothing: a null, an empty list, a setting at its neutral value, a hint that only
its own cache needs. All of that is taken. What would change the answer and cannot be done is refused, by the path of
the field in the body. Source: platform.openai.com/docs/api-reference/chat; the settings that are not OpenAI's are those
of vLLM, llama.cpp and the Hugging Face servers.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from flows.serving import json_body
from flows.serving.answer import Sampling
from flows.serving.media import MOST, Media, MediaError, read
from flows.serving.message_parts import AudioPart, Body, ImagePart, Part, TextPart
from flows.serving.sounds import inline

EVERY = 2**31 - 1
"""Value of `top_k` that means every token: more than any vocabulary has."""

Zero = Annotated[float | None, Field(ge=0, le=0)]
One = Annotated[float | None, Field(ge=1, le=1)]


def _unless(*neutral: int, instead: int | None) -> BeforeValidator:
    """Read these integers as another value. Stands behind the bounds, which would refuse it otherwise."""

    def read(value: Any) -> Any:
        return instead if isinstance(value, int) and not isinstance(value, bool) and value in neutral else value

    return BeforeValidator(read)


class Message(Body):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None
    """Text, or parts of it; null only in an answer that is sent back."""
    name: str | None = None
    """Name of the speaker, which the model does not see: no template here knows it."""
    id: str | int | None = None
    reasoning_content: Literal[""] | None = None
    reasoning: Literal[""] | None = None
    """Fields of an answer that a client sends back as it keeps it; they are empty in ours."""
    annotations: list[Any] | None = None
    sources: list[Any] | None = None
    """Fields of an answer from passages; the model is not shown them again."""

    def texts(self) -> dict[json_body.Path, str]:
        """Collect the texts of the content, by their path in the message."""
        if isinstance(self.content, list):
            parts = [(number, part) for number, part in enumerate(self.content) if isinstance(part, TextPart)]
            return {("content", number, "text"): part.text for number, part in parts}
        return {("content",): self.content or ""}

    def shown(self) -> list[tuple[int, ImagePart | AudioPart]]:
        """List the pictures and sounds of the content, with their numbers among the parts."""
        parts = self.content if isinstance(self.content, list) else []
        return [(number, part) for number, part in enumerate(parts) if not isinstance(part, TextPart)]

    def turn(self) -> dict[str, Any]:
        """Write the message for a chat template. `developer` is OpenAI's newer name of `system`.

        What a message shows comes before its text, wherever the client put it: so were the models trained.
        """
        role = "system" if self.role == "developer" else self.role
        text = "".join(self.texts().values())
        if not (shown := self.shown()):
            return {"role": role, "content": text}
        kinds = [{"type": "image" if isinstance(part, ImagePart) else "audio"} for _, part in shown]
        return {"role": role, "content": [*kinds, {"type": "text", "text": text}]}


class StreamOptions(Body):
    """What else a stream carries."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: Literal[False] | None = None


class Format(Body):
    """How the answer is written."""

    type: Literal["text"]


class RagOptions(Body):
    """How an answer from passages is made."""

    passages: Annotated[int | None, Field(ge=1)] = None
    """Most passages that are shown to the model."""


class ChatRequest(Body):
    """The body of `POST /v1/chat/completions`. Absent values are OpenAI's own; they are part of the protocol."""

    messages: Annotated[list[Message], Field(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int | None, Field(ge=1), _unless(-1, instead=None)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1), _unless(-1, instead=None)] = None
    """Newer name of `max_tokens`. -1 is llama.cpp's and LM Studio's way to write that there is no limit."""
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=1), _unless(-1, 0, instead=EVERY)] = None
    """Likeliest tokens to draw from; 0 (Hugging Face) and -1 (vLLM) are every token."""
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**64), _unless(-1, instead=None)] = None
    """Seed of the draw; -1 is llama.cpp's way to write that each draw is new."""
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    rag: bool | RagOptions | None = None
    """Whether to answer from passages of the version's index, and how; not OpenAI's, sent as `extra_body`."""

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
    """Settings of tools, like the two above; without tools they say nothing."""

    # No answer depends on these.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    cache_prompt: bool | None = None

    def turns(self) -> list[dict[str, Any]]:
        """Write the conversation for a chat template."""
        return [message.turn() for message in self.messages]

    def media(self, allowed: Path | None) -> list[Media]:
        """Read what the conversation shows, in order.

        Args:
            allowed: folder below which files may be read; None allows none.

        Raises:
            MediaError: too many pictures or sounds, or one that cannot be read.
        """
        media: list[Media] = []
        for number, message in enumerate(self.messages):
            for inner, part in message.shown():
                place = json_body.name(("messages", number, "content", inner))
                if len(media) == MOST:
                    raise MediaError(f"'{place}' is one too many: {MOST} are taken", place, "too_many_images")
                if isinstance(part, ImagePart):
                    media.append(Media("image", read(part.image_url.url, place, allowed), place))
                else:
                    media.append(Media("audio", inline(part.input_audio.data, place), place))
        return media

    def limit(self) -> int | None:
        """Read how long the answer may be, in tokens; None where the client sets no limit."""
        return min((n for n in (self.max_completion_tokens, self.max_tokens) if n is not None), default=None)

    def stops(self) -> tuple[str, ...]:
        """List the texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def settings(self) -> dict[str, Any]:
        """Collect the settings that the client gave, for the trace."""
        hints = {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "cache_prompt"}
        return self.model_dump(exclude={"messages", "model", *hints}, exclude_none=True)

    def sampling(self, room: int) -> Sampling:
        """Decide how the answer is drawn.

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
