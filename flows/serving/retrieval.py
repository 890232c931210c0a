"""The search for passages in a process of its own, beside the model's: one for each version that has an index.

The model's process holds Python's lock while it computes, and an encoder in it would wait for that lock at every layer.
In the server's process the encoder itself would keep every client waiting. One question is searched at a time.
"""

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from flows.serving.grounded import Grounded, open_rag
from tasks.retrieval.prompts import PromptFormat
from tasks.stage.errors import DataError, ModelError, PolmError

CLOSE_SECONDS = 600.0
"""Seconds that a process has to finish the searches that it was asked for, before it is killed."""


@dataclass(frozen=True)
class Opened:
    """The process has the index."""

    form: PromptFormat


class Retriever:
    """The process with an index. Questions come from any thread."""

    def __init__(self, rag: Path, model: Path, *, threads: int | None) -> None:
        """Start the process and open the index.

        Args:
            rag: folder with the index and the reader's format.
            model: folder of the reader.
            threads: of the encoder; None takes every core.

        Raises:
            ModelError: the index cannot be opened.
        """
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_child, args=(theirs, rag, model, threads), name="retriever", daemon=True)
        self._process.start()
        atexit.register(self._process.kill)
        theirs.close()
        try:
            opened = self._pipe.recv()
        except EOFError:
            opened = f"{rag}: the process that opens the index died; is there enough memory?"
        if isinstance(opened, str):
            self._process.join()
            raise ModelError(opened)
        self.form: PromptFormat = opened.form
        """In which words the reader is asked."""
        self._lock = threading.Lock()
        self._closed = False
        self._searches = ThreadPoolExecutor(1, thread_name_prefix="to the index")

    @property
    def alive(self) -> bool:
        """Whether the process can still search."""
        return self._process.is_alive()

    def ground(self, question: str, passages: int) -> Future[Grounded]:
        """Find passages for a question, after those that were asked for before; see `Grounding.ground`.

        Returns:
            What is found; ModelError in it where the process has died, DataError where the question is at fault.

        Raises:
            ModelError: the retriever is closed.
        """
        with self._lock:
            if self._closed:
                raise ModelError("this index is no longer served; ask again")
            return self._searches.submit(self._ask, question, passages)

    def close(self) -> None:
        """Refuse new questions, answer those on their way, and end the process. Waits for it."""
        with self._lock:
            self._closed = True
        with contextlib.suppress(RuntimeError):  # of one that was killed
            wait([self._searches.submit(lambda: None)], CLOSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process now; questions on their way fail."""
        with self._lock:
            self._closed = True
        self._process.kill()
        self._process.join()
        atexit.unregister(self._process.kill)
        self._searches.shutdown()
        self._pipe.close()

    def _ask(self, question: str, passages: int) -> Grounded:
        try:
            self._pipe.send((question, passages))
            found = self._pipe.recv()
        except (EOFError, OSError):
            raise ModelError("the process that searches the index died; ask again") from None
        if isinstance(found, str):
            raise DataError(found)
        assert isinstance(found, Grounded)
        return found


def _child(pipe: Connection, rag: Path, model: Path, threads: int | None) -> None:
    """Run the process: it ends with the server, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the server decides when to end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        grounding = open_rag(rag, model)
    except PolmError as e:
        pipe.send(str(e))
        return
    pipe.send(Opened(grounding.form))
    with contextlib.suppress(EOFError, OSError):
        while True:
            question, passages = pipe.recv()
            try:
                pipe.send(grounding.ground(question, passages))
            except Exception as e:  # whatever the tokenizer raises on odd text: it must not end everybody's searches
                pipe.send(f"the index cannot be asked this: {e}; change the text")
    os._exit(1)  # the server is gone
