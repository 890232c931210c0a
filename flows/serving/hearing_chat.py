"""Talking to the export of a model that hears: the engine of `polm serve`, in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.serving.hearing import read_sound
from flows.serving.hearing_engine import HearingEngine
from flows.serving.media import Media
from flows.serving.seeing_chat import SeeingChat
from flows.serving.sounds import RATE
from tasks.multimodal import hearing
from tasks.stage.errors import DataError


class HearingChat(SeeingChat):
    """An exported model that hears, with what was said and played so far."""

    def hear(self, path: Path) -> None:
        """Play a recording with the next question.

        Raises:
            DataError: it cannot be read, or the conversation has one.
        """
        if self._media or self._shown:
            raise DataError("this model hears one recording in a conversation; /reset forgets it")
        self.show(path)

    def _open(self, folder: Path) -> Any:
        return HearingEngine(folder, batch=1)

    def _read(self, path: Path) -> Media:
        """Read a recording. Raises DataError."""
        read_sound(path, RATE)
        return Media("audio", path.read_bytes(), str(path))

    def _turns(self, role: str, text: str, media: Sequence[Media]) -> list[dict[str, Any]]:
        return hearing.conversation([{"role": role, "content": text}], len(media))
