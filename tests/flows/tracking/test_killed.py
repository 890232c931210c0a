"""MLflow runs that nobody could end, because the process that would have was killed."""

from pathlib import Path

import pytest

from flows.tracking import client, killed
from flows.tracking.runs import PipelineRun, pipeline_run
from tasks.stage import artifact


def statuses() -> dict[str, str]:
    """Name of a stage, or `run`, to the status of its run."""
    api = client.client()
    experiment = api.get_experiment_by_name("polm-tiny").experiment_id
    return {run.data.tags.get("stage", "run"): run.info.status for run in api.search_runs([experiment])}


def test_what_a_killed_run_left_open_is_ended_as_killed(tracking: Path) -> None:
    run = PipelineRun("tiny")
    run._open("ended", "1" * 16, {}).finish(Path(), "FAILED")
    run._open("left", "2" * 16, {})  # and here its process is killed
    assert statuses() == {"run": "RUNNING", "ended": "FAILED", "left": "RUNNING"}
    assert killed.left() and killed.close() == 2
    assert statuses() == {"run": "KILLED", "ended": "FAILED", "left": "KILLED"}
    assert not killed.left() and killed.close() == 0


def test_a_run_that_ended_by_itself_leaves_nothing_to_end(tracking: Path) -> None:
    with pipeline_run("tiny") as run:
        run._open("ended", "1" * 16, {}).finish(Path(), "FAILED")
        assert killed.left()
    assert not killed.left()
    assert statuses() == {"run": "FAILED", "ended": "FAILED"}


def test_a_run_in_another_store_is_left_alone(tracking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PipelineRun("tiny")._open("ended", "1" * 16, {})
    other = tracking / "other.db"
    other.write_bytes((tracking / ".polm/mlflow.db").read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    assert killed.close() == 0
    assert statuses()["run"] == "RUNNING"


def test_the_run_of_the_copy_that_this_one_was_copied_from_is_left_alone(
    tracking: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may live: the lock that it holds is that of its own folder."""
    PipelineRun("tiny")._open("ended", "1" * 16, {})
    store = f"sqlite:///{tracking / '.polm/mlflow.db'}"
    copy = tmp_path_factory.mktemp("copy")
    (copy / ".polm").mkdir()
    noted = artifact.read_json(killed.OPEN)
    artifact.write_json(copy / killed.OPEN, noted | {"uri": store})
    monkeypatch.chdir(copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert killed.left() and killed.close() == 0
    assert statuses() == {"run": "RUNNING", "ended": "RUNNING"}
