"""The prompt of an exported model that sees or hears, without PyTorch: its template and its tokenizer.

What is alike for pictures (`tasks/export/multimodal_reader.py`) and for sounds (`tasks/export/sound_reader.py`). The
files are those that the model's processor has: `chat_template.jinja`, `tokenizer.json`, and `processor_config.json`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.export import genai
from tasks.stage.artifact import read_json
from tasks.stage.errors import DataError, ModelError

PROCESSOR = "processor_config.json"
"""File with the steps from a picture or a sound to numbers, and the token that stands for one."""
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
"""Tokens that a chat template may name."""

Message = Mapping[str, Any]
"""A turn: `role`, and `content`, a text or parts of it (`{"type": "text", "text": …}`, `{"type": "image"}`)."""


@dataclass(frozen=True)
class MediaPrompt(ABC):
    """A prompt that is ready for the model."""

    ids: list[int]
    """Tokens; the placeholder stands as often as what is seen or heard there has features."""

    def __len__(self) -> int:
        """Count the tokens."""
        return len(self.ids)

    @property
    @abstractmethod
    def placeholder_id(self) -> int:
        """Token in whose places the features are put."""

    @property
    @abstractmethod
    def media(self) -> Any:
        """What the encoder is given, float32; its first dimension is 0 where the prompt is of words alone."""

    @abstractmethod
    def features(self, encoded: Any) -> Any:
        """Return the features of the prompt's places, `[places, width]`, of what the encoder made of `media`."""


class PromptReader(ABC):
    """Template and tokenizer of a folder."""

    kind: str
    """What stands in the placeholder's place, for messages: `picture`, `sound`."""
    sense: str
    """What a model does that reads such prompts: `sees`, `hears`."""

    def __init__(self, folder: Path, placeholder: str) -> None:
        """Read the folder's files.

        Args:
            folder: a form of an export, or the model's own folder.
            placeholder: key in `processor_config.json` of the token that stands for a picture or a sound.

        Raises:
            ModelError: a file is missing.
        """
        from tokenizers import Tokenizer

        for name in (PROCESSOR, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if not (folder / name).is_file():
                raise ModelError(f"{folder}: no {name}, which a model that {self.sense} needs; export it again")
        self.settings = read_json(folder / PROCESSOR)
        if placeholder not in self.settings:
            raise ModelError(f"{folder / PROCESSOR}: no '{placeholder}'; this model {self.sense} nothing")
        self.placeholder = str(self.settings[placeholder])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        number = self.tokenizer.token_to_id(self.placeholder)
        if number is None:
            raise ModelError(f"{folder}: its tokenizer has no token {self.placeholder}; export the model again")
        self.placeholder_id = int(number)
        self._template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        self._tokens = _named_tokens(read_json(folder / "tokenizer_config.json"))

    def render(self, messages: Sequence[Message], template_args: Mapping[str, Any] | None = None) -> str:
        """Write a conversation by the chat template, up to where the assistant begins.

        Args:
            messages: the conversation.
            template_args: passed to the template, e.g. `enable_thinking: false`.

        Raises:
            DataError: a text spells the placeholder, or holds a character that would not reach the model.
            ModelError: the template refuses these messages.
        """
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        for message in messages:
            for text in texts(message):
                self.check_text(text)
        turns = [dict(message) for message in messages]
        more = {**self._tokens, **(template_args or {})}
        try:
            rendered, _ = render_jinja_template(
                [turns], chat_template=self._template, add_generation_prompt=True, **more
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as e:
            raise ModelError(f"the chat template refuses these messages ({e})") from e
        return str(rendered[0])

    def check_text(self, text: str) -> None:
        """Raise DataError for a text that holds the placeholder, or no text at all (`genai.check_text`)."""
        genai.check_text(text)
        if self.placeholder in text:
            what = f"which stands for a {self.kind} in what the model reads; leave it out"
            raise DataError(f"a text has '{self.placeholder}', {what}")

    def spread(self, text: str, counts: Iterable[int]) -> list[int]:
        """Tokenize what the template wrote; each placeholder becomes as many as `counts` says, in order.

        Those beyond the counts stay single.
        """
        left = iter(counts)
        ids: list[int] = []
        for token in self.tokenizer.encode(text, add_special_tokens=False).ids:
            ids += [token] * (next(left, 1) if token == self.placeholder_id else 1)
        return ids

    @abstractmethod
    def prompt(self, text: str, media: Sequence[Any]) -> MediaPrompt:
        """Make a prompt of what the template wrote.

        Args:
            text: from `render`.
            media: what stands in the placeholders' places, decoded, in order.
        """

    def read(self, messages: Sequence[Message], media: Sequence[Any]) -> MediaPrompt:
        """Read a conversation with what it shows or plays. Raises as `render`."""
        return self.prompt(self.render(messages), media)

    def stream(self) -> "Stream":
        """Begin to decode one answer, token by token."""
        return Stream(self.tokenizer)

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode an answer at once, special tokens left out."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


class Stream:
    """Text of one answer, token by token."""

    def __init__(self, tokenizer: Any) -> None:
        """Args: tokenizer: of the `tokenizers` library."""
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def decode(self, token: int) -> str:
        """Return the text that a token adds; empty where it only begins a character."""
        return self._stream.step(self._tokenizer, token) or ""


def texts(message: Message) -> list[str]:
    """List the texts of a message."""
    content = message["content"]
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if part["type"] == "text"]


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Collect the tokens by which a chat template may call the special ones."""
    named = {name: config[name] for name in NAMES if config.get(name) is not None}
    return {name: str(token["content"] if isinstance(token, dict) else token) for name, token in named.items()}
