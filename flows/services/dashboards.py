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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.runners import local
from flows.services import moved
from flows.workspace import EVENTS
from tasks.stage import artifact
from tasks.stage.errors import PolmError

HOST = "127.0.0.1"
STATE = artifact.STATE / "ui.json"
"""File that says where the servers of a running `polm ui` are, for `polm run` to use."""
KEY = "PREFECT_SERVER_API_AUTH_STRING"
"""Prefect's setting with the key, `USER:PASSWORD`, that its server asks for; none without it."""
BOOT = 300.0
"""Seconds that a server may take to answer: ten on a quiet machine, many more on a busy one whose database is new."""


@dataclass(frozen=True)
class Server:
    """A server that was started here."""

    name: str
    url: str
    health: str
    """Address that answers 200 once the server is ready."""
    log: Path
    process: subprocess.Popen[bytes]
    mark: str
    """Text that the server's processes carry in their environment."""

    def ready(self) -> bool:
        """Tell whether it answers. Raises PolmError when its process has ended."""
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
        local.end(self.process, self.mark)


def prefect_server(owner: str, port: int, *, ui: bool) -> Server:
    """Start Prefect's server with the database in `PREFECT_HOME`. Other sites' pages get no answer from it."""
    settings = {
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_ENABLED": str(ui),
        "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port},http://localhost:{port}",
    }
    return _start(owner, "prefect", ["flows.services.prefect_server"], port, "/api/health", settings)


def mlflow_server(owner: str, port: int) -> Server:
    """Start MLflow's server on the store under `.polm/`."""
    moved.mend()
    command = ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", moved.uri(), "--artifacts-destination", moved.files()]
    return _start(owner, "mlflow", command, port, "/health", {})


def free_port() -> int:
    """Find a port on loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        return int(s.getsockname()[1])


def running() -> dict[str, str] | None:
    """Read the addresses of a running `polm ui`: `{"mlflow": url, "prefect": url}`; None without one."""
    if not STATE.exists():
        return None
    state = json.loads(STATE.read_text(encoding="utf-8"))
    if not psutil.pid_exists(state["pid"]) or psutil.Process(state["pid"]).create_time() != state["created"]:
        return None
    return {"mlflow": state["mlflow"], "prefect": state["prefect"]}


def use_served() -> bool:
    """Point Prefect at `PREFECT_API_URL`, else at a running `polm ui`; False when there is neither."""
    if KEY in os.environ:
        os.environ.setdefault("PREFECT_API_AUTH_STRING", os.environ[KEY])
    urls = running()
    if urls:
        os.environ.setdefault("PREFECT_API_URL", f"{urls['prefect']}/api")
    return "PREFECT_API_URL" in os.environ


def prefect_for_run() -> Server | None:
    """Point Prefect at a server: `PREFECT_API_URL`, else a running `polm ui`, else one of our own for this process.

    Ours starts in a session of its own, so that Ctrl-C does not end it before it learns how the run ended. It ends
    with this process, after Prefect's threads have sent their last words to it.

    Returns:
        Our own server, not yet ready; None when there is another one.
    """
    if use_served():
        return None
    server = prefect_server("logs", free_port(), ui=False)
    atexit.register(server.end)
    os.environ["PREFECT_API_URL"] = f"{server.url}/api"
    return server


def serve(mlflow_port: int, prefect_port: int, say: Callable[[str], None]) -> None:
    """Start both servers and keep them until the caller is interrupted.

    Args:
        mlflow_port: port of MLflow's dashboard.
        prefect_port: port of Prefect's dashboard.
        say: called with each address once it answers.

    Raises:
        PolmError: a port is taken, `polm ui` runs already, or a server ended by itself.
    """
    urls = running()
    if urls:
        raise PolmError(f"`polm ui` runs already: MLflow {urls['mlflow']}, Prefect {urls['prefect']}")
    local.end_leftovers(f"{artifact.STATE.resolve()}/ui/")
    for port, option in ((mlflow_port, "--mlflow-port"), (prefect_port, "--prefect-port")):
        with socket.socket() as s:
            if s.connect_ex((HOST, port)) == 0:
                raise PolmError(f"port {port} is taken by another program; choose another one with {option}")
    with contextlib.ExitStack() as stack:
        servers = []
        for server in (mlflow_server("ui", mlflow_port), prefect_server("ui", prefect_port, ui=True)):
            stack.callback(server.end)
            servers.append(server)
        for server in servers:
            server.wait()
            say(f"{server.name:8} {server.url}")
        owner = {"pid": os.getpid(), "created": psutil.Process().create_time()}
        artifact.write_json(STATE, owner | {server.name: server.url for server in servers})
        stack.callback(STATE.unlink, missing_ok=True)
        while all(server.process.poll() is None for server in servers):
            time.sleep(0.5)
        ended = next(server for server in servers if server.process.poll() is not None)
        raise PolmError(f"{ended.name} ended by itself; see {ended.log}")


def _start(owner: str, name: str, module: list[str], port: int, health: str, settings: dict[str, str]) -> Server:
    """Start `python -m …` in a session of its own, with a mark that tells it from the stages."""
    log = artifact.STATE / "logs" / f"{owner}-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    mark = str(artifact.STATE.resolve() / owner / name)
    with log.open("wb") as f:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            stdin=subprocess.DEVNULL,
            stdout=f,
            stderr=f,
            env=os.environ | settings | {EVENTS: mark},
            start_new_session=True,
        )
    return Server(name, f"http://{HOST}:{port}", f"http://{HOST}:{port}{health}", log, process, mark)
