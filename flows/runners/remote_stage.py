"""One stage on another machine, in a fresh copy of the code: `python -m flows.runners.remote_stage JSON`.

What it gets is the JSON of a `Task`; what it says goes to the standard output (`flows.runners.wire`). The stage's own
processes are started, watched and ended by `flows.runners.local`, as at home. The stage ends with its engine: when the
process that started this one is gone, nobody waits for the result, and the next attempt may run elsewhere.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows import workspace
from flows.runners import local, wire
from tasks.stage import lifecycle, locks
from tasks.stage.config import read_yaml
from tasks.stage.errors import PolmError, StageFailed, Stopped

LOOK = 0.2
"""Seconds between two looks whether the engine is there, and whether another job has let go of the checkpoints."""


@dataclass(frozen=True)
class Task:
    """What to run and where its things are."""

    stage: str
    """Name for DVC."""
    slug: str
    """The same as part of a file name."""
    owner: str
    """Name of the working copy that asks."""
    upstreams: tuple[str, ...]
    """Stages whose outputs are its inputs."""
    timeout: float | None
    """Seconds that the stage may take, the wait in a queue not counted; None for no limit."""
    force: bool
    """Whether to run it although the DVC remote has the result."""
    work: str
    """Folder of this node for working copies and DVC's cache."""
    checkpoints: str
    """Folder for checkpoints, best one that all nodes share."""


def main(text: str) -> int:
    """Run a task; returns 0 when its result is in the DVC remote, 1 when not, after saying why."""
    task = Task(**json.loads(text))
    copy = Path.cwd()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    _end_with_engine(stopping)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    try:
        said = _run(task, stopping)
    except StageFailed as e:
        said = {"failed": {"reason": e.reason, "line": e.line, "text": e.text, "retry": e.retry}}
    except Stopped:
        said = {"stopped": True}
    except PolmError as e:
        said = {"failed": {"reason": str(e), "line": 0, "text": "", "retry": False}}
    except Exception as e:
        wire.write(traceback.format_exc())
        said = {"failed": {"reason": f"{type(e).__name__}: {e}", "line": 0, "text": "", "retry": True}}
    finally:
        os.chdir("/")
        shutil.rmtree(copy, ignore_errors=True)
    if stopping.is_set() and "failed" in said:  # what ended this process may have ended a `dvc pull` first
        said = {"stopped": True}
    wire.tell(**said)  # the last word: whoever hears it may end this process
    return 0 if "state" in said else 1


def _run(task: Task, stopping: threading.Event) -> dict[str, Any]:
    """Fetch, run and push; returns what `polm run` is told of the result."""
    workspace.enter()
    wire.tell(part="inputs")
    Path(".dvc/config.local").write_text(f"[cache]\n    dir = {task.work}/cache\n", encoding="utf-8")
    checkpoints = Path(task.checkpoints, task.owner)
    checkpoints.mkdir(parents=True, exist_ok=True)
    Path(".checkpoints").symlink_to(checkpoints)
    with _alone(checkpoints / f"{task.slug}.lock", stopping):
        _pull(task.upstreams)
        folder = workspace.new_run()
        job = local.Job(
            name=task.stage,
            log=folder / f"{task.slug}.log",
            events=folder / f"{task.slug}.events",
            timeout=task.timeout,
            force=task.force,
            gpus=(),
            on_start=lambda: wire.tell(part="stage"),
            on_event=lambda event: wire.tell(event=event),
            pull=True,
        )
        with _streaming(job.log):
            state = local.run(job, stopping)
        wire.tell(part="push")
        _dvc("push", "--run-cache", task.stage)
    lock = read_yaml(Path("dvc.lock"))["stages"][task.stage]
    out = Path(lock["outs"][0]["path"])
    return {"state": state, "hash": lock["outs"][0]["md5"], "measured": lifecycle.read_measurements(out)}


def _pull(upstreams: tuple[str, ...]) -> None:
    if upstreams:
        _dvc("pull", *upstreams)


def _dvc(*arguments: str) -> None:
    """Run DVC, and let a failure be tried again: the storage may have been away. Raises StageFailed."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "--wait-for-lock", arguments[0], "--quiet", *arguments[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        wire.write("".join(f"{line}\n" for line in said))
        raise StageFailed(f"dvc {arguments[0]} failed there", Path("log"), 0, said[0] if said else "", retry=True)


@contextlib.contextmanager
def _alone(path: Path, stopping: threading.Event) -> Iterator[None]:
    """Hold the lock of a stage's checkpoints: a job that was given up for lost may still write there."""
    with path.open("a", encoding="utf-8") as file:
        waited = False
        while not locks.acquire(file):
            if not waited:
                wire.write("waiting: an earlier job of this stage still holds its checkpoints\n")
            waited = True
            if stopping.wait(LOOK):
                raise Stopped("ended while it waited")
        yield


@contextlib.contextmanager
def _streaming(log: Path) -> Iterator[None]:
    """Write a log's lines to the standard output while the block runs, and the rest of it at the end."""
    ended = threading.Event()

    def follow() -> None:
        offset = 0
        while True:
            last = ended.wait(LOOK)
            if log.exists():
                with log.open("rb") as f:
                    f.seek(offset)
                    text = f.read()
                whole = len(text) if last else text.rfind(b"\n") + 1
                offset += whole
                if whole:
                    lines = text[:whole].decode("utf-8", errors="replace")
                    wire.write(lines if lines.endswith("\n") else f"{lines}\n")
            if last:
                return

    thread = threading.Thread(target=follow, name="log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _end_with_engine(stopping: threading.Event) -> None:
    """Set `stopping` once the process that started this one has ended."""
    engine = os.getppid()

    def look() -> None:
        while os.getppid() == engine:
            time.sleep(LOOK)
        stopping.set()

    threading.Thread(target=look, name="engine", daemon=True).start()


def encode(task: Task) -> str:
    """Return the JSON by which `main` gets a task."""
    return json.dumps(asdict(task))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
