"""One answer on its way: how it is drawn, what has come of it, and where it ends."""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.stage.errors import DataError, ModelError

Reason = Literal["stop", "length", "cancelled", "failed"]


@dataclass(frozen=True)
class Sampling:
    """How one answer is drawn."""

    max_new_tokens: int
    """Longest answer, in tokens."""
    temperature: float
    """Temperature of the softmax; 0 takes the likeliest token."""
    top_p: float | None = None
    """Nucleus, above 0 and at most 1; None is 1, the whole distribution."""
    top_k: int | None = None
    """Likeliest tokens to draw from; None takes all of them."""
    seed: int | None = None
    """Seed of the draw; None draws anew each time."""
    stop: tuple[str, ...] = ()
    """Texts before the first of which the answer ends."""


@dataclass(frozen=True)
class Delta:
    """A part of an answer."""

    text: str
    """Text of the part; empty while half of a character, or what may be the beginning of a stop text, is held back."""
    tokens: int
    """Tokens of the answer so far, without the one that ends it."""
    reason: Reason | None = None
    """Why the answer ended; only the last part has one."""


class Generation:
    """An answer while it is drawn. `cancel` ends it; its last part then says so."""

    def __init__(self, ids: Any, sampling: Sampling, on_delta: Callable[[Delta], None], stream: Any) -> None:
        """Args: ids: the prompt as its engine reads it; on_delta: called with every part; stream: decodes tokens."""
        self.ids, self.sampling = ids, sampling
        self.cancelled = threading.Event()
        self.ended = False
        self._on_delta, self._stream = on_delta, stream
        self._held_back = ""
        self._tokens = 0

    def cancel(self) -> None:
        """Ask for the end; from any thread."""
        self.cancelled.set()

    def take(self, token: int, ends: set[int]) -> bool:
        """Take one more token; return whether the answer has ended with it.

        Args:
            token: the token.
            ends: tokens that end an answer.
        """
        if self.cancelled.is_set() or token in ends:
            self.end("cancelled" if self.cancelled.is_set() else "stop")
            return True
        self._tokens += 1
        text = self._held_back + self._stream.decode(token)
        stops = [text.index(stop) for stop in self.sampling.stop if stop in text]
        if stops or self._tokens == self.sampling.max_new_tokens:
            self._held_back = text[: min(stops)] if stops else text
            self.end("stop" if stops else "length")
            return True
        ready = len(text) - overlap(text, self.sampling.stop)
        self._held_back = text[ready:]
        if ready:
            self._on_delta(Delta(text[:ready], self._tokens))
        return False

    def end(self, reason: Reason) -> None:
        """Send the last part."""
        self.ended = True
        self._on_delta(Delta(self._held_back, self._tokens, reason))


def overlap(text: str, stops: Sequence[str]) -> int:
    """Measure the longest end of `text` that begins one of `stops`."""
    return max((n for s in stops for n in range(1, min(len(s), len(text) + 1)) if text.endswith(s[:n])), default=0)


class Inbox:
    """Answers that wait for the thread of an engine, and whether it takes more."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False

    def put(self, generation: Generation, context: int) -> Generation:
        """Let an answer wait for its turn.

        Args:
            generation: the answer, whose prompt says by `len` how many tokens it has.
            context: tokens that the model can see.

        Raises:
            DataError: prompt and answer are longer than the context.
            ModelError: the engine is closed.
        """
        length, longest = len(generation.ids), generation.sampling.max_new_tokens
        if length + longest > context:
            raise DataError(
                f"{length} tokens of messages and {longest} of the answer are more than the model's context of "
                f"{context}; shorten one of them"
            )
        with self._lock:
            if self._closed:
                raise ModelError("this model is no longer served; ask again")
            self._queue.put(generation)
        return generation

    def close(self) -> None:
        """Take no more; what waits is still answered."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)

    def collect(self, waiting: list[Generation], closing: bool, *, idle: bool) -> bool:
        """Take out what is there, and end those that were cancelled meanwhile; called by the engine's thread.

        Args:
            waiting: answers that wait for their turn; changed in place.
            closing: whether there will be no more already.
            idle: whether to sleep until something comes.

        Returns:
            Whether there will be no more.
        """
        with contextlib.suppress(queue.Empty):
            while not closing:
                generation = self._queue.get(block=idle and not waiting)
                if generation is None:
                    closing = True
                else:
                    waiting.append(generation)
        for generation in [generation for generation in waiting if generation.cancelled.is_set()]:
            waiting.remove(generation)
            generation.end("cancelled")
        return closing
