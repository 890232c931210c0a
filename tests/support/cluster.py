"""A toy project that other machines can reach: a bare repository for its code, a folder as DVC's remote, checkpoints.

Its stage `left` counts: it writes a checkpoint at each step, goes on from the last one, and says so.
"""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.runners.local import Job
from flows.runners.settings import Runners
from tasks.stage.config import read_yaml
from tests.support import toy

COUNTING = '''
"""Counts to `value`, a step in `sleep` seconds, from the last checkpoint on; the sum of all steps is the result."""
import logging, os, time
from pathlib import Path
from tasks.source import Config
from tasks.stage.lifecycle import Run, stage

def main(config: Config, run: Run, *, model: Path) -> None:
    """Count."""
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    saved = sorted(run.checkpoints.iterdir(), key=lambda path: int(path.name))
    step, total = (int(saved[-1].name), int(saved[-1].read_text())) if saved else (0, 0)
    if step:
        logging.getLogger("polm").info("resuming from step %d", step)
    while step < config.value:
        time.sleep(config.sleep)
        step += 1
        total += step
        whole = run.checkpoints.with_name("part")
        whole.write_text(str(total))
        whole.rename(run.checkpoints / str(step))
        run.progress.update(step, config.value, "step", loss=1.0 / step)
    if config.fail == "bug":
        raise ValueError("a bug")
    (run.out / "value.txt").write_text(str(total))

if __name__ == "__main__":
    stage(main, Config)
'''


@dataclass
class Site:
    """The project and what both sides reach, below one folder."""

    project: toy.Toy
    shared: Path
    """Folder with the repository, the DVC remote, checkpoints and output."""

    @property
    def work(self) -> Path:
        """The nodes' own folder."""
        return self.shared / "work"

    def runners(self, **runner: Any) -> dict[str, Any]:
        """Return a runners' file with one runner, `there`, that gets the stage `left`."""
        common = {"jobs": 2, "python": sys.executable, "work": str(self.work), "environment": ["PYTHONPATH"]}
        return {
            "code": str(self.shared / "code.git"),
            "checkpoints": str(self.shared / "checkpoints"),
            "runners": {"there": common | runner},
            "rules": [{"stages": "left", "runner": "there"}],
        }

    def hash(self) -> str:
        """Return the hash of `left` in `dvc.lock`."""
        lines = (self.project.root / "dvc.lock").read_text().splitlines()
        at = lines.index("    - path: artifacts/left", lines.index("  left:"))
        return lines[at + 2].split(": ")[1]

    def lock(self) -> dict[str, Any]:
        """Read `dvc.lock`, whose stages stand in the order in which they ended."""
        return read_yaml(self.project.root / "dvc.lock")

    def dvc(self, *arguments: str) -> str:
        """Run DVC in the project; returns what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.project.root,
            env=self.project.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


def make(root: Path) -> Site:
    """Build the project, committed, in an empty folder."""
    (root / "project").mkdir()
    project, shared = toy.make(root / "project"), root / "shared"
    shared.mkdir()
    (project.root / "tasks/count.py").write_text(COUNTING)
    project.replace("tasks.step params/${recipe}/left.yaml", "tasks.count params/${recipe}/left.yaml")
    project.replace(", gpus: 1}", "}")  # no node has any
    project.set("left", value=3)
    config = project.root / ".dvc/config"
    config.write_text(f"{config.read_text()}    remote = shared\n['remote \"shared\"']\n    url = {shared}/storage\n")
    ignore = project.root / ".gitignore"
    ignore.write_text(f"{ignore.read_text()}/.checkpoints\n")
    git = ["git", "-c", "user.name=toy", "-c", "user.email=toy@localhost"]
    for words in (
        ["git", "init", "--quiet", "--bare", str(shared / "code.git")],
        ["git", "init", "--quiet"],
        ["git", "add", "--all"],
        [*git, "commit", "--quiet", "--message", "toy"],
    ):
        subprocess.run(words, cwd=project.root, check=True, stderr=subprocess.DEVNULL)
    return Site(project, shared)


def wait_until_empty(folder: Path) -> None:
    """Wait until nothing is left of what an engine has ended, which tidies up by itself."""
    deadline = time.monotonic() + 30
    while left := sorted(folder.rglob("*")):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@dataclass
class Told:
    """What a job told while it ran."""

    started: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    waits: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    on_start: Callable[[], object] | None = None
    """Called when the stage starts."""
    on_event_done: tuple[int, Callable[[], object]] | None = None
    """A step, and what is called once when it is done."""

    def job(self, site: Site, *, timeout: float | None = 60, force: bool = False) -> Job:
        """Make the job of `left` that tells it."""
        folder = site.project.root / ".polm/logs/run"

        def start() -> None:
            self.started += 1
            if self.on_start:
                self.on_start()

        def note(event: dict[str, Any]) -> None:
            self.events.append(event)
            if self.on_event_done and event["done"] == self.on_event_done[0]:
                self.on_event_done[1]()

        return Job(
            name="left",
            log=folder / "left.log",
            events=folder / "left.events",
            timeout=timeout,
            force=force,
            gpus=(),
            on_start=start,
            on_event=note,
            upstreams=("source",),
            on_seconds=self.seconds.update,
            on_wait=self.waits.append,
        )


def over_all_nodes(
    site: Site, here: Site, mlflow: Path, runner: dict[str, Any], through: list[str]
) -> dict[str, dict[str, Any]]:
    """Run a site's whole graph on an engine, and the same graph locally in another site: the locks have to be equal.

    Args:
        site: what runs on the engine.
        here: a fresh project, in which everything runs on this machine.
        mlflow: database of MLflow to start from.
        runner: what the section of the runner says of its engine.
        through: command that runs the one after it where the engine is reached.

    Returns:
        The summary of the run: stage to its state, runner and seconds.
    """
    for project in (here.project, site.project):
        for stage in ("source", "left", "right", "tail"):
            project.set(stage, value=5, sleep=0.3)
    here.dvc("repro", "-q")
    path = here.shared / "runners.yaml"
    with path.open("w") as f:
        YAML(typ="safe").dump(site.runners(**runner) | {"rules": [{"stages": "*", "runner": "there"}]}, f)
    shutil.copyfile(mlflow, site.project.root / ".polm/mlflow.db")
    done = subprocess.run(
        [*through, *toy.POLM, "run", "--runners", str(path)],
        cwd=site.project.root,
        env=site.project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left" in done.stdout and " on there" in done.stdout
    assert site.project.ran() == []
    assert site.lock() == here.lock()
    assert "up to date" in site.dvc("status")
    summary: dict[str, dict[str, Any]] = json.loads(
        max((site.project.root / ".polm/logs").glob("2*/summary.json")).read_text()
    )
    assert {row["runner"] for row in summary.values()} == {"there"}
    return summary


def start(command: list[Any]) -> None:
    """Run the script that starts a cluster; the test is skipped where the script says what is missing (exit code 3)."""
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


def parsed(values: dict[str, Any]) -> Runners:
    """Return the runners' file as the runners take it."""
    return Runners.model_validate(values)
