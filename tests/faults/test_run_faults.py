"""What goes wrong around a run: one clear message, exit code 2, nothing lost, and the next run works."""

import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.support import toy

pytestmark = pytest.mark.slow


@pytest.fixture
def project(workspace: Path) -> toy.Toy:
    return toy.make(workspace)


@pytest.mark.parametrize("content", ["", "stages: ["])
def test_a_broken_lock_file_stops_the_run_before_anything(project: toy.Toy, content: str) -> None:
    (project.root / "dvc.lock").write_text(content)
    code, said = project.polm("run")
    assert code == 2
    assert said.startswith("error: dvc.lock cannot be read")
    assert "git checkout dvc.lock" in said
    assert "Traceback" not in said
    assert project.ran() == []
    assert (project.root / "dvc.lock").read_text() == content


def test_a_recipe_that_does_not_exist(project: toy.Toy) -> None:
    code, said = project.polm("run", "--recipe", "tooy")
    assert code == 2
    assert said.startswith("error: params/tooy: no such recipe; did you mean 'toy'?")
    assert (project.root / "params/recipe.yaml").readlink() == Path("toy/recipe.yaml")


def test_a_stage_that_does_not_exist(project: toy.Toy) -> None:
    code, said = project.polm("run", "--target", "tial")
    assert (code, said) == (2, "error: no model, method or stage 'tial'; did you mean 'tail'?\n")


def test_a_wrong_recipe_file_stops_the_run_before_anything(project: toy.Toy) -> None:
    project.set("left", value="oops")
    code, said = project.polm("run")
    assert code == 2
    assert said.strip() == "error: params/toy/left.yaml: 'value' is 'oops': expected a number"
    assert project.ran() == []
    assert toy.survivors(project) == []


def test_a_killed_run_is_cleared_away_by_the_next(project: toy.Toy) -> None:
    project.set("source", sleep=600)
    process = project.start("run", "--target", "source")
    while not (project.root / ".polm/started-source").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert toy.survivors(project)  # nobody could end them

    project.set("source", value=2)
    code, said = project.polm("run", "--target", "source")
    assert code == 0, said
    assert "processes that a killed `polm run` had left behind" in said
    assert toy.survivors(project) == []
    assert (project.root / "artifacts/source/value.txt").read_text() == "2"
    with sqlite3.connect(project.root / ".polm/prefect/prefect.db") as database:
        states = database.execute("select state_name from flow_run order by created").fetchall()
    assert states == [("Crashed",), ("Completed",)]
    summary = max((project.root / ".polm/logs").glob("*/summary.json"))
    assert json.loads(summary.read_text())["source"]["state"] == "done"
    assert os.environ.get("PREFECT_API_URL") is None
