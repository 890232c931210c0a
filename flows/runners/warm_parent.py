"""A process that imports libraries once, computes nothing, and forks for every command that needs them.

Importing torch, transformers and TRL takes longer than most stages of a small recipe. A fork of a process that has
imported them begins where a fresh one is after those seconds, and computes the same bits as long as the parent has
computed nothing and has no threads: both are checked here. It imports libraries alone; the code of this repository is
read by each fork.

    python -m flows.runners.warm_parent NAME THREADS MODULE …

It listens at the socket NAME of its working directory, for processes of the same user, until its input ends. For each
request (`flows.runners.warm_client`) it forks an attendant, which forks the process that is asked for, waits for it,
and tells the client how it ended:

    request: three files, a line of JSON, later signals, a byte each   →
                                                                       ←   `cold <reason>`, or `started`
                                                                       ←   its exit code, and `ended`

The attendant ends the fork when the client dies, and the kernel does so when the attendant dies. The environment that
`/proc` shows of a fork is that of its parent; the variable by which `flows.runners.local` knows the processes of a
stage is therefore written where `/proc` reads it.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any, NamedTuple

EVENTS = "POLM_EVENTS"
"""The mark of a stage's processes (`flows.workspace.EVENTS`), for which the parent's own environment keeps room."""
THREADS = "POLM_WARM_THREADS"
"""Tells a stage for how many threads its libraries were imported (`tasks.stage.warm`)."""
IGNORED = {EVENTS, "PWD", "OLDPWD", "SHLVL", "_"}
"""Variables that may differ between parent and fork: the mark, and what a shell sets. So may those of DVC."""
IGNORED_BY_DVC = {"CUDA_VISIBLE_DEVICES"}
"""Variables that may differ besides in DVC's own process."""
HARMLESS = {"jemalloc_bg_thd"}
"""Threads that may run in the parent: pyarrow's allocator stops its own before a fork and starts it after."""
_PR_SET_PDEATHSIG = 1
_PATIENCE = 10.0
"""Seconds in which a client has to send its request."""


class Request(NamedTuple):
    """What to be: `python -m <words>`."""

    words: list[str]
    folder: str
    environment: dict[str, str]
    umask: int


class Mark:
    """The room in this process's first environment, which `/proc/PID/environ` shows, for the value of `EVENTS`."""

    def __init__(self) -> None:
        """Find it. It must not have been changed since the process began."""
        self._libc = ctypes.CDLL(None)
        self._libc.getenv.restype = ctypes.c_void_p
        self._place = self._libc.getenv(EVENTS.encode())
        self._room = len(os.environ.get(EVENTS, ""))

    def write(self, value: str) -> bool:
        """Write a value there; returns whether it is now what others read of this process."""
        text = os.fsencode(value)
        if self._place is None or len(text) > self._room:
            return False
        ctypes.memset(self._place, 0, self._room)
        ctypes.memmove(self._place, text, len(text))
        return f"{EVENTS}=".encode() + text in Path("/proc/self/environ").read_bytes().split(b"\0")

    def end_with(self, parent: int) -> bool:
        """Have this process killed when its parent ends; returns whether that is still `parent`."""
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        return os.getppid() == parent


def main(name: str, threads: int, modules: list[str]) -> None:
    """Import the modules and serve until the input ends. Returns in the forks too, which then run what was asked for.

    Args:
        name: of the socket.
        threads: that the libraries are imported for; 0 when that is of no importance.
        modules: to import.
    """
    mark = Mark()
    baseline = dict(os.environ)
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
        request = serve(listening, baseline, mark)
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


def serve(listening: socket.socket, baseline: dict[str, str], mark: Mark) -> Request | None:
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
            pid = fork(client, difference(request, baseline))
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


def difference(request: Request, baseline: dict[str, str]) -> str:
    """Say in which variables the environment differs from that of the imports; empty when in none that counts."""
    here = str(Path.cwd())
    asked = dict(request.environment)
    ignored = IGNORED | (IGNORED_BY_DVC if request.words[0] == "dvc" else set())
    asked["PATH"] = os.pathsep.join(place for place in asked.get("PATH", "").split(os.pathsep) if place != here)
    names = sorted(
        name
        for name in asked.keys() | baseline.keys()
        if asked.get(name) != baseline.get(name) and name not in ignored and not name.startswith("DVC_")
    )
    return f"its environment is another one ({', '.join(names)})" if names else ""


def attend(client: socket.socket, request: Request, files: list[int], mark: Mark) -> None:
    """Fork, wait for the fork, and tell the client. Returns in the fork alone."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writing)
    attendant = os.getpid()
    pid = os.fork()
    if not pid:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for file in (reading, writing, client.detach()):
            os.close(file)
        be(request, files, mark, attendant)
        return
    for file in files:
        os.close(file)
    try:
        client.sendall(b"started\n")
        code = watch(client, reading, pid)
        client.sendall(b"%d\nended\n" % code)
    except OSError:  # the client has gone
        os.kill(pid, signal.SIGKILL)
    finally:
        os._exit(0)


def watch(client: socket.socket, woken: int, pid: int) -> int:
    """Hand signals on to the fork until it ends; returns its exit code, below 0 for a signal.

    Raises:
        ConnectionError: the client has died. The fork may live.
    """
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        ready = select.select([client.fileno(), woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
        else:
            signals = client.recv(64)
            if not signals:
                raise ConnectionError("the client has died")
            for number in signals:
                os.kill(pid, number)


def be(request: Request, files: list[int], mark: Mark, attendant: int) -> None:
    """Make this process one that `python -m` would start: its session, files, folder, environment, names."""
    os.setsid()
    if not mark.end_with(attendant):
        os._exit(1)
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.chdir(request.folder)
    os.umask(request.umask)
    command = [sys.executable, "-m", *request.words]
    if not mark.write(request.environment.get(EVENTS, "")):
        os.write(2, b"polm: starts in a process of its own: a fork cannot carry the mark of its stage here\n")
        os.execve(sys.executable, command, request.environment)
    os.environ.clear()
    os.environ.update(request.environment)
    # Seeds that are drawn by chance at the import; Python draws its own anew in a fork.
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()
    sys.path[0] = request.folder
    sys.argv[:] = ["-m", *request.words[1:]]
    sys.orig_argv[:] = command
    importlib.invalidate_caches()


if __name__ == "__main__":
    given: list[Any] = sys.argv[1:]
    main(given[0], int(given[1]), given[2:])
