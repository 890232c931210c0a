"""A process that imports libraries once, computes nothing, and forks for every command that needs them.

Importing torch, transformers and TRL takes longer than most stages of a small recipe. A fork of a process that has
imported them begins where a fresh one is after those seconds, and computes the same bits as long as the parent has
computed nothing and has no threads, which is checked. It imports libraries alone; the code of this repository is read
by each fork.

    python -m flows.runners.warm_parent NAME THREADS MODULE …

It listens at the socket NAME of its working directory, for processes of the same user, until its input ends. For each
request (`flows.runners.warm_client`) it forks an attendant, which forks the process that is asked for, waits for it,
and tells the client how it ended:

    request: three files, a line of JSON, later signals, a byte each   →
                                                                       ←   `cold <reason>`, or `started`
                                                                       ←   its exit code, and `ended`

What becomes of a fork is in `flows.runners.warm_fork`.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flows.runners.warm_client import inherited
from flows.runners.warm_fork import EVENTS, Mark, Request, attend

THREADS = "POLM_WARM_THREADS"
"""Tells a stage for how many threads its libraries were imported (`tasks.stage.warm`)."""
IGNORED = {EVENTS, "PWD", "OLDPWD", "SHLVL", "_"}
"""Variables that may differ between parent and fork: the mark, and what a shell sets. So may those of DVC."""
IGNORED_BY_DVC = {"CUDA_VISIBLE_DEVICES"}
"""Variables that may differ besides in DVC's own process."""
HARMLESS = {"jemalloc_bg_thd"}
"""Threads that may run in the parent: pyarrow's allocator stops its own before a fork and starts it after."""
_PATIENCE = 10.0
"""Seconds in which a client has to send its request."""


class Start(NamedTuple):
    """What a parent began with, and its forks have."""

    environment: dict[str, str]
    inherited: dict[str, str]
    packages: dict[str, int]


def main(name: str, threads: int, modules: list[str]) -> None:
    """Import the modules and serve until the input ends. Returns in the forks too, which then run what was asked for.

    Args:
        name: of the socket.
        threads: that the libraries are imported for; 0 when that is of no importance.
        modules: to import.
    """
    mark = Mark()
    start = Start(dict(os.environ), inherited(), installed())
    if threads:
        lifecycle = importlib.import_module("tasks.stage.lifecycle")
        lifecycle.fix_environment(threads)
    for module in modules:
        importlib.import_module(module)
    for module in [module for module in sys.modules if module.split(".")[0] in ("tasks", "flows")]:
        del sys.modules[module]  # each fork imports the code of its own folder
    if busy := running_threads():
        sys.exit(f"error: threads run after the imports ({', '.join(busy)}), and no fork would have them")
    gc.collect()
    gc.freeze()  # or the first collection of each fork would copy every page
    with socket.socket(socket.AF_UNIX) as listening:
        os.umask(0o177)
        listening.bind(name)
        listening.listen(64)
        request = serve(listening, start, mark)
    if request is None:
        Path(name).unlink(missing_ok=True)
        return
    if threads and request.words[0].startswith("tasks."):
        os.environ[THREADS] = str(threads)
    runpy.run_module(request.words[0], run_name="__main__", alter_sys=True)


def running_threads() -> list[str]:
    """Name the threads, besides the main one, that a fork would miss. Those that a fork ends are ended."""
    pid = os.fork()  # OpenBLAS ends its threads before any fork, and starts them again when it has work
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    names = []
    for thread in Path("/proc/self/task").iterdir():
        if thread.name != str(os.getpid()):
            try:
                names.append((thread / "comm").read_text().strip())
            except OSError:  # it has ended
                continue
    return sorted(set(names) - HARMLESS)


def serve(listening: socket.socket, start: Start, mark: Mark) -> Request | None:
    """Answer requests until the input ends, and return None then. In a fork, return what it is to run."""
    attendants: set[int] = set()
    while listening.fileno() in select.select([listening.fileno(), 0], [], [])[0]:
        attendants -= {pid for pid in attendants if os.waitpid(pid, os.WNOHANG)[0]}
        client, _ = listening.accept()
        with client:
            try:
                request, files = receive(client)
            except (OSError, ValueError, TypeError) as e:  # it died, or is no client of ours
                sys.stderr.write(f"a request failed: {e}\n")
                continue  # the client reads the end of the connection
            pid = fork(client, difference(request, start))
            if not pid:
                listening.close()
                attend(client, request, files, mark)
                return request
            for file in files:
                os.close(file)
            if pid > 0:
                attendants.add(pid)
    return None


def fork(client: socket.socket, reason: str) -> int:
    """Fork unless there is a reason not to, which the client is told; returns as `os.fork` does, or -1."""
    if not reason:
        try:
            return os.fork()
        except OSError as e:
            reason = f"its parent cannot fork ({e.strerror})"
    with contextlib.suppress(OSError):  # it has gone
        client.sendall(f"cold {reason}\n".encode())
    return -1


def receive(client: socket.socket) -> tuple[Request, list[int]]:
    """Read a request and its three files. Raises OSError when it comes from another user, too late, or not whole."""
    _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if uid != os.geteuid():
        raise PermissionError(f"user {uid} asks")
    client.settimeout(_PATIENCE)
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    said = b""
    while not said.endswith(b"\n"):
        read = client.recv(1 << 20)
        if not read:
            raise ConnectionError("the client went away")
        said += read
    client.settimeout(None)
    return Request(**json.loads(said)), files


def installed() -> dict[str, int]:
    """List the packages of every folder that is imported from, by the description that pip writes of each.

    Returns:
        Path of the description to the time at which it was written, in nanoseconds.
    """
    found: dict[str, int] = {}
    for folder in {place for place in sys.path if place and Path(place).is_dir()}:
        with os.scandir(folder) as entries:
            found |= {entry.path: entry.stat().st_mtime_ns for entry in entries if entry.name.endswith(".dist-info")}
    return found


def difference(request: Request, start: Start) -> str:
    """Say in what a process started afresh would differ from a fork; empty where in nothing that counts."""
    here = str(Path.cwd())
    asked = dict(request.environment)
    ignored = IGNORED | (IGNORED_BY_DVC if request.words[0] == "dvc" else set())
    asked["PATH"] = os.pathsep.join(place for place in asked.get("PATH", "").split(os.pathsep) if place != here)
    if names := [n for n in _unequal(asked, start.environment) if n not in ignored and not n.startswith("DVC_")]:
        return f"its environment is another one ({', '.join(names)})"
    if names := _unequal(request.inherited, start.inherited):
        return f"it was started with others than the run ({', '.join(names)})"
    if names := _unequal(installed(), start.packages):
        return f"packages were installed since the run began ({', '.join(Path(name).stem for name in names)})"
    return ""


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


if __name__ == "__main__":
    given: list[Any] = sys.argv[1:]
    main(given[0], int(given[1]), given[2:])
