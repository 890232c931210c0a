"""Processes that share the rows: order, errors, and what is left when one of them, or the stage itself, is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.ingestion.workers import Workers
from tasks.stage.errors import PolmError
from tests.conftest import REPO
from tests.support.data_stage import numbered, recipe, write_rows


def test_results_come_in_the_order_of_the_tasks_and_errors_as_they_are() -> None:
    tasks = [(n,) for n in range(20)]
    with Workers(1) as one:
        alone = list(one.each(abs, tasks))
    with Workers(2) as two:
        assert list(two.each(abs, tasks)) == alone
        with pytest.raises(ZeroDivisionError):
            list(two.each(divmod, [(1, 1), (1, 0)]))
        with pytest.raises(PolmError, match="one of the 2 processes of the data stage was killed or crashed"):
            list(two.each(signal.raise_signal, [(signal.SIGKILL,)]))


@pytest.fixture
def running(workspace: Path) -> Iterator[subprocess.Popen[str]]:
    """The stage, with two processes that read and map many rows."""
    write_rows(workspace, numbered(40_000))
    config: dict[str, Any] = recipe(processes=2)
    with Path("data.yaml").open("w", encoding="utf-8") as f:
        YAML().dump(config, f)
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.data", "data.yaml", "--out", "artifacts/data"],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def working(stage: int) -> list[int]:
    """The numbers of the stage's processes, once there are two."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == stage and b"spawn_main" in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        if len(found) == 2:
            return found
        time.sleep(0.05)
    raise AssertionError("the stage started no processes")


def test_a_process_that_is_killed_ends_the_stage_and_leaves_nothing(running: subprocess.Popen[str]) -> None:
    os.kill(working(running.pid)[0], signal.SIGKILL)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 2
    assert "error: one of the 2 processes of the data stage was killed or crashed; where memory ran out" in said
    assert "Traceback" not in said
    assert not Path("artifacts/data").exists()
    assert list(Path(".polm/tmp").iterdir()) == []


def test_no_process_outlives_a_stage_that_is_killed(running: subprocess.Popen[str]) -> None:
    numbers = working(running.pid)
    running.kill()
    running.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{number}").exists() for number in numbers):
        assert time.monotonic() < deadline, "they go on"
        time.sleep(0.05)
