"""OpenAI's chat completion coming in: the parts of a message, and what every object of a request has in common."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, model_validator


class Body(BaseModel):
    """A part of a request. A key that nobody knows is wrong, unless it holds nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nothing(cls, data: Any) -> Any:
        """Clients write out what they do not use: `tools: null`, `tool_calls: []`, `logit_bias: {}`."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key in cls.model_fields or value not in (None, [], {})}


class TextPart(Body):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str
    cache_control: dict[str, Any] | None = None
    """Hint to Anthropic's cache; no answer depends on it."""


class ImageUrl(Body):
    """Where a picture comes from."""

    url: str
    """A `data:` URL, or a file of the server's that its operator allows."""
    detail: Literal["auto", "low", "high"] | None = None
    """Hint to OpenAI's models; a model here sees every picture in the size that it was trained on."""


class ImagePart(Body):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl
    cache_control: dict[str, Any] | None = None


class InputAudio(Body):
    """A sound."""

    data: str
    """Its file in base64."""
    format: str
    """What the client calls its format; the bytes tell it."""


class AudioPart(Body):
    """A sound."""

    type: Literal["input_audio"]
    input_audio: InputAudio


def _kind(value: Any) -> str:
    """Tell which part is meant; what says nothing that is known is read as a text, whose errors say what is wrong."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"part {kind}" if kind in ("image_url", "input_audio") else "part text"


Part = Annotated[
    Annotated[TextPart, Tag("part text")]
    | Annotated[ImagePart, Tag("part image_url")]
    | Annotated[AudioPart, Tag("part input_audio")],
    Discriminator(_kind),
]
"""A piece of a message. The tags are no keys of a body: they stand in the places of errors."""
