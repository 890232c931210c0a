"""The flow on a toy project: real DVC, real Prefect with one server for all tests, real MLflow."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from flows.graph import Meta, Stage
from flows.runners import slots
from tasks.stage.errors import ConfigError
from tests.support import toy
from tests.support.forking import Forked, Forking


class Prefect:
    """A server's answers."""

    def __init__(self, url: str) -> None:
        self.api = f"{url}/api"

    def ask(self, path: str, query: dict[str, Any]) -> Any:
        """Post a query. A server that is busy with its database answers 503; like Prefect's own client, ask again."""
        body, headers = json.dumps(query).encode(), {"Content-Type": "application/json"}
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(f"{self.api}/{path}", body, headers), timeout=30
                ) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as e:
                if e.code != 503 or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def find(self, what: str, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(f"{what}/filter", query)
        return found

    def create(self, what: str, **values: Any) -> str:
        return str(self.ask(f"{what}/", values)["id"])

    def set(self, run: str, kind: str, *, force: bool = False) -> None:
        """Propose a state of a flow run, as the dashboard does."""
        self.ask(f"flow_runs/{run}/set_state", {"state": {"type": kind}, "force": force})

    def flow_name(self, run: dict[str, Any]) -> str:
        return str(self.find("flows", flows={"id": {"any_": [run["flow_id"]]}})[0]["name"])

    def last_flow(self) -> dict[str, Any]:
        return self.find("flow_runs", flows={"name": {"any_": ["polm"]}}, sort="START_TIME_DESC", limit=1)[0]

    def tasks(self) -> dict[str, tuple[str, str]]:
        """Stage to the task run's name and state, of the last flow run. Prefect records task runs a moment later."""
        flow = {"id": {"any_": [self.last_flow()["id"]]}}
        deadline = time.monotonic() + 20
        while True:
            runs = self.find("task_runs", flow_runs=flow)
            if runs and all(run["state_name"] not in ("Pending", "Running") for run in runs):
                return {re.sub("@[0-9a-f]{8}$", "", r["name"]): (r["name"], r["state_name"]) for r in runs}
            assert time.monotonic() < deadline, runs
            time.sleep(0.2)


@pytest.fixture(scope="module")
def prefect(prefect_url: str) -> Prefect:
    return Prefect(prefect_url)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> toy.Toy:
    """A project whose stages all ran once, by DVC alone. Tests get copies."""
    made = toy.make(tmp_path_factory.mktemp("template"))
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=made.root, env=made.environment(), check=True)
    made.ran()
    return made


@pytest.fixture
def project(
    template: toy.Toy,
    tmp_path: Path,
    prefect: Prefect,
    mlflow_template: Path,
    forking_command: Forking,
    monkeypatch: pytest.MonkeyPatch,
) -> toy.Toy:
    """A project in which nothing has changed, with its MLflow store and the server of this module. Its `polm` forks.

    DVC and the stages do not, so that `polm` can end them as it ends its own.
    """
    root = tmp_path / "project"
    shutil.copytree(template.root, root, symlinks=True)
    shutil.copyfile(mlflow_template, root / ".polm/mlflow.db")
    monkeypatch.setenv("PREFECT_API_URL", prefect.api)
    return toy.Toy(root, forking_command)


@pytest.fixture
def polm_is_fresh(project: toy.Toy) -> None:
    """Nothing of the project forks."""
    project.forking = None


@pytest.fixture
def all_forks(project: toy.Toy, forking_command: Forking, tmp_path: Path) -> None:
    """DVC and the stages of the project fork too."""
    project.python = forking_command.write_python(tmp_path, ("dvc", "tasks."))


def states(project: toy.Toy) -> dict[str, str]:
    """Stage to its state in the summary of the last run."""
    last = max((project.root / ".polm/logs").glob("*/summary.json"))
    return {name: row["state"] for name, row in json.loads(last.read_text()).items()}


@pytest.mark.usefixtures("polm_is_fresh")
def test_a_failure_stops_its_descendants_only(project: toy.Toy, prefect: Prefect) -> None:
    project.set("source", value=2)
    project.set("left", fail="bug")
    code, said = project.polm("run")
    assert code == 1, said
    assert states(project) == {
        "source": "done",
        "left": "failed",
        "right": "done",
        "tail@x": "skipped",
        "tail@y": "skipped",
    }
    assert sorted(project.ran()) == ["left", "left", "right", "source"]  # `left` has one retry
    place = re.search(r"left failed with exit code 1, see (\S+left\.log):(\d+)\n    ValueError: a bug\n", said)
    assert place is not None, said
    assert (project.root / place[1]).read_text().splitlines()[int(place[2]) - 1] == "ValueError: a bug"
    assert prefect.last_flow()["state_name"] == "Failed"
    tasks = prefect.tasks()
    assert {name: state for name, (_, state) in tasks.items()} == {
        "source": "Completed",
        "left": "Failed",
        "right": "Completed",
        "tail@x": "NotReady",
        "tail@y": "NotReady",
    }


@pytest.mark.usefixtures("all_forks")
def test_what_changed_runs_and_what_fails_once_is_tried_again(project: toy.Toy, prefect: Prefect) -> None:
    project.set("left", value=3, fail="once")
    code, said = project.polm("run", "--force", "right", "--jobs", "3")
    assert code == 0, said
    assert states(project) == {"source": "cached", "left": "done", "right": "done", "tail@x": "done", "tail@y": "done"}
    assert sorted(project.ran()) == ["left", "left", "right", "x", "y"]
    assert prefect.last_flow()["state_name"] == "Completed"
    tasks = prefect.tasks()
    assert tasks["source"][1] == "Cached"
    assert re.fullmatch("left@[0-9a-f]{8}", tasks["left"][0])
    links = {row["key"]: row["data"] for row in prefect.find("artifacts/latest")}
    runs = json.loads((project.root / ".polm/mlflow_runs.json").read_text())
    assert set(runs) == {"source", "left", "right", "tail@x", "tail@y"}
    assert runs["tail@x"]["url"] in links["mlflow-tail-x"]


@pytest.mark.usefixtures("all_forks")
def test_what_needs_a_missing_module_is_left_out_and_the_rest_is_made(project: toy.Toy) -> None:
    project.add_media("no_such_module_of_polm")
    code, said = project.polm("run")
    assert code == 0, said
    assert said.count("left out here, without no_such_module_of_polm: spoken, hearing; no_such_module_") == 1
    assert sorted(project.ran()) == ["all", "photos", "seeing", "seeing"]
    assert {name for name, state in states(project).items() if state == "done"} == {
        "media@photos", "vlm@seeing", "evaluate_media@seeing", "all",
    }  # fmt: skip
    assert not (project.root / "artifacts/media/spoken").exists()
    code, said = project.polm("run")
    assert code == 0, said
    assert "nothing changed" in said
    assert "left out here" in said


def test_what_becomes_known_during_a_run_is_fetched_and_not_computed(project: toy.Toy, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    config = project.root / ".dvc/config"
    config.write_text(f"{config.read_text()}    remote = shared\n['remote \"shared\"']\n    url = {remote}\n")
    code, said = project.polm("run", "--push")
    assert code == 0, said
    assert re.search(r"pushed \d+ files, .+ and 5 entries of the run-cache to DVC remote 'shared'", said), said
    shutil.rmtree(project.root / "artifacts")
    shutil.rmtree(project.root / ".dvc/cache")
    code, said = project.polm("run", "--force", "source", "--jobs", "1")
    assert code == 0, said
    assert project.ran() == ["source"], "which all others wait for"
    expected = dict.fromkeys(("left", "right", "tail@x", "tail@y"), "restored")
    assert states(project) == {"source": "done"} | expected, "by hash, though `source` was made anew"
    assert f": from DVC remote 'shared' ({remote})" in said


def test_nothing_changed_is_said_without_starting_anything(project: toy.Toy, prefect: Prefect) -> None:
    before = len(prefect.find("flow_runs"))
    code = """
import sys
from flows.cli import main
try:
    main()
except SystemExit as e:
    print(e.code, [name for name in ("prefect", "mlflow", "torch") if name in sys.modules])
"""
    said = subprocess.run(
        [sys.executable, "-c", code, "run"], cwd=project.root, env=project.environment(), capture_output=True, text=True
    )
    assert said.stdout == "nothing changed: all 5 stages are up to date\n0 []\n"
    assert len(prefect.find("flow_runs")) == before
    assert project.ran() == []


@pytest.mark.usefixtures("all_forks")
def test_what_ended_without_a_record_is_logged_by_the_next_run(
    project: toy.Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody ran `dvc repro`; it is the same after a run in which MLflow died."""
    code, said = project.polm("run", "--force", "right")
    assert code == 0, said
    project.ran()
    project.set("left", value=7)
    subprocess.run(["dvc", "repro", "-q"], cwd=project.root, env=project.environment(), check=True)
    assert project.ran() == ["left", "x", "y"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, said = project.polm("run")
    assert code == 0
    assert re.search(r"warning: not in MLflow yet \(.+\): left, tail@x, tail@y; `polm run` tries again", said), said
    assert said.endswith("nothing changed: all 5 stages are up to date\n")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    code, said = project.polm("run")
    assert code == 0
    logged = "logged in MLflow, which had no record of them: left, tail@x, tail@y\n"
    assert said.endswith(f"{logged}nothing changed: all 5 stages are up to date\n"), said
    recorded = json.loads((project.root / ".polm/mlflow_runs.json").read_text())
    tags = MlflowClient(f"sqlite:///{project.root}/.polm/mlflow.db").get_run(recorded["left"]["run_id"]).data.tags
    assert (tags["stage"], tags["cached"], tags["version"]) == ("left", "true", recorded["left"]["version"])
    assert project.polm("run")[1] == "nothing changed: all 5 stages are up to date\n"
    assert project.ran() == []


@pytest.mark.usefixtures("all_forks")
def test_what_is_missing_is_restored_without_running(project: toy.Toy, prefect: Prefect) -> None:
    shutil.rmtree(project.root / "artifacts")
    code, said = project.polm("run", "--target", "tail@x")
    assert code == 0, said
    assert states(project) == {"source": "restored", "left": "restored", "tail@x": "restored"}
    assert project.ran() == []
    assert (project.root / "artifacts/tail/x/value.txt").read_text() == "1"
    assert {state for _, state in prefect.tasks().values()} == {"Restored"}


@pytest.mark.usefixtures("all_forks")
def test_an_output_that_comes_out_the_same_changes_nothing_below(project: toy.Toy) -> None:
    project.replace("source.yaml --out artifacts/source", "source.yaml  --out artifacts/source")
    code, said = project.polm("run", "--target", "tail@x")
    assert code == 0, said
    assert states(project) == {"source": "done", "left": "cached", "tail@x": "cached"}
    assert project.ran() == ["source"]


def run_until_left(project: toy.Toy, value: int, *command: str) -> "subprocess.Popen[str] | Forked":
    """Start a command that runs the pipeline; returns when its stage `left`, which takes minutes, is running."""
    project.set("left", value=value, sleep=600)
    marker = project.root / ".polm/started-left"
    marker.unlink(missing_ok=True)
    process = project.start(*command)
    while not marker.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    return process


def wait_until_stopped(project: toy.Toy) -> float:
    """Wait until nothing of the stage `left` is left; returns the seconds that it took."""
    start = time.monotonic()
    pid = int((project.root / ".polm/started-left").read_text())
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - start < 60, "the stage goes on"
        time.sleep(0.1)
    return time.monotonic() - start


@pytest.mark.parametrize(("kind", "force"), [("CANCELLING", False), ("CANCELLED", True)])
def test_a_run_that_is_cancelled_in_prefect_ends_its_stages(
    project: toy.Toy, prefect: Prefect, kind: str, force: bool
) -> None:
    process = run_until_left(project, 70, "run")
    run = prefect.last_flow()["id"]
    prefect.set(run, kind, force=force)
    assert wait_until_stopped(project) < 10
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert toy.survivors(project) == []
    assert (states(project)["left"], states(project)["tail@x"]) == ("stopped", "stopped")
    assert (prefect.last_flow()["id"], prefect.last_flow()["state_name"]) == (run, "Cancelled")
    assert prefect.tasks()["left"][1] == "Cancelled"
    project.ran()


def test_a_killed_run_on_a_shared_server_is_crashed_by_the_next_one_there(project: toy.Toy, prefect: Prefect) -> None:
    process = run_until_left(project, 71, "run", "--target", "left")
    process.kill()
    process.communicate()
    killed = prefect.last_flow()
    flow, running = killed["flow_id"], {"type": "RUNNING"}
    other_place = [tag.replace(str(project.root), "/another/place") for tag in killed["tags"]]
    other_machine = [tag.replace(tag.rpartition(":")[2], "0" * 12) for tag in killed["tags"]]
    others = [
        prefect.create("flow_runs", flow_id=flow, state=running, tags=t) for t in ([], other_place, other_machine)
    ]
    project.set("left", value=72)
    code, said = project.polm("run", "--target", "left")
    assert code == 0, said
    assert prefect.last_flow()["state_name"] == "Completed"
    ids = {"id": {"any_": [killed["id"], *others]}}
    assert {run["id"]: run["state_name"] for run in prefect.find("flow_runs", flow_runs=ids)} == {
        killed["id"]: "Crashed"
    } | dict.fromkeys(others, "Running")
    for run in others:
        prefect.set(run, "CANCELLED", force=True)
    project.ran()


@pytest.mark.parametrize("which", ["polm-scheduled", "polm"])
def test_a_scheduled_run_and_its_subflow_are_cancelled_together(project: toy.Toy, prefect: Prefect, which: str) -> None:
    schedule = project.start("schedule", "--cron", "0 2 1 1 *")
    try:
        project.set("left", value=73, sleep=600)
        marker = project.root / ".polm/started-left"
        marker.unlink(missing_ok=True)
        while not (found := [d for d in prefect.find("deployments") if str(project.root) in str(d["tags"])]):
            assert schedule.poll() is None, schedule.communicate()[0]
            time.sleep(0.2)
        prefect.ask(f"deployments/{found[0]['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})
        while not marker.exists():
            assert schedule.poll() is None, schedule.communicate()[0]
            time.sleep(0.2)
        runs = prefect.find("flow_runs", flow_runs={"state": {"type": {"any_": ["RUNNING"]}}})
        names = [prefect.flow_name(run) for run in runs]
        assert sorted(names) == ["polm", "polm-scheduled"]
        prefect.set(runs[names.index(which)]["id"], "CANCELLING")
        assert wait_until_stopped(project) < 10
        deadline = time.monotonic() + 60
        query = {"id": {"any_": [run["id"] for run in runs]}}
        while {now["state_name"] for now in prefect.find("flow_runs", flow_runs=query)} != {"Cancelled"}:
            assert time.monotonic() < deadline, prefect.find("flow_runs", flow_runs=query)
            time.sleep(0.2)
    finally:
        schedule.send_signal(signal.SIGINT)
        schedule.communicate(timeout=60)
    assert toy.survivors(project) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_is_cancelled(
    project: toy.Toy, prefect: Prefect, how: signal.Signals
) -> None:
    process = run_until_left(project, how.value, "run")
    code, said = project.polm("run")
    assert code == 2
    assert f"another `polm run` is at work here (process {process.pid})" in said
    process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert toy.survivors(project) == []
    assert (states(project)["left"], states(project)["tail@x"]) == ("stopped", "stopped")
    assert prefect.last_flow()["state_name"] == "Cancelled"
    project.ran()


@pytest.mark.slow
def test_the_server_schedules(prefect: Prefect) -> None:
    """`polm schedule` rests on it. Prefect 3.8's scheduler fails silently with SQLAlchemy 2.1, hence the pin."""
    cron = {"active": True, "schedule": {"cron": "0 2 * * *", "timezone": "UTC"}}
    flow = prefect.create("flows", name="nightly")
    deployment = prefect.create("deployments", name="nightly", flow_id=flow, schedules=[cron])
    deadline = time.monotonic() + 180  # its loop looks once a minute
    while not (runs := prefect.find("flow_runs", deployments={"id": {"any_": [deployment]}})):
        assert time.monotonic() < deadline, "no run was scheduled"
        time.sleep(0.5)
    assert {run["state_name"] for run in runs} == {"Scheduled"}
    assert all(run["expected_start_time"].endswith("T02:00:00Z") for run in runs)


def test_gpu_slots_are_handed_out_and_given_back() -> None:
    free = slots.Slots(3, 1, ["4", "7"])
    assert free.take("a", 8, 1) == ("4",)
    assert free.take("b", 1, 2) is None
    assert free.take("c", 8, 1) == ("7",)
    assert free.take("d", 1, 0) == ()
    assert free.take("e", 0, 0) is None  # three jobs run
    free.give_back("a")
    assert free.take("f", 1, 1) == ("4",)


def test_without_gpus_only_jobs_count() -> None:
    free = slots.Slots(2, 8, [])
    assert (free.take("a", 1, 1), free.take("b", 1, 8), free.take("c", 0, 0)) == ((), (), None)


def test_threads_beyond_the_cores_wait() -> None:
    free = slots.Slots(9, 4, [])
    assert (free.take("a", 2, 0), free.take("b", 1, 0), free.take("c", 2, 0)) == ((), (), None)
    assert (free.take("cached", 0, 0), free.take("d", 1, 0)) == ((), ())
    for name in ("a", "b", "d", "cached"):
        free.give_back(name)
    assert (free.take("wide", 64, 0), free.take("beside", 1, 0)) == ((), None)  # alone, but not never


def test_a_stage_that_could_never_start_is_refused() -> None:
    stage = Stage("big", Path("artifacts/big"), frozenset(), Meta(gpus=8), threads=1)
    with pytest.raises(ConfigError, match=r"stages\.big\.meta\.gpus is 8, but only 2 are visible"):
        slots.Slots(2, 1, ["0", "1"]).check([stage])
    slots.Slots(2, 1, []).check([stage])


@pytest.mark.parametrize(("value", "names"), [("0,3", ["0", "3"]), ("", []), ("-1", []), ("GPU-aa", ["GPU-aa"])])
def test_visible_gpus_follow_the_environment(value: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert slots.visible_gpus() == names


def test_a_stage_that_no_target_needs_is_not_forced_in_silence(project: toy.Toy) -> None:
    code, said = project.polm("run", "--target", "left", "--force", "right")
    assert code == 2
    assert "--force right: no target needs it; add `--target right`" in said
    assert project.ran() == []
