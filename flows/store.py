"""Where MLflow keeps things: the connection, the names of experiments and models, and the state of git beside them."""

import logging
import os
import subprocess
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tasks import _artifact as artifact
from tasks._config import read_yaml
from tasks._errors import ConfigError

RUNS = artifact.STATE / "mlflow_runs.json"
"""Stage to `{"version", "run_id", "url"}` of the run that shows what `artifacts/` holds now."""
_runs_lock = threading.Lock()
UI = "http://127.0.0.1:5000"
"""Where `polm ui` shows the local store; links to runs begin with it."""


def experiment(recipe: str) -> str:
    """Name of a recipe's experiment and of its registered model."""
    return f"polm-{recipe}"


def client() -> Any:
    """MLflow's client for `MLFLOW_TRACKING_URI`, or for the store under `.polm/`. Loads MLflow on the first call."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3"
    )  # 7 by default: minutes for each call to a dead server
    artifact.STATE.mkdir(exist_ok=True)
    uri = os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(artifact.STATE / 'mlflow.db').resolve()}")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(uri)


def experiment_id(api: Any, recipe: str) -> str:
    """Find or create a recipe's experiment. Local artifacts go to `.polm/mlartifacts`."""
    found = api.get_experiment_by_name(experiment(recipe))
    if found is not None:
        return str(found.experiment_id)
    local = os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:")
    location = (artifact.STATE / "mlartifacts").resolve().as_uri() if local else None
    from mlflow.exceptions import MlflowException

    try:
        return str(api.create_experiment(experiment(recipe), artifact_location=location))
    except MlflowException as e:
        if e.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return str(api.get_experiment_by_name(experiment(recipe)).experiment_id)  # somebody else was faster


def run_url(experiment: str, run_id: str) -> str:
    """Address of a run in the web interface: that of the tracking server, or of `polm ui`."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    base = uri.rstrip("/") if uri.startswith("http") else UI
    return f"{base}/#/experiments/{quote(experiment)}/runs/{run_id}"


def git_state() -> dict[str, str]:
    """`{"commit", "dirty"}` of the working directory; `none` and `true` where there is no commit to go back to."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return {"commit": "none", "dirty": "true"}
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False)
    return {"commit": head.stdout.strip(), "dirty": str(bool(status.stdout.strip())).lower()}


def locked_outputs() -> dict[str, str]:
    """DVC's hash of every stage's output, from `dvc.lock`; empty when there is none that can be read."""
    try:
        stages = read_yaml(Path("dvc.lock"))["stages"]
    except (ConfigError, KeyError):
        return {}
    return {name: out["md5"] for name, stage in stages.items() for out in stage.get("outs", []) if "md5" in out}


def known_runs() -> dict[str, dict[str, str]]:
    """What `.polm/mlflow_runs.json` says; empty when nothing was logged yet."""
    runs: dict[str, dict[str, str]] = artifact.read_json(RUNS) if RUNS.exists() else {}
    return runs


def remember_run(stage: str, version: str, run_id: str, url: str, out: Path) -> None:
    """Keep which run shows the artifact that is in the workspace now. Safe to call from several threads."""
    with _runs_lock:
        run = {"version": version, "run_id": run_id, "url": url, "artifact": str(out)}
        artifact.write_json(RUNS, known_runs() | {stage: run})
