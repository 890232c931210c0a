"""Which process of a launch failed first, and why.

When one process of several dies, the others fail for its sake, with errors of their own. Two witnesses know the first:
torchrun (on which `accelerate launch` rests), which writes a table of exit codes, and the process itself where it ended
by an exception, whose message it leaves in a file (`leave`).
"""

import re
import signal
import threading
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

TAIL = 65536
"""Bytes of a launcher's output that are kept: its table is the last thing that it says."""
PATIENCE = 5.0
"""Seconds to wait for the rest of the output when the launcher has ended."""
_TABLE = re.compile(
    rb"Root Cause \(first observed failure\):.*?rank\s*: (?P<rank>\d+) .*?exitcode\s*: (?P<code>-?\d+) ", re.DOTALL
)


class Failure(NamedTuple):
    """How a process ended."""

    text: str
    """What is said about it."""
    exit_code: int
    """That of the whole launch: 128 + signal, or that of the process."""


class Output:
    """What a launcher and its processes say, handed on as it comes."""

    def __init__(self, source: IO[bytes], to: BinaryIO) -> None:
        """Start to read.

        Args:
            source: read end of a pipe, without a buffer.
            to: where it goes.
        """
        self._source = source
        self._to = to
        self._tail = b""
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        while said := self._source.read(TAIL):
            self._to.write(said)
            self._to.flush()
            self._tail = (self._tail + said)[-TAIL:]

    def tail(self) -> bytes:
        """Return the end of all that was said, once the launcher has ended.

        A process that outlives its launcher holds the pipe open, and is not waited for.
        """
        self._thread.join(PATIENCE)
        return self._tail


def leave(file: Path, rank: int, error: BaseException) -> None:
    """Leave the message of the exception that ends this process; the first of all processes stays."""
    try:
        with file.open("x", encoding="utf-8") as f:
            f.write(f"rank {rank} failed: {type(error).__name__}: {error}")
    except FileExistsError:
        pass


def find(said: bytes, left: Path, exit_code: int) -> Failure:
    """Find the first failure of a launch that has failed.

    Args:
        said: end of the launcher's output.
        left: file of `leave`, which may be missing.
        exit_code: the launcher's, below 0 for a signal.
    """
    table = _TABLE.search(said)
    code = int(table["code"]) if table else 1
    if table and code < 0:
        number = -code
        name = signal.Signals(number).name
        memory = " (out of memory?)" if number == signal.SIGKILL else ""
        return Failure(f"rank {int(table['rank'])} was killed by signal {number}, {name}{memory}", 128 + number)
    if left.exists():
        return Failure(left.read_text(encoding="utf-8"), code)
    if table:
        return Failure(f"rank {int(table['rank'])} ended with exit code {code}; its output is above", code)
    if exit_code < 0:
        return Failure(f"the launcher was killed by signal {-exit_code}", 128 - exit_code)
    return Failure(f"the launcher ended with exit code {exit_code}; its output is above", exit_code)
