"""MLflow runs of a `polm run` that was itself killed: it could not end them, so the next command does.

While a run is open, a file under `.polm/` names it. Whoever holds the workspace's lock and finds the file knows that
the process which wrote it is gone, unless the whole folder was copied meanwhile: so the file says where it was written.
"""

import os
import platform
from pathlib import Path

from flows.services import reach
from flows.tracking import client
from tasks.stage import artifact

OPEN = artifact.STATE / "mlflow_open.json"
"""`{"run_id", "experiment_id", "uri", "host", "root"}` of the parent run that is open; no file when none is."""


def note(run_id: str, experiment_id: str) -> None:
    """Remember the parent run that has been opened."""
    uri = reach.shown(os.environ["MLFLOW_TRACKING_URI"])
    artifact.write_json(OPEN, {"run_id": run_id, "experiment_id": experiment_id, "uri": uri} | _here())


def forget() -> None:
    """Forget it, because it has ended."""
    OPEN.unlink(missing_ok=True)


def left() -> bool:
    """Tell whether a killed run left its MLflow run open."""
    return OPEN.exists()


def close() -> int:
    """End what a killed run left open in the store that is in use now, as KILLED.

    A run in another store, and one of the working copy that this one was copied from, which may live, stays as it is,
    and is forgotten with the next run. To be called by the holder of the workspace's lock.

    Returns:
        How many runs were ended.

    Raises:
        PolmError: the store does not answer.
    """
    if not left():
        return 0
    from mlflow.exceptions import MlflowException

    known = artifact.read_json(OPEN)
    api = client.client()
    if known["uri"] != reach.shown(os.environ["MLFLOW_TRACKING_URI"]) or not _here().items() <= known.items():
        return 0
    text = f"tags.mlflow.parentRunId = '{known['run_id']}' and attributes.status = 'RUNNING'"
    ids = [run.info.run_id for run in api.search_runs([known["experiment_id"]], text)]
    ended = 0
    for run_id in (*ids, known["run_id"]):
        try:
            api.set_terminated(run_id, "KILLED")
            ended += 1
        except MlflowException as e:
            if e.error_code != "RESOURCE_DOES_NOT_EXIST":  # somebody deleted it meanwhile
                raise
    forget()
    return ended


def _here() -> dict[str, str]:
    return {"host": platform.node(), "root": str(Path.cwd())}
