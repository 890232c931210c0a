"""A command that is waited for, and that ends with the run: a transfer may hang for as long as a network is away."""

import os
import signal
import subprocess
import threading
from collections.abc import Sequence

from tasks.stage.errors import Stopped

LOOK = 0.2
"""Seconds between two looks whether the run is to end."""
GRACE = 5.0
"""Seconds between asking a command to end and killing it."""


def call(
    words: Sequence[str], stopping: threading.Event, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, in a session of its own, so that a Ctrl-C in the terminal does not reach it first.

    Args:
        words: the command.
        stopping: set when the run is to end.
        env: environment; None: this process's own.

    Raises:
        Stopped: `stopping` was set. The command's process group is ended.
    """
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env=env,
    )
    while True:
        try:
            out, said = process.communicate(timeout=LOOK)
            return subprocess.CompletedProcess(list(words), process.returncode, out, said)
        except subprocess.TimeoutExpired:
            if stopping.is_set():
                _end(process)
                raise Stopped(f"{words[0]}: ended with the run") from None


def _end(process: "subprocess.Popen[str]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.communicate()
        return
