"""Talking to the export of a model that sees: the engine of `polm serve`, in this process."""

import queue
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from flows.serving.answer import Delta, Sampling
from flows.serving.media import Media
from flows.serving.seeing import read_image
from flows.serving.seeing_engine import SeeingEngine
from tasks.multimodal.prompts import shown
from tasks.stage.errors import DataError, ModelError


class SeeingChat:
    """An exported model that sees, with what was said and shown so far."""

    def __init__(self, folder: Path, images: Sequence[Path], *, max_new_tokens: int, temperature: float) -> None:
        """Load the model.

        Args:
            folder: a form of an export that sees.
            images: pictures for the first question.
            max_new_tokens: longest answer, in tokens.
            temperature: 0 takes the likeliest token, above it samples.

        Raises:
            DataError: a picture that cannot be read.
            ModelError: no model there, or an unreadable one.
        """
        self._shown: list[Media] = []
        for path in images:
            self.show(path)
        self._engine = self._open(folder)
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self.messages: list[dict[str, Any]] = []
        self._media: list[Media] = []

    def show(self, path: Path) -> None:
        """Show a picture with the next question. Raises DataError when it cannot be read."""
        self._shown.append(self._read(path))

    def _open(self, folder: Path) -> SeeingEngine:
        return SeeingEngine(folder, batch=1)

    def _read(self, path: Path) -> Media:
        """Read a picture. Raises DataError."""
        read_image(path)
        return Media("image", path.read_bytes(), str(path))

    def _turns(self, role: str, text: str, media: Sequence[Media]) -> list[dict[str, Any]]:
        """Write a turn in parts."""
        return shown([{"role": role, "content": text}], len(media))

    def ask(self, question: str) -> Generator[str]:
        """Yield the answer bit by bit. What was yielded stays in the conversation, also when it was stopped midway.

        Raises:
            DataError: the conversation does not fit into the model's context.
            ModelError: the model failed.
        """
        asked = self._turns("user", question, self._shown)
        messages, media = [*self.messages, *asked], [*self._media, *self._shown]
        prompt = self._engine.encode(messages, media)
        room = min(self._max_new_tokens, self._engine.context - len(prompt))
        if room < 1:
            raise DataError(
                f"the conversation is {len(prompt)} tokens long, with all that is shown or played in it, the context "
                f"only {self._engine.context}; /reset forgets it"
            )
        deltas: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        generation = self._engine.submit(prompt, Sampling(room, self._temperature), deltas.put)
        text, reason = "", None
        try:
            while reason is None:
                delta = deltas.get()
                text, reason = text + delta.text, delta.reason
                if delta.text:
                    yield delta.text
            if reason == "failed":
                raise ModelError("the model failed on this question; ask again")
        finally:
            generation.cancel()
            if reason != "failed":
                said = self._turns("assistant", text, [])
                self.messages, self._media, self._shown = [*messages, *said], media, []

    def forget(self) -> None:
        """Start anew, without pictures."""
        self.messages, self._media, self._shown = [], [], []
