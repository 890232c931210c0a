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
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from infra.services.layout import HOST, Layout
from tasks.stage.errors import PolmError

BOOT = 180.0
"""Seconds that a service may take until it answers: ten on a quiet machine."""
GRACE = 20.0
"""Seconds between asking a service to end and making it."""


def running(layout: Layout, name: str) -> psutil.Process | None:
    """Find the process of a service that was started here and lives."""
    path = layout.home / f"{name}.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    try:
        process = psutil.Process(record["pid"])
        alive = process.create_time() == record["created"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


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
            env=os.environ | dict(environment),
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    record = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
    (layout.home / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
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
    (layout.home / f"{name}.json").unlink(missing_ok=True)
    if process is None:
        return False
    family = [process, *process.children(recursive=True)]
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(how)
    _, alive = psutil.wait_procs(family, timeout=GRACE)
    for left in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    psutil.wait_procs(alive, timeout=GRACE)
    return True


def status(url: str) -> int | None:
    """Ask an address without credentials; returns the status of the answer, None without one."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return None
