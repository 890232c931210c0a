"""The warm parents of a run: when they are started, whom they outlive, and that DVC and stages are their forks."""

import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows.graph import Stage
from flows.runners import local, warm
from tests.conftest import REPO
from tests.support import toy
from tests.support.warm import Place, gone, stages, within

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("how", ["the parent", "the run"])
def test_kill_9_of_the_parent_or_the_run_leaves_the_fork_to_its_end(place: Place, tmp_path: Path, how: str) -> None:
    """A stage whose run was killed goes on, until the next run ends it."""
    code = f"""
        import sys, time
        from pathlib import Path
        from flows.runners import warm
        from flows.graph import Meta, Stage
        warm.STAGES, warm.visible_gpus = (), list
        stages = [Stage(str(i), Path("a"), frozenset(), Meta(), 1) for i in range(warm.WORTH)]
        with warm.parents(Path({str(tmp_path)!r}), stages) as script:
            Path({str(tmp_path / "script")!r}).write_text(script)
            time.sleep(600)
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} | {"PYTHONPATH": str(REPO)}
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment)
    try:
        within(60, (tmp_path / "warm/stages").exists)
        other = Place(place.root, (tmp_path / "script").read_text())
        process = other.start("sleep", "3", PYTHONPATH=str(REPO))
        other.sleeper(process)
        parents = [p for p in psutil.Process(owner.pid).children() if "stages" in p.cmdline()]
        assert len(parents) == 1
        (parents[0] if how == "the parent" else owner).kill()
        within(10, lambda: gone(parents[0]))
        assert process.wait(20) == 0
        assert other.log.read_text() == "slept\n"
        again, said = other.run("exit", "3", PYTHONPATH=str(REPO))
        assert (again, "tasks.probe starts in a process of its own: its parent" in said) == (3, True)
    finally:
        owner.kill()
        owner.wait()


def test_without_enough_stages_or_with_gpus_or_when_switched_off_none_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, int]] = []
    ended = SimpleNamespace(stdin=SimpleNamespace(close=lambda: None), wait=lambda seconds: 0)

    def note(place: Path, name: str, threads: int, modules: tuple[str, ...]) -> Any:
        started.append((name, threads))
        return ended

    def names(folder: str, waiting: list[Stage], gpus: list[str]) -> list[tuple[str, int]]:
        started.clear()
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(warm, "visible_gpus", lambda: gpus)
        with warm.parents(tmp_path / folder, waiting) as python:
            assert (python == sys.executable) == (not started)
        return list(started)

    monkeypatch.setattr(warm, "_start", note)
    few = [*stages(1, warm.WORTH - 1), *stages(2, 2)]
    assert names("few", few, []) == [("dvc", 0)]
    assert names("enough", [*few, *stages(2, warm.WORTH)], []) == [("dvc", 0), ("stages", 2)]
    light = [replace(stage, name=f"media@{stage.name}") for stage in stages(1)]
    assert names("light", [*few, *light], []) == [("dvc", 0)], "they import none of the libraries"
    assert names("gpus", stages(1), ["0"]) == [("dvc", 0)]
    monkeypatch.setenv(warm.SWITCH, "0")
    assert names("off", stages(1), []) == []


def test_a_stage_runs_by_dvc_and_both_are_forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage whose threads the libraries were not imported for starts again in the same process."""
    project = toy.make(tmp_path)
    monkeypatch.chdir(project.root)
    for name, value in project.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(warm, "STAGES", ())
    monkeypatch.setattr(warm, "visible_gpus", list)
    folder = tmp_path / ".polm/logs/run"
    folder.mkdir(parents=True)
    events: list[dict[str, Any]] = []
    source = project.root / "tasks/source.py"
    source.write_text(source.read_text().replace("str(config.value)", 'os.environ["OMP_NUM_THREADS"]'))
    with warm.parents(folder, stages(1)) as python:
        within(60, lambda: all((folder / "warm" / name).exists() for name in ("dvc", "stages")))
        for threads in (1, 2):
            project.replace(
                f"threads: {3 - threads}" if threads == 2 else "threads: 1",
                f"threads: {threads}",
                "params/toy/source.yaml",
            )
            log = folder / f"{threads}.log"
            job = local.Job("source", log, folder / "e", 60, False, (), lambda: None, events.append, python)
            assert local.run(job, SimpleNamespace(is_set=lambda: False, wait=time.sleep)) == "done"  # type: ignore[arg-type]
            assert Path("artifacts/source/value.txt").read_text() == str(threads)
            assert ("starts again in a process of its own: the recipe asks for 2" in log.read_text()) == (threads == 2)
            assert "polm: dvc" not in log.read_text()
    assert len(events) == 6
    assert toy.survivors(project) == []
