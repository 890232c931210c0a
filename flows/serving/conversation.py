"""A conversation with an exported model of words, in this process: the engine of `polm serve`, for one person."""

import queue
from collections.abc import Generator
from pathlib import Path
from typing import Protocol

from flows.serving.answer import Delta, Sampling
from flows.serving.engine import Engine
from tasks.stage.errors import DataError, ModelError


class Talk(Protocol):
    """A conversation with a model."""

    def ask(self, question: str) -> Generator[str]:
        """Yield the answer bit by bit."""

    def forget(self) -> None:
        """Start anew."""


class Conversation:
    """A model with what was said so far."""

    def __init__(self, folder: Path, *, max_new_tokens: int, temperature: float) -> None:
        """Load the model.

        Args:
            folder: an ONNX Runtime GenAI folder.
            max_new_tokens: longest answer, in tokens.
            temperature: 0 takes the likeliest token, above it samples.

        Raises:
            ModelError: no model there, or an unreadable one.
        """
        self.messages: list[dict[str, str]] = []
        self._engine = Engine(folder, batch=1)
        self._context = self._engine.context
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature

    def ask(self, question: str, prompt: str | None = None) -> Generator[str]:
        """Yield the answer bit by bit. What was yielded stays in the conversation, also when it was stopped midway.

        A question that could not be answered leaves the conversation as it was.

        Args:
            question: what the person said, which stays in the conversation.
            prompt: what the model is asked in its place, once, e.g. with passages; None asks the question itself.

        Raises:
            DataError: the question alone does not fit into the model's context, or it holds a NUL or half a character.
            ModelError: the model failed.
        """
        messages, ids = self._fit([*self.messages, {"role": "user", "content": prompt or question}])
        room = min(self._max_new_tokens, self._context - len(ids))
        deltas: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        generation = self._engine.submit(ids, Sampling(room, self._temperature), deltas.put)
        text = ""
        reason = None
        try:
            while reason is None:
                delta = deltas.get()
                text += delta.text
                reason = delta.reason
                if delta.text:
                    yield delta.text
            if reason == "failed":
                raise ModelError("the model failed on this question; ask again")
        finally:
            generation.cancel()
            if reason != "failed":
                said = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
                self.messages = [*messages[:-1], *said]

    def forget(self) -> None:
        """Start anew."""
        self.messages.clear()

    def _fit(self, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[int]]:
        """Cut the conversation to what fits, and tokenize it. The oldest turns go when there is no room for an answer.

        That room is the longest answer, but never more than half of the context: the other half is for remembering.
        """
        room = min(self._max_new_tokens, self._context // 2)
        while True:
            ids = self._engine.encode(messages)
            if len(ids) + room <= self._context:
                return messages, ids
            if len(messages) == 1:
                if len(ids) < self._context:
                    return messages, ids
                raise DataError(f"the question is {len(ids)} tokens long, the context only {self._context}; shorten it")
            messages = messages[2:]
