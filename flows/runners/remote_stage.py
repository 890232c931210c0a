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
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows import workspace
from flows.runners import local, node, wire
from tasks.stage import lifecycle, locks
from tasks.stage.config import read_yaml
from tasks.stage.errors import PolmError, StageFailed, Stopped

LOOK = 0.2
"""Seconds between two looks whether the engine is there, and whether another job has let go of the checkpoints."""

REMOVING = 5.0
"""Seconds in which a working copy has to be gone, if something of the stage still writes into it."""


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
        if left := _remove(copy):
            wire.write(f"warning: its working copy could not be removed; it still has {left}\n")
    if stopping.is_set() and "failed" in said:  # what ended this process may have ended a `dvc pull` first
        said = {"stopped": True}
    wire.tell(**said)  # the last word: whoever hears it may end this process
    return 0 if "state" in said else 1


def _run(task: Task, stopping: threading.Event) -> dict[str, Any]:
    """Fetch, run and push; returns what `polm run` is told of the result."""
    facts = node.facts()  # before `polm` sets variables of its own
    workspace.enter()
    wire.tell(node=facts)
    wire.tell(part="inputs")
    Path(".dvc/config.local").write_text(f'[cache]\n    dir = "{task.work}/cache"\n', encoding="utf-8")
    checkpoints = Path(task.checkpoints, task.owner)
    checkpoints.mkdir(parents=True, exist_ok=True)
    Path(".checkpoints").symlink_to(checkpoints)
    with _alone(checkpoints / f"{task.slug}.lock", stopping):
        if task.upstreams:
            with _storage("pull") as repo:
                repo.pull(list(task.upstreams))
        with _storage("push") as repo:
            _try_to_write(repo)
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
        wire.tell(log=True)
        with _streaming(job.log):
            state = local.run(job, stopping)
        wire.tell(part="push")
        with _storage("push") as repo:
            repo.push([task.stage], run_cache=True)
    lock = read_yaml(Path("dvc.lock"))["stages"][task.stage]
    out = lock["outs"][0]
    measured = lifecycle.read_measurements(Path(out["path"]))
    return {"state": state, "hash": out["md5"], "path": out["path"], "measured": measured}


@contextlib.contextmanager
def _storage(what: str) -> Iterator[Any]:
    """Open DVC's repository for a transfer, which may be tried again when it fails. Raises StageFailed."""
    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # one step lower would also let its progress bars through
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with contextlib.closing(Repo()) as repo:
            yield repo
    except (DvcException, OSError) as e:
        message = f"{type(e).__name__}: {e}"
        wire.write(f"error: dvc {what}: {message}\n")
        raise StageFailed(f"dvc {what} failed there", Path("log"), 0, message.splitlines()[0], retry=True) from e


def _try_to_write(repo: Any) -> None:
    """Put an object into the default remote and delete it: better now than after hours. Raises OSError."""
    odb = repo.cloud.get_remote_odb()
    name = odb.fs.join(odb.path, f"polm-trial-{uuid.uuid4().hex}")
    odb.fs.makedirs(odb.path, exist_ok=True)
    odb.fs.pipe_file(name, b"trial")
    odb.fs.rm_file(name)


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
        with _guarded():
            yield


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Have the stage's processes ended when this one is killed in the block, by a child that then does what is left.

    The child has inherited the lock of the checkpoints, so that no other job takes them before it is done.
    """
    copy = Path.cwd()
    reader, writer = os.pipe()
    guard = os.fork()
    if guard == 0:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.setsid()
        os.close(writer)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)  # else the engine waits for the end of the output
        if not os.read(reader, 1):  # the other end was closed, by death
            local.end_leftovers(str(copy))
            _remove(copy)
        os._exit(0)
    os.close(reader)
    try:
        yield
    finally:
        os.write(writer, b"x")
        os.close(writer)
        os.waitpid(guard, 0)


def _remove(copy: Path) -> Path | None:
    """Remove a working copy, again where something was written into it meanwhile; returns a path that stays."""
    os.chdir("/")
    deadline = time.monotonic() + REMOVING
    while copy.exists():
        shutil.rmtree(copy, ignore_errors=True)
        if time.monotonic() > deadline:
            return next(copy.rglob("*"), copy)
        time.sleep(LOOK / 4)
    return None


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
