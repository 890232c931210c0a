"""One answer on its way: how it is drawn, what has come of it, and where it ends."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Reason = Literal["stop", "length", "cancelled", "failed"]


@dataclass(frozen=True)
class Sampling:
    """How one answer is drawn."""

    max_new_tokens: int
    """Longest answer, in tokens."""
    temperature: float
    """0 takes the likeliest token."""
    top_p: float | None = None
    """Nucleus, above 0 and at most 1; None is 1, the whole distribution."""
    top_k: int | None = None
    """Likeliest tokens to draw from; None takes all of them."""
    seed: int | None = None
    """Of the draw; None draws anew each time."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts."""


@dataclass(frozen=True)
class Piece:
    """A part of an answer."""

    text: str
    """May be empty: half of a character, or what may be the beginning of a stop text, is held back."""
    tokens: int
    """Tokens of the answer so far, without the one that ends it."""
    reason: Reason | None = None
    """Why the answer ended; only the last piece has one."""


class Answer:
    """A request on its way. `cancel` ends it; its last piece then says so."""

    def __init__(self, ids: Sequence[int], sampling: Sampling, emit: Callable[[Piece], None], stream: Any) -> None:
        self.ids, self.sampling, self._emit, self._stream = ids, sampling, emit, stream
        self.cancelled = threading.Event()
        self.ended = False
        self._held, self._tokens = "", 0

    def cancel(self) -> None:
        """Ask for the end; from any thread."""
        self.cancelled.set()

    def take(self, token: int, ends: set[int]) -> bool:
        """Take one more token; whether the answer has ended with it.

        Args:
            token: the token.
            ends: tokens that end an answer.
        """
        if self.cancelled.is_set() or token in ends:
            self.end("cancelled" if self.cancelled.is_set() else "stop")
            return True
        self._tokens += 1
        self._held += self._stream.decode(token)
        found = [self._held.index(s) for s in self.sampling.stop if s in self._held]
        ready = min(found) if found else len(self._held) - overlap(self._held, self.sampling.stop)
        text, self._held = self._held[:ready], "" if found else self._held[ready:]
        if found or self._tokens == self.sampling.max_new_tokens:
            self._held = text + self._held
            self.end("stop" if found else "length")
            return True
        if text:
            self._emit(Piece(text, self._tokens))
        return False

    def end(self, reason: Reason) -> None:
        """Send the last piece."""
        self.ended = True
        self._emit(Piece(self._held, self._tokens, reason))


def overlap(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins one of `stops`."""
    return max((n for s in stops for n in range(1, min(len(s), len(text) + 1)) if text.endswith(s[:n])), default=0)
