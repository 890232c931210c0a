"""Where MLflow keeps things: the connection, the names of experiments and models, and which run shows what."""

import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flows.services import moved, reach
from tasks.stage import artifact
from tasks.stage.config import read_yaml
from tasks.stage.errors import ConfigError, PolmError, kind

RUNS = artifact.STATE / "mlflow_runs.json"
"""Stage to `{"version", "run_id", "url"}` of the run that shows what `artifacts/` holds now."""
_runs_lock = threading.Lock()
UI = "http://127.0.0.1:5000"
"""Address at which `polm ui` shows the local store; links to runs begin with it."""


def experiment(recipe: str) -> str:
    """Name a recipe's experiment, and its registered model."""
    return f"polm-{recipe}"


def client(*, writes: bool = True) -> Any:
    """Connect to `MLFLOW_TRACKING_URI`, or to the store under `.polm/`, whose files may have been moved.

    Loads MLflow on the first call.

    Args:
        writes: whether the command changes the store. One that only reads works in a read-only copy that was moved.

    Raises:
        PolmError: the store does not answer, or cannot be opened.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # whatever the environment says
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ["MLFLOW_TRACKING_URI"] = moved.uri()
    uri = os.environ["MLFLOW_TRACKING_URI"]
    if moved.is_ours(uri):
        uri = os.environ["MLFLOW_TRACKING_URI"] = moved.mended(writes=writes)
    api = reach.mlflow_client(uri)
    # 7 tries of 120 s by default: a quarter of an hour for each call to a server that takes it and does not answer.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    return api


def check(recipe: str) -> None:
    """Look whether a run could be logged now. Raises PolmError: no store that takes it, or a deleted experiment."""
    api = client()
    reach.require_writable(os.environ["MLFLOW_TRACKING_URI"])
    _refuse_deleted(api.get_experiment_by_name(experiment(recipe)))


def experiment_id(api: Any, recipe: str) -> str:
    """Find or create a recipe's experiment. Local artifacts go to `.polm/mlartifacts`.

    Raises:
        PolmError: it was deleted in MLflow.
    """
    recorded = api.get_experiment_by_name(experiment(recipe))
    _refuse_deleted(recorded)
    if recorded is not None:
        return str(recorded.experiment_id)
    local = os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:")
    location = moved.files() if local else None
    from mlflow.exceptions import MlflowException

    try:
        return str(api.create_experiment(experiment(recipe), artifact_location=location))
    except MlflowException as e:
        if e.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return str(api.get_experiment_by_name(experiment(recipe)).experiment_id)  # somebody else was faster


def _refuse_deleted(experiment: Any) -> None:
    """Raise PolmError for an experiment that somebody deleted: MLflow keeps its name, and takes nothing for it."""
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        uri = reach.shown(os.environ["MLFLOW_TRACKING_URI"])
        raise PolmError(
            f"MLflow's experiment '{experiment.name}' was deleted; restore it: "
            f"`MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id {experiment.experiment_id}`"
        )


def run_url(experiment: str, run_id: str) -> str:
    """Write the address of a run in the web interface: that of the tracking server, or of `polm ui`.

    It is stored and shown in many places, so user and password are left out; a browser asks for them.
    """
    uri = reach.bare(os.environ["MLFLOW_TRACKING_URI"])
    base = uri.rstrip("/") if uri.startswith("http") else UI
    return f"{base}/#/experiments/{quote(experiment)}/runs/{run_id}"


def locked_outputs() -> dict[str, str]:
    """Read DVC's hash of every stage's output from `dvc.lock`; nothing where it cannot be read."""
    try:
        stages = read_yaml(Path("dvc.lock"))["stages"]
    except (ConfigError, KeyError):
        return {}
    return {name: out["md5"] for name, stage in stages.items() for out in stage.get("outs", []) if "md5" in out}


def known_runs() -> dict[str, dict[str, str]]:
    """Read `.polm/mlflow_runs.json`; empty when nothing was logged yet, or `.polm` is closed to us."""
    runs: dict[str, dict[str, str]] = artifact.read_json(RUNS) if kind(RUNS) == "a file" else {}
    return runs


def remember_run(stage: str, version: str, run_id: str, url: str, out: Path) -> None:
    """Keep which run shows the artifact that is in the workspace now. Safe to call from several threads."""
    with _runs_lock:
        run = {"version": version, "run_id": run_id, "url": url, "artifact": str(out)}
        artifact.write_json(RUNS, known_runs() | {stage: run})
