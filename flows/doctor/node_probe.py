"""A job of a second on a runner's node: is its Python there, with which packages; can it write where a stage does?"""

import contextlib
import inspect
import json
import shlex
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from flows.doctor.machine import Finding
from flows.runners import kubernetes_jobs, node, ray_jobs, slurm_jobs, wire
from flows.runners.listening import Lines, Lost, Waiting
from flows.runners.settings import AnyRunner, Ray, Runners, Slurm

PATIENCE = 60.0
"""Seconds that a job of the doctor may take, its wait included."""
PROBE = """
import fcntl, os, tempfile
def tried(folder):
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return ""
    except OSError as e:
        return e.strerror
import json, sys
found = facts(json.loads(sys.argv[1]))
found["folders"] = {key: tried(folder) for key, folder in json.loads(sys.argv[2]).items()}
print("MARK" + json.dumps({"probe": found}), flush=True)
"""


def on_node(name: str, runners: Runners, runner: AnyRunner) -> Iterator[Finding]:
    """Run a job of a second on a runner, and tell what it found on its node.

    Raises:
        PolmError: the engine refuses the job.
    """
    check = f"runner {name}"
    try:
        there = _asked(runners, runner)
    except Lost as e:
        yield Finding("fail", check, str(e), "see `python:` and `work:` of the runner")
        return
    if isinstance(there, str):
        yield Finding("warn", check, f"no job ran in {PATIENCE:g} s: {there}", "ask again when the cluster is free")
        return
    here = node.facts()
    yield Finding("ok", f"{check} node", f"{there['host']}, Python {there['python']}, {there['processor']}")
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {node.normal(Requirement(text).name) for text in project["dependencies"]}
    if gone := sorted((needed & here["packages"].keys()) - there["packages"].keys()):
        remedy = f"`{runner.python} -m pip install -r infra/requirements.lock` there"
        yield Finding("fail", f"{check} packages", f"missing there: {', '.join(gone)}", remedy)
    for said in node.differences(here, there):
        found, _, remedy = said.partition("; ")
        yield Finding("warn", f"{check} node", found, remedy)
    for key, wrong in there["folders"].items():
        if wrong:
            yield Finding(
                "fail", f"{check} {key}", f"{there['host']}: {wrong}", f"see `{key}:`: the stage writes there"
            )


def _asked(runners: Runners, runner: AnyRunner) -> dict[str, Any] | str:
    """Return what a node says of itself, or why none does. Raises `Lost` where the job failed."""
    folders = {"work": runner.work} | ({"checkpoints": runners.checkpoints} if runners.checkpoints else {})
    program = f"{inspect.getsource(node)}\n{PROBE.replace('MARK', wire.MARK)}"
    words = [runner.python, "-c", program, json.dumps(node.locked()), json.dumps(folders)]
    script = "\n".join(
        [
            "#!/bin/sh",
            "set -eu",
            f"git ls-remote --quiet {shlex.quote(runners.code)} >/dev/null",
            f"exec {shlex.join(words)}",
            "",
        ]
    )
    deadline, said, waits = time.monotonic() + PATIENCE, "it ended without a word", "its engine says nothing"
    with contextlib.closing(_engine(runner)(f"polm-{uuid.uuid4().hex[:12]}-doctor", script)) as lines:
        try:
            for line in lines:
                if isinstance(line, Waiting):
                    waits = line.reason
                elif line is not None:
                    message = wire.heard(line)
                    if message:
                        found: dict[str, Any] = message["probe"]
                        return found
                    said = line.strip() or said
                if time.monotonic() > deadline:
                    return waits
        except Lost as e:
            raise Lost(f"{e}: {said}") from None
    raise Lost(said)


def _engine(runner: AnyRunner) -> Callable[[str, str], Lines]:
    if isinstance(runner, Slurm):
        return partial(slurm_jobs.lines, runner, 0)
    if isinstance(runner, Ray):
        return partial(ray_jobs.lines, runner, 0)
    return partial(kubernetes_jobs.lines, runner, 0)
