"""A stage as a batch job of Slurm: `sbatch`, its output in a shared folder, `scancel` when it has to end.

Slurm's own requeueing is off: it does not know whether a lost job had finished. `polm run` tries again itself, after it
has looked for the result.
"""

import contextlib
import re
import subprocess
import threading
import time
import uuid
from functools import partial
from pathlib import Path

from flows.runners import travel
from flows.runners.listening import Lines, Lost, Waiting
from flows.runners.local import Job
from flows.runners.settings import Runners, Slurm
from tasks.stage.errors import ConfigError, PolmError

LOOK = 0.2
"""Seconds between two looks at a job's output."""
ASK = 2.0
"""Seconds between two questions to Slurm about a job's state."""
PATIENCE = 5.0
"""Seconds in which the output of a job that has ended must appear in the shared folder."""
GONE = 60.0
"""Seconds to wait for the end of a job that was cancelled."""
OURS = {"job-name", "output", "error", "open-mode", "requeue", "no-requeue", "parsable", "wait", "export", "array"}
"""Options of `sbatch` that are set here."""
DEAF = 15
"""Questions in a row that Slurm's controller may leave without an answer; a restart takes fewer."""
ANSWER = 30.0
"""Seconds that a command of Slurm may take; one of Slurm's own limits ends it before."""
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "STOPPED"}
"""States of a job of which more is to come."""


def run(job: Job, runners: Runners, settings: Slurm, stopping: threading.Event) -> str:
    """Run one stage under Slurm to its end.

    Returns:
        `done`, or `restored` when the DVC remote had the result.

    Raises:
        StageFailed: it failed or took longer than its time, or its node was lost; its job is ended.
        Stopped: `stopping` was set; its job is ended.
        PolmError: Slurm refuses the job, or is not installed here.
    """
    return travel.run(job, runners, settings, partial(lines, settings, job.gpu_count), stopping)


def lines(settings: Slurm, gpus: int, name: str, script: str) -> Lines:
    """Submit a script and yield its output; the job is ended when the generator is closed.

    Args:
        settings: the runner's section.
        gpus: to ask for.
        name: of the job; an older one of this name is cancelled.
        script: for the shell of the node.
    """
    output = Path(settings.output, f"{name}-{uuid.uuid4().hex[:8]}.out")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.touch()
    command = _submission(settings, gpus, name, output)
    with contextlib.suppress(PolmError):
        call(["scancel", "--quiet", "--me", f"--name={name}"])  # what a `polm run` that was killed has left there
    number = call(command, script).split(";")[0].strip()
    try:
        yield from _tail(number, output)
    finally:
        _cancel(number)
        output.unlink(missing_ok=True)


def _submission(settings: Slurm, gpus: int, name: str, output: Path) -> list[str]:
    """Build the command that submits a script from its standard input. Raises ConfigError for an option of ours."""
    if taken := sorted(OURS & settings.options.keys()):
        raise ConfigError(f"runners: options.{taken[0]}: `polm run` sets this option of sbatch itself; remove it")
    names = ["PATH", "HOME", "USER", "LANG", *settings.environment]
    options = [f"--{key}" if value is None else f"--{key}={value}" for key, value in settings.options.items()]
    asked = [f"--gpus={gpus}"] if gpus and "gpus" not in settings.options and "gres" not in settings.options else []
    ours = [f"--job-name={name}", f"--output={output}", "--open-mode=append", "--no-requeue", "--parsable"]
    return ["sbatch", *options, *asked, *ours, f"--export={','.join(names)}", f"--chdir={output.parent}"]


def _tail(number: str, output: Path) -> Lines:
    """Yield what a job writes, None when it is silent, and raise `Lost` once Slurm knows that it has ended."""
    asked = time.monotonic()
    state, ended, deaf = "PENDING", None, 0
    with output.open(encoding="utf-8", errors="replace", newline="\n") as file:
        rest = ""
        while True:
            rest += file.read()
            *whole, rest = rest.split("\n")
            if whole:
                yield from (f"{line}\n" for line in whole)
                continue
            yield None
            if ended and time.monotonic() - ended > PATIENCE:
                raise Lost(f"Slurm's job {number} ended as {state}")
            if ended is None and time.monotonic() - asked > ASK:
                try:
                    state, reason = _state(number)
                    deaf = 0
                except PolmError as e:
                    deaf += 1
                    yield Waiting(f"Slurm does not answer ({e})")
                    if deaf >= DEAF:
                        raise Lost(f"Slurm left {deaf} questions in a row without an answer ({e})") from None
                else:
                    ended = None if state in ALIVE else time.monotonic()
                    if state == "PENDING":
                        yield Waiting(f"Slurm's job {number} is PENDING ({reason})")
                asked = time.monotonic()
            time.sleep(LOOK)


def _state(number: str) -> tuple[str, str]:
    """Ask Slurm for a job's state and the reason for it. Raises PolmError when its controller does not answer."""
    asked = ["scontrol", "show", "job", number, "--oneliner"]
    try:
        done = subprocess.run(
            asked, capture_output=True, text=True, check=False, start_new_session=True, timeout=ANSWER
        )
    except subprocess.TimeoutExpired:
        raise PolmError(f"scontrol: no answer in {ANSWER:g} s") from None
    if done.returncode and "Invalid job id" not in done.stderr:
        raise PolmError(f"scontrol: {_said(done)}")
    found = re.search(r"\bJobState=(\w+) Reason=(.*?) Dependency=", done.stdout)
    return (found[1], found[2]) if found else ("UNKNOWN (Slurm has forgotten it)", "")


def _cancel(number: str) -> None:
    """End a job, which harms none that has ended, and wait until nothing of it is left, or its node does not answer."""
    deadline = time.monotonic() + GONE
    with contextlib.suppress(PolmError):
        call(["scancel", "--quiet", number])
        while _state(number)[0] in ALIVE and time.monotonic() < deadline:
            time.sleep(LOOK)


def call(command: list[str], text: str = "") -> str:
    """Run a command of Slurm with this on its standard input; returns what it prints.

    Raises:
        PolmError: it is not installed here, failed, or did not end in time; in Slurm's own words.
    """
    try:
        # In a session of its own: a Ctrl-C in the terminal must not end `scancel`.
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, start_new_session=True, timeout=4 * ANSWER
        )
    except FileNotFoundError:
        raise PolmError(f"{command[0]}: not installed here; run `polm run` on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise PolmError(f"{command[0]}: no answer in {4 * ANSWER:g} s; see `sinfo` and `scontrol ping`") from None
    if done.returncode:
        raise PolmError(f"{command[0]}: {_said(done)}; see `options:` of the runner, and `scontrol ping`")
    return done.stdout


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    return done.stderr.strip().replace("\n", "; ") or f"exit code {done.returncode}"
