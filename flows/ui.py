"""The servers behind the dashboards: MLflow and Prefect, on loopback only, each a group of processes that we end."""

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows import execute
from flows.workspace import EVENTS
from tasks import _artifact as artifact
from tasks._errors import PolmError

HOST = "127.0.0.1"
STATE = artifact.STATE / "ui.json"
"""Says where the servers of a running `polm ui` are, for `polm run` to use."""
BOOT = 90.0
"""Seconds that a server may take to answer for the first time (Prefect migrates its database then)."""


@dataclass(frozen=True)
class Server:
    """A server that was started here."""

    name: str
    url: str
    health: str
    """Answers 200 once the server is ready."""
    log: Path
    process: subprocess.Popen[bytes]
    mark: str
    """What its processes carry in their environment."""

    def ready(self) -> bool:
        """Whether it answers. Raises PolmError when its process has ended."""
        if self.process.poll() is not None:
            last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise PolmError(f"{self.name} did not start: {''.join(last)} (see {self.log}); try another port")
        with contextlib.suppress(OSError), urllib.request.urlopen(self.health, timeout=1) as answer:
            return bool(answer.status == 200)
        return False

    def wait(self) -> None:
        """Wait until it answers. Raises PolmError when it does not."""
        deadline = time.monotonic() + BOOT
        while not self.ready():
            if time.monotonic() > deadline:
                raise PolmError(f"{self.name} does not answer at {self.health} after {BOOT:g} s; see {self.log}")
            time.sleep(0.1)

    def end(self) -> None:
        """End the server and all its processes."""
        execute.end(self.process, self.mark)


def prefect_server(port: int, *, ui: bool) -> Server:
    """Start Prefect's server with the database in `PREFECT_HOME`."""
    command = ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port), "--ui" if ui else "--no-ui"]
    url = f"http://{HOST}:{port}"
    return _start("prefect", command, url, f"{url}/api/health")


def mlflow_server(port: int) -> Server:
    """Start MLflow's server on the store under `.polm/`."""
    store = f"sqlite:///{(artifact.STATE / 'mlflow.db').resolve()}"
    root = (artifact.STATE / "mlartifacts").resolve().as_uri()
    command = ["-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    url = f"http://{HOST}:{port}"
    return _start(
        "mlflow", [*command, "--backend-store-uri", store, "--artifacts-destination", root], url, f"{url}/health"
    )


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        return int(s.getsockname()[1])


def running() -> dict[str, str] | None:
    """Addresses of a running `polm ui`: `{"mlflow": url, "prefect": url}`; None without one."""
    if not STATE.exists():
        return None
    state = json.loads(STATE.read_text(encoding="utf-8"))
    if not psutil.pid_exists(state["pid"]) or psutil.Process(state["pid"]).create_time() != state["created"]:
        return None
    return {"mlflow": state["mlflow"], "prefect": state["prefect"]}


def prefect_for_run() -> Server | None:
    """Point Prefect at a server: `PREFECT_API_URL`, a running `polm ui`, or one of our own for this process.

    Ours starts in a session of its own, so that Ctrl-C does not end it before it has heard how the run ended. It ends
    with this process, after Prefect's threads have sent their last words to it.

    Returns:
        Our own server, not yet ready; None when there is another one.
    """
    served = running()
    if served:
        os.environ.setdefault("PREFECT_API_URL", f"{served['prefect']}/api")
    if "PREFECT_API_URL" in os.environ:
        return None
    server = prefect_server(free_port(), ui=False)
    atexit.register(server.end)
    os.environ["PREFECT_API_URL"] = f"{server.url}/api"
    return server


def serve(mlflow_port: int, prefect_port: int) -> Iterator[Server]:
    """Start both servers and keep them until the caller is interrupted.

    Yields:
        Each server once it answers.

    Raises:
        PolmError: a port is taken, or `polm ui` runs already.
    """
    urls = running()
    if urls:
        raise PolmError(f"`polm ui` runs already: MLflow {urls['mlflow']}, Prefect {urls['prefect']}")
    for port in (mlflow_port, prefect_port):
        with socket.socket() as s:
            if s.connect_ex((HOST, port)) == 0:
                raise PolmError(f"port {port} is taken; choose another one with --mlflow-port or --prefect-port")
    with contextlib.ExitStack() as stack:
        servers = []
        for server in (mlflow_server(mlflow_port), prefect_server(prefect_port, ui=True)):
            stack.callback(server.end)
            servers.append(server)
        for server in servers:
            server.wait()
            yield server
        created = psutil.Process().create_time()
        urls = {server.name: server.url for server in servers}
        artifact.write_json(STATE, {"pid": os.getpid(), "created": created, **urls})
        stack.callback(STATE.unlink, missing_ok=True)
        while all(server.process.poll() is None for server in servers):
            time.sleep(0.5)
        ended = next(server for server in servers if server.process.poll() is not None)
        raise PolmError(f"{ended.name} ended by itself; see {ended.log}")


def _start(name: str, command: list[str], url: str, health: str) -> Server:
    log = artifact.STATE / "logs" / f"{name}-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    mark = str(artifact.STATE.resolve() / "servers" / f"{name}-{os.getpid()}")
    env = os.environ | {EVENTS: mark}
    with log.open("wb") as f:
        process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=f, stderr=f, env=env, start_new_session=True
        )
    return Server(name, url, health, log, process, mark)
