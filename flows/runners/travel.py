"""A stage's way to another machine and back, the same for every engine.

Code goes as a commit (`flows.runners.code`), inputs and outputs through the DVC remote, what the stage says through the
job's output. Back here DVC finds the result in its run-cache and writes `dvc.lock` itself. An engine is one generator:
it submits a shell script, yields the job's output line by line, or None when there is nothing new, raises `Lost` when
the job is gone, and ends the job when it is closed.
"""

import contextlib
import re
import shlex
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flows.runners import code, local, remote_stage, wire
from flows.runners.local import Job
from flows.runners.settings import AnyRunner, Runners
from tasks.stage import lifecycle
from tasks.stage.config import read_yaml
from tasks.stage.errors import PolmError, StageFailed, Stopped

_stored: set[tuple[Path, str, str]] = set()
"""Working copies and stages, with the hashes of their outputs, that this process has seen in the DVC remote."""
Lines = Generator[str | None, None, None]


class Lost(Exception):
    """The engine lost the job: its node died, or somebody else ended it. The message says what the engine knows."""


@dataclass
class _Clock:
    """Seconds of each part, which follow each other."""

    tell: Callable[[dict[str, float]], None]
    seconds: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)

    def ended(self, part: str) -> None:
        """Add the time since the last call to a part."""
        now = time.monotonic()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self.since, 3)
        self.since = now
        self.tell(dict(self.seconds))


def run(
    job: Job,
    runners: Runners,
    runner: AnyRunner,
    engine: Callable[[str, str], Lines],
    stopping: threading.Event,
) -> str:
    """Run one stage on another machine to its end.

    Args:
        job: the stage.
        runners: the file that places it.
        runner: the section of its runner.
        engine: submits a script under a name, and yields its output.
        stopping: set when the run is to end.

    Returns:
        `done`, or `restored` when the DVC remote had the result.

    Raises:
        StageFailed: it failed there, or its engine lost it. Its job is ended.
        Stopped: `stopping` was set. Its job is ended.
        PolmError: it could not be sent.
    """
    clock = _Clock(job.on_seconds)
    slug = re.sub(r"[^a-z0-9]+", "-", job.name.lower())
    job.log.parent.mkdir(parents=True, exist_ok=True)
    snapshot = code.send(runners.code, slug)
    clock.ended("code")
    _push_inputs(job)
    clock.ended("inputs")
    task = remote_stage.Task(
        stage=job.name,
        slug=slug,
        owner=code.owner(),
        upstreams=job.upstreams,
        timeout=job.timeout,
        force=job.force,
        work=runner.work,
        checkpoints=runners.checkpoints or f"{runner.work}/checkpoints",
    )
    with job.log.open("a", encoding="utf-8") as log:
        log.write(f"{job.name}: {snapshot}\n")
    lost = result = None
    first = len(job.log.read_bytes().splitlines())
    script = _script(runners.code, snapshot, task, runner.python)
    try:
        with contextlib.closing(engine(f"polm-{code.owner()}-{slug}", script)) as lines:
            result = _follow(job, first, lines, clock, stopping)
    except Lost as e:
        lost = StageFailed(str(e), job.log, *_last_line(job.log), retry=True)
        if job.force:  # an older result is not what was asked for
            raise lost from None
    try:
        # A job that was given up for lost may have finished and pushed: its work is not done again.
        local.run(_restoring(job), threading.Event() if result else stopping)
    except StageFailed:
        if lost:
            raise lost from None
        raise
    clock.ended("restore")
    return _accept(job, result) if result else "restored"


def _push_inputs(job: Job) -> None:
    """Push the outputs of its upstreams that this run has not seen in the DVC remote. Raises StageFailed."""
    outputs = {(Path.cwd(), name, _hash(name)) for name in job.upstreams} - _stored
    if not outputs:
        return
    command = [
        sys.executable,
        "-m",
        "dvc",
        "--wait-for-lock",
        "push",
        "--quiet",
        *sorted(name for _, name, _ in outputs),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
    if done.returncode:
        with job.log.open("a", encoding="utf-8") as log:
            log.write(done.stderr)
        raise StageFailed("its inputs could not be pushed", job.log, *_last_line(job.log), retry=True)
    _stored.update(outputs)


def _hash(stage: str) -> str:
    """Read the hash of a stage's output from `dvc.lock`."""
    with code.lock_file():
        found: str = read_yaml(Path("dvc.lock"))["stages"][stage]["outs"][0]["md5"]
    return found


def _script(repository: str, snapshot: code.Snapshot, task: remote_stage.Task, python: str) -> str:
    """Write the shell script that an engine runs: it fetches the code, and the code does the rest."""
    copy = f"{task.work}/jobs/{task.slug}-{uuid.uuid4().hex[:8]}"
    arrived = f'{wire.MARK}{{"part": "code"}}\\n'.replace("\x1e", "\\036")
    commands = [
        "set -eu",
        f"printf {shlex.quote(arrived)}",
        f"mkdir -p {shlex.quote(task.work)}/jobs",
        f"git init --quiet {shlex.quote(copy)}",
        f"cd {shlex.quote(copy)}",
        f"git fetch --quiet --depth 1 {shlex.quote(repository)} {shlex.quote(snapshot.ref)}",
        f"git -c advice.detachedHead=false checkout --quiet {snapshot.commit}",
        f"exec {shlex.quote(python)} -m flows.runners.remote_stage {shlex.quote(remote_stage.encode(task))}",
    ]
    return "\n".join(["#!/bin/sh", *commands, ""])


def _follow(job: Job, first: int, lines: Lines, clock: _Clock, stopping: threading.Event) -> dict[str, Any]:
    """Pass on what the job says until it says its result. Raises StageFailed, Stopped and Lost."""
    part = "wait"
    with job.log.open("a", encoding="utf-8") as log:
        for line in lines:
            if stopping.is_set():
                raise Stopped(f"{job.name}: ended with the run")
            message = wire.heard(line) if line is not None else None
            if message is None:
                if line is not None:
                    log.write(line if line.endswith("\n") else f"{line}\n")
                    log.flush()
            elif "event" in message:
                job.on_event(message["event"])
            elif "part" in message:
                clock.ended(part)
                part = message["part"]
                if part == "stage":
                    job.on_start()
            elif "failed" in message:
                failed = message["failed"]
                clock.ended(part)
                raise StageFailed(
                    failed["reason"], job.log, first + failed["line"], failed["text"], retry=failed["retry"]
                )
            elif "stopped" in message:
                raise Lost("its engine ended it")
            else:
                clock.ended(part)
                return message
    raise Lost("it ended without a result")


def _restoring(job: Job) -> Job:
    """Return the job of taking the result from the DVC remote: it tells nobody that the stage runs."""
    return replace(
        job, restore=True, force=False, timeout=None, gpus=(), on_start=lambda: None, on_event=lambda _: None
    )


def _accept(job: Job, result: dict[str, Any]) -> str:
    """Check that DVC restored what the other machine made, and keep that machine's measurements."""
    restored = _hash(job.name)
    if restored != result["hash"]:
        raise PolmError(
            f"{job.name}: the run-cache has another result ({restored}) than was made there ({result['hash']}): the "
            f"stage does not give the same bytes twice on these machines; run it locally, or remove one from the remote"
        )
    if result["measured"]:
        lifecycle.write_measurements(Path(result["path"]), result["measured"])
    _stored.add((Path.cwd(), job.name, restored))
    state: str = result["state"]
    return state


def _last_line(log: Path) -> tuple[int, str]:
    """Return the number and text of a log's last line that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    number = max((n for n, line in enumerate(lines, 1) if line.strip()), default=0)
    return number, lines[number - 1].strip() if number else ""
