"""A stage's way to another working copy and back, by an engine that is a plain process."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.runners import local, travel
from flows.runners.listening import Lines
from flows.runners.settings import Slurm
from tasks.stage.errors import StageFailed, Stopped
from tests.support import cluster, toy

pytestmark = pytest.mark.slow


class Engine:
    """Runs the script in a process of this machine, from another folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.on_line: Callable[[str], None] = lambda line: None
        self.process: subprocess.Popen[str] | None = None

    def lines(self, name: str, script: str) -> Lines:
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", script], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout
        try:
            for line in self.process.stdout:
                self.on_line(line)
                yield line
        finally:
            self.process.terminate()
            self.process.wait()
            self.process.stdout.close()


class Trip:
    """Sends the stage `left` away and keeps what it told."""

    def __init__(self, site: cluster.Site, folder: Path) -> None:
        self.site = site
        self.engine = Engine(folder)
        self.told = cluster.Told()

    def run(self, *, timeout: float | None = 60, force: bool = False, python: str = sys.executable) -> str:
        values = self.site.runners(engine="slurm", output=str(self.site.shared), options={}, python=python)
        runners = cluster.parsed(values)
        there = runners.runners["there"]
        assert isinstance(there, Slurm)
        job = self.told.job(self.site, timeout=timeout, force=force)
        return travel.run(job, runners, there, self.engine.lines, self.told.stopping)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> cluster.Site:
    site = cluster.make(tmp_path_factory.mktemp("travel"))
    site.dvc("repro", "-q", "-s", "source")
    return site


@pytest.fixture
def trip(built: cluster.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trip:
    monkeypatch.chdir(built.project.root)
    for name, value in built.project.environment().items():
        monkeypatch.setenv(name, value)
    built.project.ran()
    return Trip(built, tmp_path)


def copies(site: cluster.Site) -> list[str]:
    return [path.name for path in (site.work / "jobs").iterdir()]


def test_a_stage_runs_there_and_dvc_finds_its_result_here(trip: Trip) -> None:
    trip.site.project.set("left", value=4)
    assert trip.run() == "done"
    assert trip.told.started == 1
    assert [event["done"] for event in trip.told.events] == [1, 2, 3, 4]
    assert list(trip.told.seconds) == ["code", "inputs", "wait", "stage", "push", "restore"]
    assert trip.site.project.ran() == []  # not here
    assert Path("artifacts/left/value.txt").read_text() == "10"
    assert trip.site.dvc("status", "left") == "Data and pipelines are up to date.\n"
    log = Path(".polm/logs/run/left.log").read_text()
    assert "with uncommitted changes (sent as refs/polm/" in log
    assert "Running stage 'left'" in log and "\x1e" not in log
    assert copies(trip.site) == []

    there, lock = trip.site.hash(), Path("dvc.lock").read_bytes()
    assert trip.run() == "restored"  # somebody has it already: the stage does not run again
    assert trip.told.started == 1
    trip.site.dvc("repro", "-q", "-s", "-f", "left")
    assert trip.site.hash() == there
    assert Path("dvc.lock").read_bytes() == lock


def test_a_failure_there_names_the_line_of_the_log_here(trip: Trip) -> None:
    trip.site.project.set("left", value=2, fail="bug")
    with pytest.raises(StageFailed) as caught:
        trip.run()
    error = caught.value
    assert (error.reason, error.text, error.retry) == ("failed with exit code 1", "ValueError: a bug", True)
    assert error.log.read_text().splitlines()[error.line - 1] == error.text
    assert copies(trip.site) == []


@pytest.mark.cluster
def test_a_node_without_that_python_is_said_and_keeps_no_copy(trip: Trip) -> None:
    trip.site.project.set("left", value=9)
    with pytest.raises(StageFailed, match=r"no/python.*not found"):
        trip.run(python="/no/python")
    assert copies(trip.site) == []


def test_stages_of_like_names_have_names_of_their_own_there() -> None:
    names = ["sft@cot", "sft@a_b", "sft@a-b", "sft@A-b", "sft@a.b", "data"]
    slugs = [travel.slug(name) for name in names]
    assert len({*slugs}) == len(names)
    assert slugs[0] == "sft-cot" and slugs[-1] == "data"
    assert all(re.fullmatch(r"[a-z0-9-]+", slug) for slug in slugs)


@pytest.mark.cluster
def test_the_timeout_counts_there(trip: Trip) -> None:
    trip.site.project.set("left", value=2, sleep=600)
    with pytest.raises(StageFailed, match="took longer than its 2 s"):
        trip.run(timeout=2)
    assert toy.survivors(trip.site.project) == []


def test_stopping_ends_the_job_and_leaves_no_process(trip: Trip) -> None:
    trip.site.project.set("left", value=2, sleep=600)
    trip.engine.on_line = lambda line: trip.told.stopping.set() if "Running stage" in line else None
    with pytest.raises(Stopped):
        trip.run()
    assert trip.engine.process is not None and trip.engine.process.poll() is not None
    assert copies(trip.site) == []


@pytest.mark.cluster
def test_a_job_that_was_killed_goes_on_from_its_checkpoint_elsewhere(trip: Trip) -> None:
    trip.site.project.set("left", value=8, sleep=0.5)

    def kill(line: str) -> None:
        if '"done": 3' in line and trip.engine.process:
            trip.engine.process.kill()

    trip.engine.on_line = kill
    with pytest.raises(StageFailed, match="it ended without a result") as caught:
        trip.run()
    assert caught.value.retry
    trip.engine.on_line = lambda line: None
    assert trip.run() == "done"
    assert "resuming from step" in Path(".polm/logs/run/left.log").read_text()
    assert Path("artifacts/left/value.txt").read_text() == "36"
    assert copies(trip.site) == []


@pytest.mark.cluster
def test_the_stage_ends_with_its_engine(trip: Trip) -> None:
    """Whoever started it is gone: a shell between this process and the job, as an engine's daemon is."""
    trip.site.project.set("left", value=2, sleep=600)
    script: list[str] = []

    def keep(name: str, text: str) -> Lines:
        script.append(text)
        yield from ()

    trip.engine.lines = keep  # type: ignore[method-assign, assignment]
    with pytest.raises(StageFailed, match="it ended without a result"):
        trip.run()
    engine = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run(['/bin/sh', '-c', {script[0]!r}])"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert engine.stdout
    for line in engine.stdout:
        if "Running stage" in line:
            break
    engine.kill()
    engine.wait()
    said = threading.Thread(target=engine.stdout.read)
    said.start()
    said.join(30)
    assert not said.is_alive(), "its output is still open: something of it lives"
    engine.stdout.close()
    assert local.end_leftovers(str(trip.site.work)) == 0
