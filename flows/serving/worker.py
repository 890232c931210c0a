"""An `Engine` in a process of its own, for the server.

ONNX Runtime GenAI holds Python's lock while it computes, for a tenth of a second and more with a model of 135 million
parameters: in the server's own process every write to a socket and every trace would wait for it. A process also gives
all memory back when its version has left, and one that dies takes nobody with it.
"""

import atexit
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from flows.serving.answer import Delta, Generation, Sampling
from flows.serving.engine import Engine
from flows.serving.hearing_engine import HearingEngine
from flows.serving.media import Media, MediaError
from flows.serving.seeing_engine import SeeingEngine
from tasks.export.multimodal_session import is_hearing, is_seeing
from tasks.export.sound_reader import Heard
from tasks.stage.errors import DataError, ModelError, PolmError

CLOSE_SECONDS = 600.0
"""Seconds that a process has to finish what it has begun, before it is killed."""
CLOSE = 0
"""Number that is sent when there will be no more requests. Cancels of earlier ones may still come."""


@dataclass(frozen=True)
class Loaded:
    """The process has a model."""

    takes: str | None
    """Type of the parts that it takes beside text."""


@dataclass(frozen=True)
class Started:
    """The model has taken a request."""

    prompt: int
    """Length of the messages, in tokens."""
    seconds: tuple[float, ...] = ()
    """Length of each sound that is played in them."""


@dataclass(frozen=True)
class Rejected:
    """The model cannot take a request."""

    message: str
    too_long: bool
    """Whether the messages are longer than the context."""
    place: str = "messages"
    """Path of what is at fault in the body."""
    code: str | None = None
    """Word for programs, where it is a picture or a sound."""


Event = Started | Rejected | Delta
"""What comes back for a request: `Started`, then parts until one has a reason; or `Rejected` alone."""


def is_last(event: Event) -> bool:
    """Tell whether nothing more comes for the request."""
    return isinstance(event, Rejected) or (isinstance(event, Delta) and event.reason is not None)


class Worker:
    """The process with a model. Requests go in from any thread; a thread of its own hands out what comes back."""

    def __init__(self, folder: Path, *, batch: int, threads: int | None) -> None:
        """Start the process and load the model; for the arguments see `Engine`. Raises ModelError."""
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_child, args=(theirs, folder, batch, threads), name="model", daemon=True)
        self._process.start()
        atexit.register(self._process.kill)  # else an interrupted load would be waited for: it ignores SIGTERM
        theirs.close()
        try:
            loaded = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise ModelError(f"{folder}: the process that loads the model died; is there enough memory?") from None
        if isinstance(loaded, str):
            self._process.join()
            raise ModelError(loaded)
        self.takes = loaded.takes
        """Type of the parts that the model takes beside text: `image`, `audio`, or None."""
        self._lock = threading.Lock()
        self._closed = False
        self._listeners: dict[int, Callable[[Event], None]] = {}
        self._count = 0
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._send, name="to the model", daemon=True).start()
        self._reader = threading.Thread(target=self._receive, name="from the model", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Whether the process can still answer."""
        return self._process.is_alive()

    def ask(
        self,
        messages: list[dict[str, Any]],
        sampling: Sampling,
        on_event: Callable[[Event], None],
        media: Sequence[Media] = (),
    ) -> int:
        """Let a conversation be answered.

        Args:
            messages: the conversation.
            sampling: how; an answer longer than what the context leaves is cut there.
            on_event: called with what comes back, in a thread of the worker's: it must not block.
            media: what the conversation shows, in order.

        Returns:
            A number to cancel it by.

        Raises:
            ModelError: the worker is closed or dead.
        """
        with self._lock:
            if self._closed:
                raise ModelError("this model is no longer served; ask again")
            self._count += 1
            self._listeners[self._count] = on_event
            self._outbox.put((self._count, messages, media, sampling))
            return self._count

    def cancel(self, number: int) -> None:
        """End an answer; nothing happens when it has ended."""
        if number in self._listeners:
            self._outbox.put((number, None, (), None))

    def close(self) -> None:
        """Refuse new requests, finish those on their way, and end the process. Waits for it."""
        with self._lock:
            self._closed = True
        self._outbox.put((CLOSE, None, (), None))
        self._process.join(CLOSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process now; requests on their way fail."""
        self._process.kill()
        self._reader.join()
        atexit.unregister(self._process.kill)

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while (message := self._outbox.get()) is not None:
                self._pipe.send(message)

    def _receive(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, event = self._pipe.recv()
                on_event = self._listeners[number]
                if is_last(event):
                    del self._listeners[number]
                on_event(event)
        with self._lock:
            self._closed = True
            unanswered = [*self._listeners.values()]
            self._listeners.clear()
        for on_event in unanswered:
            on_event(Delta("", 0, "failed"))
        self._outbox.put(None)


def _child(pipe: Connection, folder: Path, batch: int, threads: int | None) -> None:
    """Run the process: an engine, and a loop that reads requests. It ends with the server, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the server decides when to end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        engine = load(folder, batch=batch, threads=threads)
    except PolmError as e:
        pipe.send(str(e))
        return
    pipe.send(Loaded(engine.takes))
    writing = threading.Lock()
    generations: dict[int, Generation] = {}

    def post_event(number: int, event: Event) -> None:
        if is_last(event):
            generations.pop(number, None)
        with writing, contextlib.suppress(OSError):
            pipe.send((number, event))

    def finish() -> None:
        engine.close()
        os._exit(0)

    try:
        while True:
            number, messages, media, sampling = pipe.recv()
            if number == CLOSE:
                threading.Thread(target=finish, daemon=True).start()
            elif messages is not None:
                _begin(engine, generations, number, messages, sampling, post_event, media)
            elif number in generations:
                generations[number].cancel()
    except (EOFError, OSError):
        os._exit(1)  # the server is gone: nobody waits for an answer


def load(folder: Path, *, batch: int, threads: int | None = None) -> Engine | SeeingEngine:
    """Load the engine that a folder is for; for the arguments and what is raised see `Engine`."""
    if is_hearing(folder):
        return HearingEngine(folder, batch=batch, threads=threads)
    if is_seeing(folder):
        return SeeingEngine(folder, batch=batch, threads=threads)
    return Engine(folder, batch=batch, threads=threads)


def _begin(
    engine: Engine | SeeingEngine,
    generations: dict[int, Generation],
    number: int,
    messages: list[dict[str, Any]],
    sampling: Sampling,
    post_event: Callable[[int, Event], None],
    media: Sequence[Media] = (),
) -> None:
    """Let the engine answer a request; whatever is wrong with it is told to the server."""
    try:
        prompt: Any = engine.encode(messages, media)
        room = engine.context - len(prompt)
        if room < 1:
            raise DataError(
                f"the messages are {len(prompt)} tokens long, and the model's context of {engine.context} must hold "
                f"them and the answer; send fewer or shorter messages"
            )
        post_event(number, Started(len(prompt), prompt.seconds if isinstance(prompt, Heard) else ()))
        cut = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
        generation = engine.submit(prompt, cut, lambda delta: post_event(number, delta))
        generations[number] = generation
        if generation.ended:
            generations.pop(number, None)
    except MediaError as e:
        post_event(number, Rejected(str(e), False, e.place, e.code))
    except Exception as e:  # also what the tokenizer raises on odd text: it must not end everybody's answers
        explained = isinstance(e, PolmError)
        message = str(e) if explained else f"the model cannot read these messages: {e}; change their text"
        post_event(number, Rejected(message, isinstance(e, DataError)))
