"""A parent forks where a fork is what a process started afresh would be, and nowhere else."""

import json
import os
import socket
from pathlib import Path

import psutil
import pytest

from flows.runners import warm, warm_parent
from flows.runners.warm_fork import Request
from tests.conftest import REPO
from tests.support.warm import PROBE, Place, within

pytestmark = pytest.mark.slow


def test_code_that_changed_since_the_parent_began_is_what_runs(place: Place) -> None:
    probe = place.root / "tasks/probe.py"
    try:
        probe.write_text("print('new code')")
        assert place.run("facts") == (0, "new code\n")
    finally:
        probe.write_text(PROBE)


def test_a_parent_with_a_thread_forks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPO}")
    with warm._start(tmp_path, "stages", 0, ("threaded",)) as parent:
        assert parent.wait(60) == 1
    assert not (tmp_path / "stages").exists()
    assert "threads run after the imports (python" in (tmp_path / "stages.log").read_text()


def test_packages_that_were_installed_meanwhile_are_for_a_process_of_its_own(tmp_path: Path) -> None:
    """Half of a library would be the old one, and what is imported later the new one."""
    packages = tmp_path / "site-packages"
    (packages / "one-1.0.dist-info").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(packages)
        start = warm_parent.Start({}, {}, warm_parent.installed())
        request = Request(["tasks.probe"], "", {"PATH": ""}, 0, {})
        start.environment["PATH"] = ""
        assert warm_parent.difference(request, start) == ""
        (packages / "one-1.0.dist-info").rename(packages / "one-1.1.dist-info")
        said = "packages were installed since the run began (one-1.0, one-1.1)"
        assert warm_parent.difference(request, start) == said


def test_what_is_no_request_is_refused_and_the_parent_lives(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.root / "warm")
    for text in (b"", b"nonsense\n", b"\n{}\n", json.dumps({"words": 1}).encode() + b"\n"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("stages")
            client.sendall(text)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(10) == b""
    assert place.run("exit", "4")[0] == 4


def test_many_forks_leave_no_files_and_no_processes(place: Place) -> None:
    assert place.run("exit", "0")[0] == 0
    [parent] = [
        p for p in psutil.process_iter() if p.ppid() == os.getpid() and "stages" in p.cmdline() and p.is_running()
    ]
    before = parent.num_fds()
    for _ in range(8):
        assert place.run("exit", "0") == (0, "")
    assert parent.num_fds() == before
    within(10, lambda: len(parent.children()) <= 1)
