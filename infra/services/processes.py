"""Processes of the services: started in sessions of their own, found again by number and time of birth, ended."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

from infra.services.layout import HOST, Layout, private
from tasks.stage.errors import PolmError

BOOT = 180.0
"""Seconds that a service may take until it answers: ten on a quiet machine."""
GRACE = 20.0
"""Seconds between asking a service to end and making it."""


MARK = "POLM_SERVICE"
"""Variable in the environment of every process of a service, by which those are found whose first one was killed."""


def running(layout: Layout, name: str) -> psutil.Process | None:
    """Find the process of a service that was started here and lives."""
    try:
        record = json.loads((layout.home / f"{name}.json").read_text(encoding="utf-8"))
        process = psutil.Process(record["pid"])
        alive = born(process) == record["born"] and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):  # none, cut off, or of another process
        return None
    return process if alive else None


def born(process: psutil.Process) -> str:
    """Say when a process began, in a way that does not change when somebody sets the clock.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        ticks = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return str(process.create_time())
    return f"{boot} {ticks.split()[19]}"


def leftovers(layout: Layout, name: str) -> list[psutil.Process]:
    """List the processes of a service whose first process is gone: the workers of one that was killed."""
    mark, found = str(layout.home / name), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def start(
    layout: Layout,
    name: str,
    command: list[str],
    ports: list[int],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    user: str | None = None,
) -> bool:
    """Start a service, unless it runs.

    Args:
        layout: ports and folders.
        name: name of the service; its log and its record are called so.
        command: program and arguments, without any secret: everybody can read them.
        ports: ports that it will listen on.
        environment: variables on top of ours.
        folder: working directory; the current one without it.
        user: user that it runs as; ourselves without it.

    Returns:
        Whether it had to be started.

    Raises:
        PolmError: a port is taken.
    """
    if running(layout, name):
        return False
    _kill(leftovers(layout, name))
    for port in ports:
        with socket.socket() as s:
            if s.connect_ex((HOST, port)) == 0:
                raise PolmError(
                    f"{name}: port {port} is taken by another program; end it, or choose other ports at the first "
                    f"start: `infra/services.sh start --first-port PORT`"
                )
    with layout.log(name).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=os.environ | {**dict(environment), MARK: str(layout.home / name), **_direct()},
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    record = {"pid": process.pid, "born": born(psutil.Process(process.pid))}
    private(layout.home / f"{name}.json", json.dumps(record))
    return True


def wait(layout: Layout, name: str, healthy: Callable[[], bool]) -> None:
    """Wait until a service is healthy. Raises PolmError when it ends before, or takes too long."""
    deadline = time.monotonic() + BOOT
    while not healthy():
        if running(layout, name) is None:
            lines = layout.log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise PolmError(f"{name} ended: {lines[-1] if lines else 'without a word'} (see {layout.log(name)})")
        if time.monotonic() > deadline:
            raise PolmError(f"{name} does not answer after {BOOT:.0f} s; see {layout.log(name)}")
        time.sleep(0.2)


def end(layout: Layout, name: str, how: signal.Signals = signal.SIGTERM) -> bool:
    """End a service and its processes; returns whether it ran."""
    process = running(layout, name)
    family = leftovers(layout, name)
    if process is not None:
        family = [process, *process.children(recursive=True), *family]
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(how)
        _, family = psutil.wait_procs(set(family), timeout=GRACE)
    _kill(family)
    (layout.home / f"{name}.json").unlink(missing_ok=True)
    return process is not None


def _kill(processes: Iterable[psutil.Process]) -> None:
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=GRACE)


def _direct() -> dict[str, str]:
    """Return the variables by which a service reaches the others without the proxy that the environment may name."""
    return {name: ",".join(filter(None, (HOST, os.environ.get(name)))) for name in ("NO_PROXY", "no_proxy")}


def status(url: str) -> int | None:
    """Ask an address without credentials; returns the status of the answer, None without one."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return None
