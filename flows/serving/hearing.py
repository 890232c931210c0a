"""Talking to the folder of a model that hears, on PyTorch.

A recording goes with the next question, and stays in the conversation. Processors of such models take one sound a text,
so a second one needs a new conversation.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.serving.seeing import SeeingConversation
from tasks.multimodal import hearing, sound_files
from tasks.multimodal.picture_files import Unfit
from tasks.stage.errors import DataError

MAX_SECONDS = 120.0
"""Seconds of the longest recording that is taken."""


class HearingConversation(SeeingConversation):
    """A model that hears, with what was said so far."""

    part = "audio"

    def hear(self, path: Path) -> None:
        """Play a recording with the next question.

        Raises:
            DataError: it cannot be read, or the conversation has one.
        """
        if self._pictures or self._shown:
            raise DataError("this model hears one recording in a conversation; /reset forgets it")
        self.show(path)

    def _read(self, path: Path) -> Any:
        """Read a recording as the data stage does. Raises DataError, also where the model would not hear it whole."""
        samples = read_sound(path, self._processor.feature_extractor.sampling_rate)
        try:
            hearing.counted(self._processor, [samples], str(path))
        except DataError as e:
            raise DataError(str(e).replace("leave the row out of the data", "record it again")) from None
        return samples

    def _encoded(self, text: str, shown: Sequence[Any]) -> Any:
        """Return the tensors of a conversation. Raises DataError where it has several recordings."""
        if len(shown) > 1:
            raise DataError("this model hears one recording in a conversation; name one `--audio`")
        return hearing.encoded(self._processor, [text], list(shown), "left")


def read_sound(path: Path, rate: int) -> Any:
    """Read a recording, `[samples]` (float32) at `rate` in Hz, of one channel. Raises DataError."""
    try:
        content = path.read_bytes()
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from None
    try:
        decoded = sound_files.decode(content, None, rate, MAX_SECONDS, 0.0)
    except Unfit as e:
        reason = str(e).replace("sounds.max_seconds", "the bound of this command")
        raise DataError(f"{path}: the recording {reason}") from None
    return decoded.samples.astype("float32") / 2**15
