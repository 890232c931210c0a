"""Processes that share the rows of the data stage. What comes out does not depend on how many there are."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, TypeVar

from tasks.stage.errors import PolmError

T = TypeVar("T")
AHEAD = 3
"""Tasks for each process that are handed out before the first one's result is taken."""


class Workers:
    """A number of processes, for as long as the stage runs; one is this process itself."""

    def __init__(self, processes: int) -> None:
        """Begin. Args: processes: how many share the work."""
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    @property
    def several(self) -> bool:
        """Tell whether other processes do the work."""
        return self._pool is not None

    def __enter__(self) -> "Workers":
        if self._processes > 1:
            # Not forked: the libraries have threads by now, whose locks a child would inherit locked.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._processes, context, initializer=_end_with_parent)
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def each(self, function: Callable[..., T], tasks: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Call a function with each tuple of arguments, and yield what it returns in their order.

        Raises:
            PolmError: a process was killed or crashed. What the function raises is raised here.
        """
        if self._pool is None:
            for arguments in tasks:
                yield function(*arguments)
            return
        running: deque[Future[T]] = deque()
        try:
            for arguments in tasks:
                running.append(self._pool.submit(function, *arguments))
                if len(running) >= AHEAD * self._processes:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise PolmError(
                f"one of the {self._processes} processes of the data stage was killed or crashed; where memory ran "
                f"out, lower `processes`; run again, nothing was written"
            ) from None


def _end_with_parent() -> None:
    """End this process when the stage's own has ended, however that was: nobody would take its results."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
