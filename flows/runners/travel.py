"""A stage's way to another machine and back, the same for every engine.

Code goes as a commit (`flows.runners.code`), inputs and outputs through the DVC remote, what the stage says through the
job's output. Back here DVC finds the result in its run-cache and writes `dvc.lock` itself. An engine is one generator:
it submits a shell script, yields the job's output line by line, None when there is nothing new, or why it does not
start yet (`Waiting`), raises `Lost` when the job is gone, and ends the job when it is closed.
"""

import contextlib
import hashlib
import re
import shlex
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows import workspace
from flows.runners import calls, code, listening, local, remote_stage, wire
from flows.runners.listening import Lines, Lost
from flows.runners.local import Job
from flows.runners.settings import AnyRunner, Runners
from tasks.stage import lifecycle
from tasks.stage.config import read_yaml
from tasks.stage.errors import PolmError, StageFailed

_stored: set[tuple[Path, str, str]] = set()
"""Working copies and stages, with the hashes of their outputs, that this process has seen in the DVC remote."""


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
        StageFailed: it failed there, its engine lost it, or it waited longer than `queue_minutes`. Its job is ended.
        Stopped: `stopping` was set. Its job is ended.
        PolmError: it could not be sent.
    """
    clock = listening.Clock(job.on_seconds)
    name = slug(job.name)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    snapshot = code.send(runners.code, name, stopping)
    clock.ended("code")
    _push_inputs(job, stopping)
    clock.ended("inputs")
    task = remote_stage.Task(
        stage=job.name,
        slug=name,
        owner=workspace.identity(),
        upstreams=job.upstreams,
        timeout=job.timeout,
        force=job.force,
        work=runner.work,
        checkpoints=runners.checkpoints or f"{runner.work}/checkpoints",
    )
    with job.log.open("a", encoding="utf-8") as log:
        log.write(f"{job.name}: {snapshot}\n")
    lost = result = None
    script = _script(runners.code, snapshot, task, runner.python)
    try:
        with contextlib.closing(engine(f"polm-{workspace.identity()}-{name}", script)) as lines:
            result = listening.follow(job, listening.Queue(job, runner.queue_minutes), lines, clock, stopping)
    except Lost as e:
        lost = StageFailed(str(e), job.log, *listening.last_line(job.log), retry=True)
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


def slug(stage: str) -> str:
    """Write a stage's name in small letters, digits and dashes; another stage never has the same."""
    simple = re.sub(r"[^a-z0-9]+", "-", stage.lower())
    unique = simple == stage.replace("@", "-", 1)
    return simple if unique else f"{simple.strip('-')}-{hashlib.sha256(stage.encode()).hexdigest()[:6]}"


def _push_inputs(job: Job, stopping: threading.Event) -> None:
    """Push the outputs of its upstreams that this run has not seen in the DVC remote. Raises StageFailed, Stopped."""
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
    done = calls.call(command, stopping)
    if done.returncode:
        with job.log.open("a", encoding="utf-8") as log:
            log.write(done.stderr)
        raise StageFailed("its inputs could not be pushed", job.log, *listening.last_line(job.log), retry=True)
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
        f"trap {shlex.quote(f'cd /; rm -rf {shlex.quote(copy)}')} EXIT",  # until Python takes over, which does the same
        f"git init --quiet {shlex.quote(copy)}",
        f"cd {shlex.quote(copy)}",
        f"git fetch --quiet --depth 1 {shlex.quote(repository)} {shlex.quote(snapshot.ref)}",
        f"git -c advice.detachedHead=false checkout --quiet {snapshot.commit}",
        f"exec {shlex.quote(python)} -m flows.runners.remote_stage {shlex.quote(remote_stage.encode(task))}",
    ]
    return "\n".join(["#!/bin/sh", *commands, ""])


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
