"""The mark of a working copy on a shared Prefect server, and a server that is away."""

import platform
import shutil
import threading
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.pipeline import flow_runs
from flows.services import dashboards
from flows.workspace import HOME
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


def test_copies_of_one_name_and_path_have_marks_of_their_own_and_hosts_of_one_folder_share_its_id(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = flow_runs.home()
    with monkeypatch.context() as patch:
        patch.setattr(platform, "node", lambda: "login2")
        assert flow_runs.home().split(":")[1::2] == ["login2", mark.split(":")[3]]
    artifact.write_json(HOME, artifact.read_json(HOME) | {"inode": -1})  # as after `cp -r` in another container
    other = flow_runs.home()
    assert (other.rpartition(":")[0], other == mark) == (mark.rpartition(":")[0], False)


def test_a_server_that_is_away_is_one_line_before_a_run_and_nothing_during_it(workspace: Path) -> None:
    cancelled, before = threading.Event(), set(psutil.Process().children(recursive=True))
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{dashboards.free_port()}/api"}):
        with pytest.raises(PolmError, match=r"Prefect does not answer .*start the server that PREFECT_API_URL names"):
            flow_runs.crash_killed()
        with flow_runs.watched(cancelled.set):
            assert not cancelled.wait(2 * flow_runs.LOOK)
    assert set(psutil.Process().children(recursive=True)) <= before, "Prefect started a server of its own"
