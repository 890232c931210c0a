"""How `infra/services.sh` finds, ends and keeps apart what it started, with programs that are no services."""

import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.services import layout as layouts
from infra.services import postgres, processes
from tasks.stage.errors import PolmError

FAMILY = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "


@pytest.fixture
def layout(workspace: Path) -> Iterator[layouts.Layout]:
    made = layouts.make(29000)
    yield made
    processes.end(made, "mlflow")


def start(layout: layouts.Layout) -> psutil.Process:
    """A program with a worker, as MLflow's server has them."""
    command = [sys.executable, "-c", FAMILY + "time.sleep(600)"]
    assert processes.start(layout, "mlflow", command, [], {})
    process = processes.running(layout, "mlflow")
    assert process is not None
    while not process.children():
        process.status()
    return process


def test_a_service_is_found_again_and_ended_with_its_workers(layout: layouts.Layout) -> None:
    family = [(process := start(layout)), *process.children()]
    assert not processes.start(layout, "mlflow", ["false"], [], {}), "it runs already"
    assert processes.end(layout, "mlflow")
    assert not any(psutil.pid_exists(p.pid) and p.status() != psutil.STATUS_ZOMBIE for p in family)
    assert not processes.end(layout, "mlflow")


def test_the_workers_of_a_service_that_was_killed_are_ended(layout: layouts.Layout) -> None:
    process = start(layout)
    [worker] = process.children()
    process.kill()
    process.wait()
    assert processes.running(layout, "mlflow") is None and worker.is_running()
    assert not processes.end(layout, "mlflow"), "it did not run"
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("record", ["another process", "cut off", "of an older version"])
def test_a_record_that_is_of_no_process_of_ours_ends_nobody(layout: layouts.Layout, record: str) -> None:
    texts = {
        "another process": json.dumps({"pid": os.getpid(), "born": "0 0"}),
        "cut off": '{"pid"',
        "of an older version": json.dumps({"pid": os.getpid(), "created": psutil.Process().create_time()}),
    }
    (layout.home / "mlflow.json").write_text(texts[record])
    assert processes.running(layout, "mlflow") is None
    assert not processes.end(layout, "mlflow")


def test_two_at_once_are_kept_apart(workspace: Path) -> None:
    with (
        layouts.alone(),
        pytest.raises(PolmError, match=r"another `infra/services\.sh` is at work here"),
        layouts.alone(),
    ):
        pass
    with layouts.alone():
        pass


@pytest.mark.parametrize("text", ["{", '{"first_port": 1}', '{"first_port": 1, "secrets": {}}'])
def test_a_damaged_layout_is_named_and_not_drawn_anew(layout: layouts.Layout, text: str) -> None:
    (layout.home / "layout.json").write_text(text)
    with pytest.raises(PolmError, match=r"layout\.json: unreadable .*put its backup back"):
        layouts.make(None)
    assert (layout.home / "layout.json").read_text() == text


def test_variables_survive_a_folder_of_any_name_and_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / 'it\'s $HOME "here"'
    home.mkdir()
    monkeypatch.chdir(home)
    env = layouts.write_environment(layouts.make(29000))
    script = f'source {shlex.quote(str(env))} && printf "%s\\n" "$DVC_GLOBAL_CONFIG_DIR" "$NO_PROXY" "$no_proxy"'
    given = {"PATH": os.environ["PATH"], "NO_PROXY": "example.org"}
    done = subprocess.run(["bash", "-c", script], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{home}/.polm/services/dvc", "127.0.0.1,example.org", "127.0.0.1"]
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert not list(env.parent.glob("*.new"))


def test_a_folder_of_a_database_with_foreign_files_is_left_alone(
    layout: layouts.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = layout.home / "postgres"
    data.mkdir()
    (data / "notes.txt").touch()
    with pytest.raises(PolmError, match="holds files and no database; move it away"):
        postgres._create(Path("/nowhere"), data, layout, None)
    assert (data / "notes.txt").exists()
