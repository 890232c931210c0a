"""A process that says what it finds, as a fork of a warm parent or started afresh, and what waits for it."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flows.graph import Meta, Stage
from flows.runners import warm
from flows.workspace import EVENTS

PROBE = """
import json, locale, logging, multiprocessing, os, random, resource, signal, subprocess, sys, tempfile, threading, time
from pathlib import Path

def files():
    targets = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
    return sorted(target for target in targets if not target.startswith("/proc"))

def facts():
    umask = os.umask(0)
    os.umask(umask)
    environment = {k: v for k, v in os.environ.items() if k not in ("PATH", "PWD", "OLDPWD", "SHLVL", "_")}
    return {
        "argv": sys.argv, "orig": sys.orig_argv, "folder": os.getcwd(), "path": sys.path, "umask": umask,
        "environment": environment, "shell": os.popen("echo $POLM_EVENTS").read(), "name": __name__,
        "spec": __spec__.name, "main": sys.modules["__main__"].__spec__.name, "executable": sys.executable,
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE)],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "files": files(),
        "read": sys.stdin.read(), "locale": locale.setlocale(locale.LC_ALL), "zone": time.tzname,
        "limits": [resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")],
        "nice": os.getpriority(os.PRIO_PROCESS, 0), "processors": sorted(os.sched_getaffinity(0)),
        "threads": threading.active_count(), "start method": multiprocessing.get_start_method(allow_none=True),
        "temporary": tempfile.gettempdir(), "hook": sys.excepthook is sys.__excepthook__, "flags": str(sys.flags),
        "depth": sys.getrecursionlimit(), "root handlers": len(logging.getLogger().handlers),
        "timer": signal.getitimer(signal.ITIMER_REAL), "session": os.getsid(0) == os.getpid(),
    }

what, *rest = sys.argv[1:]
if what == "facts":
    print(json.dumps(facts()))
    print("said to stderr", file=sys.stderr)
elif what == "exit":
    sys.exit(int(rest[0]))
elif what == "raise":
    raise ValueError("a bug")
elif what == "die":
    os.kill(os.getpid(), int(rest[0]))
elif what == "random":
    import numpy, torch
    print(random.random(), numpy.random.random(), torch.rand(1).item())
elif what == "unmarked":
    subprocess.Popen(["env", "-i", sys.executable, "-c", "import time; time.sleep(600)"])
    what, rest = "sleep", ["600"]
if what == "sleep":
    Path("pid").write_text(str(os.getpid()))
    Path("pid").rename("started")
    time.sleep(float(rest[0]))
    print("slept")
"""
"""A module of `tasks` that says what it finds, or ends as it is told."""


class Place:
    """A project with the probe, a parent for it, and the `python` that asks the parent."""

    def __init__(self, root: Path, script: str) -> None:
        self.root = root
        self.script = script
        self.log = root / "log"

    def start(self, *words: str, python: str | None = None, **environment: str) -> "subprocess.Popen[bytes]":
        (self.root / "started").unlink(missing_ok=True)
        command = [python or self.script, "-m", "tasks.probe", *words]
        path = f"{Path(self.script).parent}{os.pathsep}{os.environ['PATH']}"
        ours = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        values = {"PYTHONUNBUFFERED": "1", EVENTS: f"{self.root}/logs/e", "PATH": path}
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command, cwd=self.root, env=ours | values | environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        process = self.start(*words, **environment)
        return process.wait(60), self.log.read_text()

    def sleeper(self, process: "subprocess.Popen[bytes]") -> psutil.Process:
        """Wait for the probe that sleeps; returns its process."""
        within(30, lambda: (self.root / "started").exists() or process.poll() is not None)
        assert process.poll() is None, self.log.read_text()
        return psutil.Process(int((self.root / "started").read_text()))


def within(seconds: float, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def stages(threads: int, count: int = warm.WORTH) -> list[Stage]:
    return [Stage(f"s{i}", Path("a"), frozenset(), Meta(), threads) for i in range(count)]


@contextmanager
def probing(root: Path, *modules: str) -> Iterator[Place]:
    """Make a project with the probe, and a parent for it that has imported these modules."""
    (root / "tasks").mkdir()
    (root / "tasks/__init__.py").touch()
    (root / "tasks/probe.py").write_text(PROBE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, "STAGES", modules)
        patch.delenv("PYTEST_CURRENT_TEST", raising=False)
        patch.setattr(warm, "visible_gpus", list)
        with warm.parents(root, stages(1)) as script:
            within(120, (root / "warm/stages").exists)
            yield Place(root, script)
