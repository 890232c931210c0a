"""The prompt of an exported model that sees, without PyTorch: its text, its tokens, and its pictures as numbers.

The files are those that the model's processor has: `chat_template.jinja`, `tokenizer.json`, and the steps for pictures
in `processor_config.json`. transformers' processor needs PyTorch and seconds to import, which a server has no use for;
that this reader gives the same text, tokens and numbers is checked when a model is exported, and written to
`parity.json`. A processor whose pictures take another way than scaling, shifting and dividing is refused there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from tasks.export.prompt_reader import PROCESSOR, MediaPrompt, Message, PromptReader
from tasks.stage.errors import ModelError

SIDES = {"height", "width"}
STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True, "do_center_crop": False}
"""Steps of a processor that are made here, and the one that must not be asked for."""


@dataclass(frozen=True)
class Pictured(MediaPrompt):
    """A prompt that is ready for the model, with its pictures."""

    image_token_id: int
    """The placeholder."""
    pixels: Any
    """Pictures in order, float32 `[pictures, 3, height, width]`; none of them is `[0, 3, height, width]`."""

    @property
    def placeholder_id(self) -> int:
        """The same."""
        return self.image_token_id

    @property
    def media(self) -> Any:
        """The pictures."""
        return self.pixels

    def features(self, encoded: Any) -> Any:
        """Return all features, which come as `[pictures x places, width]`."""
        return encoded


class Reader(PromptReader):
    """Template, tokenizer and picture processor of a folder."""

    kind, sense = "picture", "sees"

    def __init__(self, folder: Path) -> None:
        """Read the folder's files.

        Args:
            folder: a form of an export, or the model's own folder.

        Raises:
            ModelError: a file is missing, or the processor takes steps that are not made here.
        """
        super().__init__(folder, "image_token")
        self._steps = _steps(folder / PROCESSOR, self.settings)
        self.image_token, self.image_token_id = self.placeholder, self.placeholder_id
        self.tokens_per_image = (self._steps["size"]["height"] // self.settings["patch_size"]) * (
            self._steps["size"]["width"] // self.settings["patch_size"]
        ) + self.settings.get("num_additional_image_tokens", 0)

    def encode(self, text: str) -> list[int]:
        """Tokenize what the template wrote; each placeholder becomes as many as a picture has features."""
        return self.spread(text, repeat(self.tokens_per_image))

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

    def prompt(self, text: str, media: Sequence[Any]) -> Pictured:
        """Make a prompt of what the template wrote and its pictures, each a `PIL.Image.Image`."""
        return Pictured(self.encode(text), self.image_token_id, self.pixels(media))

    def read(self, messages: Sequence[Message], media: Sequence[Any]) -> Pictured:
        """Read a conversation with its pictures. Raises as `render`."""
        return self.prompt(self.render(messages), media)


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
