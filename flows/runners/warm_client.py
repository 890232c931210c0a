"""What stands in the place of `python` while `polm run` has warm parents: it has one of them fork, or is that Python.

A parent (`flows.runners.warm_parent`) forks a process that runs the module as `python -m` would, from the folder, with
the environment and the open files of this one. This one waits for it: it hands on SIGTERM and SIGINT, and ends as the
fork ends, with its exit code or by its signal. If this one is killed, the fork is killed too. Without a parent, or when
that refuses, it becomes the Python that it stands for, in a process that has imported nothing, and says why.

    python -I -S warm_client.py FOLDER -m tasks.sft params/tiny/sft.yaml …

Only what Python needs to start is imported here.
"""

import json
import os
import resource
import signal
import socket
import sys
from typing import NoReturn

CALLED = {"dvc": "dvc", "tasks": "stages"}
"""Package of the module to run, to the socket of the parent that forks for it."""


LINES = ("Uid", "Gid", "Groups", "SigBlk", "SigIgn", "CapInh", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
"""Lines of `/proc/self/status` that a child process inherits."""


class Cold(Exception):
    """No parent forks for this command; the message says why."""


def main(folder: str, words: list[str]) -> NoReturn:
    """Run `python <words>` and end as it does.

    Args:
        folder: where the parents listen; on PATH it comes first, and is taken off it for a stage.
        words: what follows `python` on the command line.
    """
    package = words[1].partition(".")[0] if words[:1] == ["-m"] and len(words) > 1 else ""
    if package != "dvc":
        places = os.environ["PATH"].split(os.pathsep)
        os.environ["PATH"] = os.pathsep.join(place for place in places if place != folder)
    if os.path.exists(f"{folder}/{CALLED.get(package, '')}.log"):  # noqa: PTH110, else no such parent was started
        try:
            with socket.socket(socket.AF_UNIX) as parent:
                _ask(parent, folder, CALLED[package], words[1:])
                end(_wait(parent))
        except Cold as e:
            os.write(2, f"polm: {words[1]} starts in a process of its own: {e}\n".encode())
    os.execv(sys.executable, [sys.executable, *words])


def _ask(parent: socket.socket, folder: str, name: str, words: list[str]) -> None:
    """Send the request: a line of JSON, with the three standard files. Raises Cold when nobody takes it."""
    here = os.getcwd()  # noqa: PTH109, pathlib takes as long to import as all else here
    try:
        os.chdir(folder)  # the path of a socket may have 107 bytes
        parent.connect(name)
    except FileNotFoundError:
        raise Cold("its parent is not ready") from None
    except OSError as e:
        raise Cold(f"its parent does not answer ({e.strerror})") from None
    finally:
        os.chdir(here)
    umask = os.umask(0)
    os.umask(umask)
    request = {"words": words, "folder": here, "environment": dict(os.environ), "umask": umask}
    request["inherited"] = inherited()
    try:
        socket.send_fds(parent, [b"\n"], [0, 1, 2])
        parent.sendall(json.dumps(request).encode() + b"\n")
    except OSError as e:
        raise Cold(f"its parent has ended ({e.strerror})") from None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: parent.sendall(bytes([received])))


def _wait(parent: socket.socket) -> int:
    """Wait for the end of the fork; returns its exit code, below 0 for a signal. Raises Cold when there is no fork."""
    said = b""
    while not said.endswith(b"\nended\n"):
        try:
            read = parent.recv(4096)
        except OSError:
            read = b""
        said += read
        if said.startswith(b"cold ") and said.endswith(b"\n"):
            raise Cold(said[5:-1].decode())
        if not read:
            break
    if not said:
        raise Cold("its parent has ended")
    lines = said.split(b"\n")
    return int(lines[1]) if lines[2:3] == [b"ended"] else -signal.SIGKILL  # the fork dies with who attended to it


def inherited() -> dict[str, str]:
    """Collect what a process inherits besides its environment, folder and files; a fork has it from its parent instead.

    It is what `nice`, `ulimit`, `taskset`, `unshare` or `setpriv` change for the program that they start.

    Returns:
        Name to value: limits, priority, processors, cgroup, namespaces, users, signals that are blocked or ignored.
    """
    found = {
        name: str(resource.getrlimit(getattr(resource, name))) for name in dir(resource) if name.startswith("RLIMIT_")
    }
    found["priority"] = str(os.getpriority(os.PRIO_PROCESS, 0))
    found["processors"] = str(sorted(os.sched_getaffinity(0)))
    for name in ("cgroup", "oom_score_adj"):
        with open(f"/proc/self/{name}") as file:  # noqa: PTH123
            found[name] = file.read()
    for name in os.listdir("/proc/self/ns"):  # noqa: PTH208
        found[f"{name} namespace"] = os.readlink(f"/proc/self/ns/{name}")  # noqa: PTH115
    with open("/proc/self/status") as file:  # noqa: PTH123
        found |= {key: value for key, _, value in (line.partition(":") for line in file) if key in LINES}
    return found


def end(code: int) -> NoReturn:
    """End this process as another one ended: with its exit code, or by its signal when the code is below 0."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what there was to dump has been
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        code = 128 - code
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
