"""The mark of a working copy on a shared Prefect server, and a server that is away."""

import shutil
import threading
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.pipeline import flow_runs
from flows.services import dashboards
from tasks.stage import artifact
from tasks.stage.errors import PolmError


def test_the_mark_stays_and_a_copy_gets_its_own(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = flow_runs.home()
    assert mark == flow_runs.home()
    assert str(workspace) in mark
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(workspace / ".polm", copy / ".polm")
    monkeypatch.chdir(copy)
    assert flow_runs.home().rpartition(":")[2] != mark.rpartition(":")[2]


def test_machines_of_one_name_and_path_have_marks_of_their_own(workspace: Path) -> None:
    mark = flow_runs.home()
    artifact.write_json(flow_runs.HOME, artifact.read_json(flow_runs.HOME) | {"host": "another"})
    other = flow_runs.home()
    assert (other.rpartition(":")[0], other == mark) == (mark.rpartition(":")[0], False)


def test_a_server_that_is_away_is_one_line_before_a_run_and_nothing_during_it(workspace: Path) -> None:
    cancelled = threading.Event()
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{dashboards.free_port()}/api"}):
        with pytest.raises(PolmError, match=r"Prefect does not answer .*start the server that PREFECT_API_URL names"):
            flow_runs.crash_killed()
        with flow_runs.watched(cancelled.set):
            assert not cancelled.wait(2 * flow_runs.LOOK)
    children = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [command for command in children if "prefect.server" in command], "Prefect started one of its own"
