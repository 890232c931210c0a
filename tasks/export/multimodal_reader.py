"""The prompt of an exported model that sees, without PyTorch: its text, its tokens, and its pictures as numbers.

The files are those that the model's processor has: `chat_template.jinja`, `tokenizer.json`, and the steps for pictures
in `processor_config.json`. transformers' processor needs PyTorch and seconds to import, which a server has no use for;
that this reader gives the same text, tokens and numbers is checked when a model is exported, and written to
`parity.json`. A processor whose pictures take another way than scaling, shifting and dividing is refused there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.export import genai
from tasks.stage.artifact import read_json
from tasks.stage.errors import DataError, ModelError

PROCESSOR = "processor_config.json"
"""File with the steps from a picture to numbers, and the token that stands for one."""
SIDES = {"height", "width"}
STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True, "do_center_crop": False}
"""Steps of a processor that are made here, and the one that must not be asked for."""
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
"""Tokens that a chat template may name."""

Message = Mapping[str, Any]
"""A turn: `role`, and `content`, a text or parts of it (`{"type": "text", "text": …}`, `{"type": "image"}`)."""


@dataclass(frozen=True)
class Pictured:
    """A prompt that is ready for the model."""

    ids: list[int]
    """Tokens; each picture's placeholder stands as often as the picture has features."""
    image_token_id: int
    """The placeholder."""
    pixels: Any
    """Pictures in order, float32 `[pictures, 3, height, width]`; none of them is `[0, 3, height, width]`."""

    def __len__(self) -> int:
        """Count the tokens."""
        return len(self.ids)


class Reader:
    """Template, tokenizer and picture processor of a folder."""

    def __init__(self, folder: Path) -> None:
        """Read the folder's files.

        Args:
            folder: a form of an export, or the model's own folder.

        Raises:
            ModelError: a file is missing, or the processor takes steps that are not made here.
        """
        from tokenizers import Tokenizer

        for name in (PROCESSOR, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if not (folder / name).is_file():
                raise ModelError(f"{folder}: no {name}, which a model that sees needs; export it again")
        settings = read_json(folder / PROCESSOR)
        self._steps = _steps(folder / PROCESSOR, settings)
        self.image_token = str(settings["image_token"])
        self.tokens_per_image = (self._steps["size"]["height"] // settings["patch_size"]) * (
            self._steps["size"]["width"] // settings["patch_size"]
        ) + settings.get("num_additional_image_tokens", 0)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        placeholder = self.tokenizer.token_to_id(self.image_token)
        if placeholder is None:
            raise ModelError(f"{folder}: its tokenizer has no token {self.image_token}; export the model again")
        self.image_token_id = placeholder
        self._template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        self._tokens = _named_tokens(read_json(folder / "tokenizer_config.json"))

    def render(self, messages: Sequence[Message], template_args: Mapping[str, Any] | None = None) -> str:
        """Write a conversation by the chat template, up to where the assistant begins.

        Args:
            messages: the conversation.
            template_args: passed to the template, e.g. `enable_thinking: false`.

        Raises:
            DataError: a text spells the placeholder of a picture, or holds a character that would not reach the model.
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
        """Raise DataError for a text that holds a picture's placeholder, or no text at all (`genai.check_text`)."""
        genai.check_text(text)
        if self.image_token in text:
            what = "which stands for a picture in what the model reads; leave it out"
            raise DataError(f"a text has '{self.image_token}', {what}")

    def encode(self, text: str) -> list[int]:
        """Tokenize what the template wrote; each placeholder becomes as many as a picture has features."""
        ids: list[int] = []
        for token in self.tokenizer.encode(text, add_special_tokens=False).ids:
            ids += [token] * (self.tokens_per_image if token == self.image_token_id else 1)
        return ids

    def pixels(self, pictures: Sequence[Any]) -> Any:
        """Turn pictures into numbers, as `Pictured` has them.

        Args:
            pictures: each a `PIL.Image.Image`, of any size.
        """
        import numpy as np

        height, width = (self._steps["size"][side] for side in ("height", "width"))
        numbers = np.empty((len(pictures), 3, height, width), dtype=np.float32)
        mean, std = (np.array(self._steps[key], dtype=np.float32) for key in ("image_mean", "image_std"))
        for number, picture in zip(numbers, pictures, strict=True):
            scaled = picture.convert("RGB").resize((width, height), self._steps["resample"])
            # In double precision first, and rounded then: the order of transformers' own processor, to the bit.
            values = (np.asarray(scaled).astype(np.float64) * self._steps["rescale_factor"]).astype(np.float32)
            number[:] = ((values - mean) / std).transpose(2, 0, 1)
        return numbers

    def read(self, messages: Sequence[Message], pictures: Sequence[Any]) -> Pictured:
        """Read a conversation with its pictures. Raises as `render`."""
        return Pictured(self.encode(self.render(messages)), self.image_token_id, self.pixels(pictures))

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


def _steps(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read how a picture becomes numbers. Raises ModelError where that takes steps which are not made here."""
    steps: dict[str, Any] = settings.get("image_processor") or {}
    wrong = [f"{key} is {steps.get(key)}" for key, wanted in STEPS.items() if steps.get(key) is not wanted]
    wrong += ["do_pad is set"] if steps.get("do_pad") else []
    if set(steps.get("size") or ()) != SIDES:
        wrong.append(f"size is {steps.get('size')}, and no height and width")
    if settings.get("vision_feature_select_strategy", "full") != "full" or "patch_size" not in settings:
        wrong.append("its features are chosen, and not those of the whole picture")
    if wrong:
        raise ModelError(
            f"{path}: this processor prepares pictures in a way that an export cannot ({'; '.join(wrong)}); models "
            f"that `align` made can be exported, and of others the PyTorch model answers"
        )
    return steps


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Collect the tokens by which a chat template may call the special ones."""
    named = {name: config[name] for name in NAMES if config.get(name) is not None}
    return {name: str(token["content"] if isinstance(token, dict) else token) for name, token in named.items()}
