"""`polm ui`: both dashboards on loopback, found by other commands, and nothing left when it ends."""

import base64
import json
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flows.services import dashboards
from tasks.stage.errors import PolmError
from tests.support import toy

KEY = "team:secret"


@pytest.fixture
def served(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[toy.Toy, "subprocess.Popen[str]", int, int]]:
    """A project with its `polm ui`, whose Prefect has a key, and the ports of MLflow and Prefect."""
    monkeypatch.setenv(dashboards.KEY, KEY)
    project = toy.make(workspace)
    mlflow, prefect = dashboards.free_port(), dashboards.free_port()
    process = project.start("ui", "--mlflow-port", str(mlflow), "--prefect-port", str(prefect))
    assert isinstance(process, subprocess.Popen)
    try:
        yield project, process, mlflow, prefect
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def status(url: str, headers: dict[str, str], *, key: str | None = KEY, method: str = "POST") -> int:
    """Ask a Prefect server for its flow runs, as a program or as a page would; returns the answer's status."""
    headers = headers | {"Content-Type": "application/json", "Access-Control-Request-Method": "POST"}
    if key is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(key.encode()).decode()}"
    request = urllib.request.Request(f"{url}/api/flow_runs/filter", b"{}", headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code


def check_guard(url: str) -> None:
    """Other sites' pages get nothing from Prefect's server, whatever they name themselves; the dashboard does."""
    port = url.rpartition(":")[2]
    assert [status(url, {}, key=key) for key in (KEY, None, "team:guess")] == [200, 401, 401]
    own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    assert [status(url, own, method=method) for method in ("POST", "OPTIONS")] == [200, 200]
    foreign = ({"Host": "evil.example"}, {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"})
    for headers in (
        *foreign,
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "localhost.evil.example"},
    ):
        answers = [status(url, headers, method=method) for method in ("POST", "OPTIONS")]
        assert (headers, answers) == (headers, [403, 403])
    socket_url = f"{url.replace('http', 'ws')}/api/events/out"
    with connect(socket_url, subprotocols=["prefect"]):  # type: ignore[list-item]
        pass
    with pytest.raises(InvalidStatus, match="403"), connect(socket_url, origin="http://evil.example"):  # type: ignore[arg-type]
        pass


@pytest.mark.slow
def test_both_servers_answer_on_loopback_and_end_with_it(
    served: tuple[toy.Toy, "subprocess.Popen[str]", int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, process, mlflow, prefect = served
    urls = {"mlflow": f"http://127.0.0.1:{mlflow}", "prefect": f"http://127.0.0.1:{prefect}"}
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(3)]
    assert said[1:] == [f"mlflow   {urls['mlflow']}\n", f"prefect  {urls['prefect']}\n"]
    while dashboards.running() is None:
        assert process.poll() is None
    assert dashboards.running() == urls
    for url in urls.values():
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert b"<html" in answer.read()
    check_guard(urls["prefect"])
    listening = [c.laddr for c in psutil.net_connections("tcp") if c.status == "LISTEN"]
    assert {address.ip for address in listening if address.port in (mlflow, prefect)} == {"127.0.0.1"}
    code, again = project.polm("ui")
    assert (code, "`polm ui` runs already" in again) == (2, True)
    monkeypatch.delenv(dashboards.KEY)
    code, refused = project.polm("run", "--target", "source")
    assert (code, "refuses this command (401): set PREFECT_API_AUTH_STRING" in refused) == (2, True), refused
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert toy.survivors(project) == []
    assert dashboards.running() is None


def test_a_taken_port_is_named(workspace: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(PolmError, match=f"port {port} is taken by another program; choose another one with --mlf"):
            dashboards.serve(port, dashboards.free_port(), lambda _: None)


@pytest.mark.slow
def test_a_killed_ui_is_not_running(workspace: Path) -> None:
    dashboards.STATE.parent.mkdir()
    dashboards.STATE.write_text(json.dumps({"pid": 1, "created": 0.0, "mlflow": "", "prefect": ""}))
    assert dashboards.running() is None
