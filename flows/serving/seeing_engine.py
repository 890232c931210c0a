"""One loaded model that sees, answering several requests at a time, with the interface of `flows/serving/engine.py`.

ONNX Runtime GenAI cannot be given pictures, so the tokens come from `tasks/export/multimodal_session.py`. One thread
owns the model and draws a token for each answer on its way in turn: a short answer does not wait for a long one, but
nothing is gained by answering together.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.serving.answer import Delta, Generation, Inbox, Sampling
from flows.serving.engine import COLD, NARROW
from flows.serving.media import Media, MediaError, decoded
from tasks.export.multimodal_reader import Pictured, Reader
from tasks.export.multimodal_session import Drawing, Session
from tasks.export.prompt_reader import MediaPrompt
from tasks.stage.errors import DataError

log = logging.getLogger("polm")


class SeeingEngine:
    """A model that sees, its reader and the thread that answers."""

    takes: str | None = "image"
    """Type of the parts that it takes beside text."""

    def __init__(self, folder: Path, *, batch: int, threads: int | None = None) -> None:
        """Load the model and start the thread.

        Args:
            folder: a form of an export.
            batch: most answers that are drawn in turn.
            threads: of ONNX Runtime; None leaves it to ONNX Runtime, which takes every core.

        Raises:
            ModelError: no model there, or an unreadable one.
        """
        self._reader = self._open(folder)
        session = Session(folder, threads)
        self.context = session.context
        self._inbox = Inbox()
        self._thread = threading.Thread(target=self._work, args=(session, batch), name="engine", daemon=True)
        self._thread.start()

    def _open(self, folder: Path) -> Any:
        return Reader(folder)

    def encode(self, messages: Sequence[Mapping[str, Any]], media: Sequence[Media] = ()) -> MediaPrompt:
        """Read a conversation, up to where the assistant begins, and decode what it shows.

        Args:
            messages: each content a text, or parts; a part `{"type": "image"}` for each picture, in order.
            media: what these parts show.

        Raises:
            MediaError: a picture cannot be decoded, something is to be heard, or a text spells a picture's placeholder.
            ModelError: the template refuses the conversation.
        """
        import numpy as np

        for shown in media:
            if shown.kind == "audio":
                raise no_ears(shown)
        pixels = [self._reader.pixels([decoded(shown)]) for shown in media]  # each one small before the next is decoded
        try:
            ids = self._reader.encode(self._reader.render(messages))
        except DataError as e:
            raise MediaError(str(e), "messages", "invalid_text") from None
        return Pictured(ids, self._reader.image_token_id, np.concatenate([self._reader.pixels([]), *pixels]))

    def submit(self, prompt: MediaPrompt, sampling: Sampling, on_delta: Callable[[Delta], None]) -> Generation:
        """Let a prompt be answered; for the arguments and what is raised see `Engine.submit`."""
        return self._inbox.put(Generation(prompt, sampling, on_delta, self._reader.stream()), self.context)

    def close(self) -> None:
        """Refuse new requests, finish those on their way, and free the model. Waits for it."""
        self._inbox.close()
        self._thread.join()

    def _work(self, session: Session, batch: int) -> None:
        waiting: list[Generation] = []
        drawn: list[tuple[Generation, Iterator[int]]] = []
        closing = False
        while not closing or waiting or drawn:
            closing = self._inbox.collect(waiting, closing, idle=not waiting and not drawn)
            while waiting and len(drawn) < batch:
                generation = waiting.pop(0)
                drawn.append((generation, _tokens(session, generation)))
            drawn = [
                (generation, tokens) for generation, tokens in drawn if not _step(generation, tokens, session.ends)
            ]


def _tokens(session: Session, generation: Generation) -> Iterator[int]:
    """Yield the tokens of an answer; the prompt is read when the first one is asked for."""
    sampling = generation.sampling
    cold = sampling.temperature < COLD or (sampling.top_p is not None and sampling.top_p < NARROW)
    drawing = Drawing() if cold else Drawing(sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed)
    embeddings = session.embeddings(generation.ids)
    yield from session.generate(embeddings, max_new_tokens=sampling.max_new_tokens, drawing=drawing)


def _step(generation: Generation, tokens: Iterator[int], ends: Sequence[int]) -> bool:
    """Draw one token of an answer; return whether it has ended with that."""
    try:
        if generation.cancelled.is_set():
            generation.end("cancelled")
            return True
        return generation.take(next(tokens), set(ends))
    except Exception:  # whatever it is, it must not end the thread that everybody's answers come from
        log.exception("the model failed on a request")
        generation.end("failed")
        return True


def no_ears(shown: Media) -> MediaError:
    """Say that a model cannot hear."""
    return MediaError(f"'{shown.place}': this model has no ears; send text", shown.place, "unsupported_content")
