"""`polm ui`: both dashboards on loopback, found by other commands, and nothing left when it ends."""

import json
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows import ui
from tasks._errors import PolmError
from tests import toy


@pytest.fixture
def served(workspace: Path) -> Iterator[tuple[toy.Toy, "subprocess.Popen[str]", int, int]]:
    """A project with its `polm ui`, and the ports of MLflow and Prefect."""
    project = toy.make(workspace)
    mlflow, prefect = ui.free_port(), ui.free_port()
    process = project.start("ui", "--mlflow-port", str(mlflow), "--prefect-port", str(prefect))
    try:
        yield project, process, mlflow, prefect
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def test_both_servers_answer_on_loopback_and_end_with_it(
    served: tuple[toy.Toy, "subprocess.Popen[str]", int, int],
) -> None:
    project, process, mlflow, prefect = served
    urls = {"mlflow": f"http://127.0.0.1:{mlflow}", "prefect": f"http://127.0.0.1:{prefect}"}
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(3)]
    assert said[1:] == [f"mlflow   {urls['mlflow']}\n", f"prefect  {urls['prefect']}\n"]
    while ui.running() is None:
        assert process.poll() is None
    assert ui.running() == urls
    for url in urls.values():
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert b"<html" in answer.read()
    listening = [c.laddr for c in psutil.net_connections("tcp") if c.status == "LISTEN"]
    assert {address.ip for address in listening if address.port in (mlflow, prefect)} == {"127.0.0.1"}
    code, again = project.polm("ui")
    assert (code, "`polm ui` runs already" in again) == (2, True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert toy.survivors(project) == []
    assert ui.running() is None


def test_a_taken_port_is_named(workspace: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(PolmError, match=f"port {port} is taken by another program; choose another one with --mlf"):
            ui.serve(port, ui.free_port(), lambda _: None)


def test_a_killed_ui_is_not_running(workspace: Path) -> None:
    ui.STATE.parent.mkdir()
    ui.STATE.write_text(json.dumps({"pid": 1, "created": 0.0, "mlflow": "", "prefect": ""}))
    assert ui.running() is None
