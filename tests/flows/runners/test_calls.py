"""A command that hangs ends with the run, and so does what it has started."""

import threading
import time
from pathlib import Path

import pytest

from flows.runners import calls
from tasks.stage.errors import Stopped


def test_a_command_that_hangs_ends_with_the_run(tmp_path: Path) -> None:
    stopping = threading.Event()
    mark = tmp_path / "late"
    threading.Timer(0.3, stopping.set).start()
    start = time.monotonic()
    with pytest.raises(Stopped):
        calls.call(["/bin/sh", "-c", f"(sleep 5; touch {mark}) & wait"], stopping)
    assert time.monotonic() - start < 5
    assert threading.Event().wait(5.2) is False
    assert not mark.exists()


def test_what_a_command_says_and_its_exit_code() -> None:
    done = calls.call(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], threading.Event())
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
