"""A fork of a warm parent, and the attendant that waits for it.

The attendant hands signals on to the fork, ends it when the client dies, and tells the client how it ended; when the
attendant dies, the kernel ends the fork. The environment that `/proc` shows of a fork is that of its parent; the
variable by which `flows.runners.local` knows the processes of a stage is therefore written where `/proc` reads it.
"""

import ctypes
import importlib
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import NamedTuple

EVENTS = "POLM_EVENTS"
"""The mark of a stage's processes (`flows.workspace.EVENTS`), for which the parent's own environment keeps room."""
_PR_SET_PDEATHSIG = 1


class Request(NamedTuple):
    """What to be: `python -m <words>`."""

    words: list[str]
    folder: str
    environment: dict[str, str]
    umask: int
    inherited: dict[str, str]
    """What the client has from whoever started it (`flows.runners.warm_client.inherited`)."""


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
