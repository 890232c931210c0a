"""A stage that begins as a fork of a process which has imported its libraries (`flows.runners.warm_parent`)."""

import os
import sys
from typing import NoReturn

THREADS = "POLM_WARM_THREADS"
"""Environment of such a stage: for how many threads the libraries were imported, which changes their bits."""


def take_threads() -> int | None:
    """Take the number of threads out of the environment, where no process of the stage needs it; None: no fork."""
    value = os.environ.pop(THREADS, None)
    return int(value) if value is not None else None


def start_again(reason: str) -> NoReturn:
    """Run this process's command again in the same process, with nothing imported, and say why."""
    os.write(2, f"polm: starts again in a process of its own: {reason}\n".encode())
    os.execv(sys.executable, sys.orig_argv)
