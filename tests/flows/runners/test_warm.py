"""A fork of a warm parent is a process as `python -m` starts it, and ends with whom it should."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from flows.graph import Meta, Stage
from flows.runners import local, warm
from flows.workspace import EVENTS
from tasks.stage import artifact
from tests.conftest import REPO, TRAINER
from tests.support import toy

pytestmark = pytest.mark.slow

PROBE = """
import json, os, random, signal, subprocess, sys, time
from pathlib import Path

def files():
    targets = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
    return sorted(target for target in targets if not target.startswith("/proc"))

def facts():
    umask = os.umask(0)
    os.umask(umask)
    environment = {k: v for k, v in os.environ.items() if k not in ("PATH", "PWD", "OLDPWD", "SHLVL", "_")}
    return {
        "argv": sys.argv, "orig": sys.orig_argv, "folder": os.getcwd(), "path": sys.path, "umask": umask,
        "environment": environment, "shell": os.popen("echo $POLM_EVENTS").read(), "name": __name__,
        "spec": __spec__.name, "main": sys.modules["__main__"].__spec__.name, "executable": sys.executable,
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE)],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "files": files(),
        "read": sys.stdin.read(),
    }

what, *rest = sys.argv[1:]
if what == "facts":
    print(json.dumps(facts()))
    print("said to stderr", file=sys.stderr)
elif what == "exit":
    sys.exit(int(rest[0]))
elif what == "raise":
    raise ValueError("a bug")
elif what == "die":
    os.kill(os.getpid(), int(rest[0]))
elif what == "random":
    import numpy, torch
    print(random.random(), numpy.random.random(), torch.rand(1).item())
elif what == "unmarked":
    subprocess.Popen(["env", "-i", sys.executable, "-c", "import time; time.sleep(600)"])
    what, rest = "sleep", ["600"]
if what == "sleep":
    Path("pid").write_text(str(os.getpid()))
    Path("pid").rename("started")
    time.sleep(float(rest[0]))
    print("slept")
"""
"""A module of `tasks` that says what it finds, or ends as it is told."""


class Place:
    """A project with the probe, a parent for it, and the `python` that asks the parent."""

    def __init__(self, root: Path, script: str) -> None:
        self.root = root
        self.script = script
        self.log = root / "log"

    def start(self, *words: str, python: str | None = None, **environment: str) -> "subprocess.Popen[bytes]":
        (self.root / "started").unlink(missing_ok=True)
        command = [python or self.script, "-m", "tasks.probe", *words]
        path = f"{Path(self.script).parent}{os.pathsep}{os.environ['PATH']}"
        ours = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        values = {"PYTHONUNBUFFERED": "1", EVENTS: f"{self.root}/logs/e", "PATH": path}
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command, cwd=self.root, env=ours | values | environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        process = self.start(*words, **environment)
        return process.wait(60), self.log.read_text()

    def sleeper(self, process: "subprocess.Popen[bytes]") -> psutil.Process:
        """Wait for the probe that sleeps; returns its process."""
        within(30, lambda: (self.root / "started").exists() or process.poll() is not None)
        assert process.poll() is None, self.log.read_text()
        return psutil.Process(int((self.root / "started").read_text()))


def within(seconds: float, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def stages(threads: int, count: int = warm.WORTH) -> list[Stage]:
    return [Stage(f"s{i}", Path("a"), frozenset(), Meta(), threads) for i in range(count)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The parent imports torch alone here, so that it is ready soon."""
    root = tmp_path_factory.mktemp("a folder")
    (root / "tasks").mkdir()
    (root / "tasks/__init__.py").touch()
    (root / "tasks/probe.py").write_text(PROBE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, "STAGES", ("torch",))
        patch.delenv("PYTEST_CURRENT_TEST")
        patch.setattr(warm, "visible_gpus", list)
        with warm.parents(root, stages(1)) as script:
            within(60, (root / "warm/stages").exists)
            yield Place(root, script)


def test_a_fork_finds_what_a_fresh_process_finds(place: Place) -> None:
    code, said = place.run("facts", "--flag", "a b", DVC_STAGE="probe")
    assert code == 0, said
    forked: dict[str, Any] = json.loads(said.splitlines()[0])
    assert said.splitlines()[1:] == ["said to stderr"]
    fresh_process = place.start("facts", "--flag", "a b", python=sys.executable, DVC_STAGE="probe")
    assert fresh_process.wait(60) == 0
    fresh = json.loads(place.log.read_text().splitlines()[0])
    assert forked["environment"].pop("POLM_WARM_THREADS") == "1"  # which a stage takes out first of all
    assert forked["shell"] == f"{place.root}/logs/e\n"
    assert forked["files"] == fresh["files"]
    assert forked == fresh


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("exit", "0"), 0), (("exit", "2"), 2), (("raise",), 1), (("die", "15"), -15), (("die", "9"), -9),
        (("die", "11"), -11),
    ],
)  # fmt: skip
def test_it_ends_as_the_fork_ends(place: Place, words: tuple[str, ...], code: int) -> None:
    ended, said = place.run(*words)
    assert ended == code
    assert "process of its own" not in said
    if words == ("raise",):
        assert said.splitlines()[-1] == "ValueError: a bug"


def test_forks_do_not_share_what_is_drawn_by_chance(place: Place) -> None:
    drawn = [place.run("random")[1].split() for _ in range(2)]
    assert [len(set(pair)) for pair in zip(*drawn, strict=True)] == [2, 2, 2]


def test_code_that_changed_since_the_parent_began_is_what_runs(place: Place) -> None:
    probe = place.root / "tasks/probe.py"
    try:
        probe.write_text("print('new code')")
        assert place.run("facts") == (0, "new code\n")
    finally:
        probe.write_text(PROBE)


def test_another_environment_is_for_a_process_of_its_own_and_no_value_is_said(place: Place) -> None:
    code, said = place.run("exit", "3", HF_HOME="/nowhere/secret")
    assert code == 3
    assert said == ("polm: tasks.probe starts in a process of its own: its environment is another one (HF_HOME)\n")


def test_the_mark_of_a_fork_is_seen_and_ends_it(place: Place) -> None:
    process = place.start("sleep", "600")
    fork = place.sleeper(process)
    assert fork.environ()[EVENTS] == f"{place.root}/logs/e"
    assert os.getsid(fork.pid) != os.getsid(process.pid), "so its mark is what it is found by"
    local.end(process, f"{place.root}/logs/e")
    assert process.returncode == -signal.SIGTERM
    assert gone(fork)


def test_a_process_that_lost_the_mark_is_found_by_its_group(place: Place) -> None:
    process = place.start("unmarked")
    [child] = place.sleeper(process).children()
    within(10, lambda: EVENTS not in child.environ())
    local.end(process, f"{place.root}/logs/e")
    assert gone(child)


def test_what_a_killed_run_left_is_found_by_its_mark(place: Place) -> None:
    process = place.start("sleep", "600")
    fork = place.sleeper(process)
    assert local.end_leftovers(f"{place.root}/logs/") == 2
    assert gone(fork)
    assert process.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_one_that_waits_reaches_the_fork(place: Place, number: int) -> None:
    process = place.start("sleep", "600")
    fork = place.sleeper(process)
    process.send_signal(number)
    assert process.wait(10) == -number
    assert gone(fork)
    assert ("KeyboardInterrupt" in place.log.read_text()) == (number == signal.SIGINT)


def test_kill_9_of_the_one_that_waits_ends_the_fork(place: Place) -> None:
    process = place.start("sleep", "600")
    fork = place.sleeper(process)
    process.kill()
    process.wait()
    within(10, lambda: gone(fork))


def test_kill_9_of_the_fork_is_what_is_told(place: Place) -> None:
    process = place.start("sleep", "600")
    place.sleeper(process).kill()
    assert process.wait(10) == -signal.SIGKILL


def test_kill_9_of_the_attendant_ends_both(place: Place) -> None:
    process = place.start("sleep", "600")
    fork = place.sleeper(process)
    attendant = fork.parent()
    assert attendant
    attendant.kill()
    assert process.wait(10) == -signal.SIGKILL
    within(10, lambda: gone(fork))


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


def test_a_parent_with_a_thread_forks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPO}")
    with warm._start(tmp_path, "stages", 0, ("threaded",)) as parent:
        assert parent.wait(60) == 1
    assert not (tmp_path / "stages").exists()
    assert "threads run after the imports (python" in (tmp_path / "stages.log").read_text()


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


def test_the_weights_are_those_of_a_fresh_process(
    workspace: Path, chat_model: Path, sums_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "seed": 1, "threads": 1, "launch": None, "max_left_out": 0.0, "max_cut": 0.0, "dataset": "sft", "peft": None,
        "trainer": TRAINER | {"max_steps": 6, "assistant_only_loss": True},
    }  # fmt: skip
    with (workspace / "sft.yaml").open("w") as f:
        YAML(typ="safe").dump(values, f)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setattr(warm, "visible_gpus", list)
    inputs = ["--model", str(chat_model), "--data", str(sums_data)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    manifests = []
    with warm.parents(workspace, stages(1)) as script:
        within(120, (workspace / "warm/stages").exists)
        for python, out in ((script, "forked"), (sys.executable, "fresh")):
            command = [python, "-m", "tasks.sft", "sft.yaml", *inputs, "--out", f"artifacts/{out}"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert "process of its own" not in done.stderr
            manifests.append(artifact.verify(Path("artifacts", out)))
    assert manifests[0] == manifests[1]
