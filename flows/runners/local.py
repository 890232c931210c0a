"""One stage as a group of processes: start, watch, deadline, end.

`dvc repro -s NAME` runs the stage and writes `dvc.lock`. Killing `dvc` leaves the stage's own process behind, which
would then write beside the next one; so a stage gets a session of its own, and what ends is the whole of it. Whatever
left that session (`torchrun` starts its workers in new ones, and a warm parent its forks) is found by the environment
it inherited.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.workspace import EVENTS
from tasks.stage.errors import StageFailed, Stopped

GRACE = 8.0
"""Seconds between asking processes to end and making them: a run that is cancelled in Prefect ends within ten."""
POLL = 0.2
"""Seconds between two looks at a stage's events."""

_ERROR = re.compile(r"error: |(\w+\.)*\w*(Error|Exception|Interrupt)\b", re.ASCII)
_RAN = re.compile(r"^Running stage ")
_STATUS = re.compile(r"exited with (-?\d+)\s*$")


@dataclass(frozen=True)
class Job:
    """What to run and what to tell while it runs."""

    name: str
    log: Path
    """Log of the stage; a retry follows the attempt before it."""
    events: Path
    timeout: float | None
    """Seconds, or None for no limit."""
    force: bool
    gpus: tuple[str, ...]
    """Devices that the stage may see; empty leaves the environment as it is."""
    on_start: Callable[[], None]
    """Called when the stage's own command starts, which is not the case when DVC restores its output."""
    on_event: Callable[[dict[str, Any]], None]
    """Called with each progress event."""
    python: str = sys.executable
    """What runs DVC, and as the first on its PATH the stage: this Python, or the script of `flows.runners.warm`."""
    pull: bool = False
    """Whether inputs, and the result if somebody has it, may come from the DVC remote."""
    restore: bool = False
    """Whether the result has to come from there, and the stage must not run here."""
    upstreams: tuple[str, ...] = ()
    """Stages whose outputs it reads; a runner on another machine fetches them there."""
    gpu_count: int = 0
    """GPUs that a runner on another machine asks its engine for."""
    on_seconds: Callable[[dict[str, float]], None] = lambda _: None
    """Called with the seconds of each part of a stage on another machine, as far as it has come: `{"code": 0.1, …}`."""
    on_wait: Callable[[str], None] = lambda _: None
    """Called with the reason, as the engine says it, for which a stage on another machine does not start yet."""


def run(job: Job, stopping: threading.Event) -> str:
    """Run one stage to its end.

    Returns:
        `done`, or `restored` when DVC had the output in its run-cache.

    Raises:
        StageFailed: it failed or took longer than its time. None of its processes is left.
        Stopped: `stopping` was set. None of its processes is left.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.events.unlink(missing_ok=True)
    with job.log.open("ab") as log:
        first = _lines(job.log)
        process = subprocess.Popen(
            _command(job),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=_environment(job),
        )
        try:
            reason = _watch(process, job, first, stopping)
        finally:
            end(process, str(job.events.resolve()))
    if reason == "stopped":
        raise Stopped(f"{job.name}: ended with the run")
    if reason or process.returncode:
        raise _failure(job, first, reason)
    return "done" if _started(job.log, first) else "restored"


def end(process: subprocess.Popen[bytes], mark: str) -> None:
    """End a process's whole group, and the groups of all that carries its mark; returns when nothing of it is left."""
    groups = {process.pid}

    def belongs(other: psutil.Process) -> bool:
        group = os.getpgid(other.pid)
        if other.environ().get(EVENTS) == mark and group != os.getpgid(0):
            groups.add(group)  # a fork of a warm parent is in a session of its own
        return group in groups

    def members() -> list[psutil.Process]:
        process.poll()
        return _living(belongs)

    _end(members)
    process.wait()


def end_leftovers(prefix: str) -> int:
    """End every process whose mark begins with `prefix`: what a run left that was itself killed.

    Returns:
        How many there were.
    """

    def members() -> list[psutil.Process]:
        return _living(lambda p: p.pid != os.getpid() and p.environ().get(EVENTS, "").startswith(prefix))

    count = len(members())
    _end(members)
    return count


def _end(members: Callable[[], list[psutil.Process]]) -> None:
    """Ask once, wait, then make them: also those that are born while we look."""
    signalled: set[int] = set()
    deadline = time.monotonic() + GRACE
    while alive := members():
        late = time.monotonic() > deadline
        for process in alive:
            if late or process.pid not in signalled:
                _signal(process, signal.SIGKILL if late else signal.SIGTERM)
                signalled.add(process.pid)
        time.sleep(0.05)


def _living(belongs: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """List processes that belong, without those that have ended and were not waited for."""
    living = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and belongs(process):
                living.append(process)
        except (psutil.Error, ProcessLookupError, PermissionError):  # it ended meanwhile, or is somebody else's
            continue
    return living


def _signal(process: psutil.Process, sig: signal.Signals) -> None:
    try:
        process.send_signal(sig)
    except psutil.NoSuchProcess:
        return


def _command(job: Job) -> list[str]:
    if job.restore:
        return [sys.executable, "-m", "flows.runners.restore", job.name]
    options = (["-f"] if job.force else []) + (["--pull"] if job.pull else [])
    return [job.python, "-m", "dvc", "--wait-for-lock", "repro", "-s", *options, job.name]


def _environment(job: Job) -> dict[str, str]:
    env = os.environ | {EVENTS: str(job.events.resolve()), "PYTHONUNBUFFERED": "1"}
    if job.python != sys.executable:
        env["PATH"] = f"{Path(job.python).parent}{os.pathsep}{env['PATH']}"
    return env | ({"CUDA_VISIBLE_DEVICES": ",".join(job.gpus)} if job.gpus else {})


def _watch(process: subprocess.Popen[bytes], job: Job, first: int, stopping: threading.Event) -> str | None:
    """Follow the stage until it ends; returns why it has to be ended, or None when it ended by itself."""
    deadline = time.monotonic() + job.timeout if job.timeout is not None else None
    started = False
    offset = 0
    while True:
        ended = process.poll() is not None
        if not started and _started(job.log, first):
            started = True
            job.on_start()
        offset = _events(job, offset)
        if ended:
            return None
        if stopping.is_set():
            return "stopped"
        if deadline is not None and time.monotonic() > deadline:
            return f"took longer than its {job.timeout:g} s"
        stopping.wait(POLL)


def _events(job: Job, offset: int) -> int:
    """Pass on the events written since `offset`; returns where to go on. A line still being written waits."""
    if not job.events.exists():
        return offset
    with job.events.open("rb") as f:
        f.seek(offset)
        for line in f:
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            job.on_event(json.loads(line))
    return offset


def _lines(log: Path) -> int:
    with log.open("rb") as f:
        return sum(1 for _ in f)


def _started(log: Path, first: int) -> bool:
    with log.open(encoding="utf-8", errors="replace") as f:
        return any(_RAN.match(line) for number, line in enumerate(f) if number >= first)


def _failure(job: Job, first: int, reason: str | None) -> StageFailed:
    """Explain a failure by the stage's own last error line; what the user can mend (exit code 2) is not tried again."""
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
    attempt = list(enumerate(lines, 1))[first:]
    statuses = [int(m.group(1)) for _, line in attempt if (m := _STATUS.search(line))]
    status = statuses[-1] if statuses else 1
    errors = [(n, line) for n, line in attempt if _ERROR.match(line)]
    texts = errors or [(n, line) for n, line in attempt if line.strip()]
    number, text = texts[-1] if texts else (len(lines), "")
    if reason is None:
        killed = abs(status) if status < 0 else status - 128
        out_of_memory = " (out of memory?)" if killed == signal.SIGKILL else ""
        reason = f"killed by signal {killed}{out_of_memory}" if killed > 0 else f"failed with exit code {status}"
        return StageFailed(reason, job.log, number, text.strip(), retry=status != 2)
    return StageFailed(reason, job.log, number, text.strip(), retry=True)
