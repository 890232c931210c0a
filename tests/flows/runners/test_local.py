"""One stage's processes: how they start, what they say, and that nothing of them is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows.runners import local
from flows.workspace import EVENTS
from tasks.stage.errors import StageFailed, Stopped
from tests.support import toy

pytestmark = pytest.mark.slow


class Watch:
    """Runs a job of the toy project and keeps what it told."""

    def __init__(self, project: toy.Toy) -> None:
        self.project = project
        self.started = 0
        self.events: list[dict[str, Any]] = []
        self.stopping = threading.Event()
        self.on_start: Callable[[], None] = lambda: None

    def run(self, name: str, timeout: float | None = 60, force: bool = False, gpus: tuple[str, ...] = ()) -> str:
        folder = self.project.root / ".polm/logs/run"
        job = local.Job(
            name, folder / f"{name}.log", folder / "e", timeout, force, gpus, self._start, self.events.append
        )
        return local.run(job, self.stopping)

    def _start(self) -> None:
        self.started += 1
        self.on_start()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> toy.Toy:
    return toy.make(tmp_path_factory.mktemp("execute"))


@pytest.fixture
def watch(built: toy.Toy, monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.chdir(built.root)
    for name, value in built.environment().items():
        monkeypatch.setenv(name, value)
    built.set("source")
    return Watch(built)


def test_a_stage_runs_is_restored_and_runs_again_when_forced(watch: Watch) -> None:
    watch.project.set("source", value=21)
    assert watch.run("source") == "done"
    assert watch.started == 1
    assert [(e["done"], e["total"], e["label"]) for e in watch.events] == [
        (1, 3, "step"),
        (2, 3, "step"),
        (3, 3, "step"),
    ]
    assert (watch.project.root / "artifacts/source/value.txt").read_text() == "21"
    assert watch.project.ran() == ["source"]

    subprocess.run(["rm", "-rf", "artifacts/source"], check=True)
    assert watch.run("source") == "restored"
    assert watch.started == 1
    assert watch.project.ran() == []
    assert (watch.project.root / "artifacts/source/value.txt").read_text() == "21"

    assert watch.run("source", force=True) == "done"
    assert watch.project.ran() == ["source"]


def test_a_users_mistake_is_named_by_file_and_line_and_not_tried_again(watch: Watch) -> None:
    watch.project.set("source", fail="user")
    with pytest.raises(StageFailed) as caught:
        watch.run("source")
    error = caught.value
    assert error.text == "error: data.jsonl:7: no answer; add one"
    assert error.log.read_text().splitlines()[error.line - 1] == error.text
    assert (error.reason, error.retry) == ("failed with exit code 2", False)


def test_a_bug_is_named_by_the_last_line_of_its_traceback(watch: Watch) -> None:
    watch.project.set("source", fail="bug")
    with pytest.raises(StageFailed) as caught:
        watch.run("source")
    assert (caught.value.text, caught.value.retry) == ("ValueError: a bug", True)
    first = caught.value.line
    with pytest.raises(StageFailed) as caught:
        watch.run("source")
    assert caught.value.line > first  # the second attempt is in the same log, below


def test_a_killed_stage_says_so_and_not_what_the_attempt_before_it_said(watch: Watch) -> None:
    watch.project.set("source", fail="bug")
    with pytest.raises(StageFailed, match="ValueError: a bug"):
        watch.run("source")
    watch.project.set("source", fail="kill")
    with pytest.raises(StageFailed, match=r"killed by signal 9 \(out of memory\?\)") as caught:
        watch.run("source")
    assert "a bug" not in str(caught.value)


def test_a_timeout_ends_the_stage_and_all_its_processes(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    watch.project.set("source", sleep=600)
    later = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later[0], sleep=time.sleep)
    monkeypatch.setattr(local, "time", clock)

    def an_hour_passes() -> None:
        later[0] = 3600

    watch.on_start = an_hour_passes
    with pytest.raises(StageFailed, match="took longer than its 900 s") as caught:
        watch.run("source", timeout=900)
    assert caught.value.retry
    assert toy.survivors(watch.project) == []
    assert not (watch.project.root / "artifacts/source").exists()
    watch.project.set("source", value=33)
    watch.on_start = lambda: None
    assert watch.run("source") == "done"  # nothing was left locked


def test_stopping_ends_the_stage(watch: Watch) -> None:
    watch.project.set("source", sleep=600)
    watch.on_start = watch.stopping.set
    with pytest.raises(Stopped):
        watch.run("source")
    assert toy.survivors(watch.project) == []


def test_an_error_in_the_callbacks_leaves_no_process(watch: Watch) -> None:
    watch.project.set("source", sleep=600)

    def fail() -> None:
        raise OSError("the disk is full")

    watch.on_start = fail
    with pytest.raises(OSError, match="the disk is full"):
        watch.run("source")
    assert toy.survivors(watch.project) == []


STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def test_a_process_that_ignores_term_in_a_session_of_its_own_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE", 0.5)
    parent = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], start_new_session=True)
time.sleep(600)
"""
    mark = f"/nowhere/{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], env=os.environ | {EVENTS: mark}, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == b"up\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 1
    local.end(process, mark)
    assert process.returncode == -signal.SIGTERM
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in children)


def test_leftovers_are_found_by_their_mark_alone() -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    mark = f"/nowhere/{os.getpid()}"
    left = subprocess.Popen(sleeper, env=os.environ | {EVENTS: f"{mark}/logs/a/sft.events"}, start_new_session=True)
    other = subprocess.Popen(sleeper, env=os.environ | {EVENTS: f"{mark}/ui/mlflow"}, start_new_session=True)
    try:
        assert local.end_leftovers(f"{mark}/logs/") == 1
        assert left.wait(10) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_gpus_are_shown_to_the_stage_that_holds_them(watch: Watch) -> None:
    script = watch.project.root / "tasks/source.py"
    script.write_text(script.read_text().replace("str(config.value)", 'os.environ["CUDA_VISIBLE_DEVICES"]'))
    try:
        watch.run("source", force=True, gpus=("2", "5"))
    finally:
        script.write_text(script.read_text().replace('os.environ["CUDA_VISIBLE_DEVICES"]', "str(config.value)"))
    assert Path("artifacts/source/value.txt").read_text() == "2,5"
