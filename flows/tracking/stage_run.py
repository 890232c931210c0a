"""The MLflow run of one stage: its progress while it runs, and what it left when it has ended."""

import json
import time
from pathlib import Path
from typing import Any, Literal

from flows.services import reach
from flows.tracking import client, records
from flows.tracking.logbook import Logbook
from tasks.stage import artifact
from tasks.stage.lifecycle import read_measurements

FLUSH_SECONDS = 5.0
"""Seconds between two requests with live metrics, which are sent together."""
TAIL_LINES = 200
"""Lines of a failed stage's log that its run keeps."""

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ends, in MLflow's words: the artifact is there, the stage failed, somebody stopped it."""


class StageRun:
    """The run of one stage. Used by the one thread that runs the stage."""

    def __init__(self, logbook: Logbook, name: str, version: str, tags: dict[str, str]) -> None:
        """Create the run with these tags, beside those that say which stage it is."""
        self.name, self.version = name, version
        self.run_id = logbook.create(f"{name}@{version[:8]}", {"stage": name, "version": version, **tags})
        self.url = logbook.url(self.run_id)
        self.status: Status | None = None
        """How the stage ended; None while it runs."""
        self.logged = False
        """Whether MLflow has all that a finished stage left."""
        self._logbook = logbook
        self._live: set[tuple[int, str]] = set()
        self._buffer: list[Any] = []
        self._flushed = time.monotonic()

    def log_event(self, event: dict[str, Any]) -> None:
        """Show one progress event (`tasks/stage/progress.py`). Cheap: metrics are sent together."""
        for key, value in event["metrics"].items():
            self._add(int(event["done"]), records.metric_name(key), float(value), event["time"])
        if time.monotonic() - self._flushed > FLUSH_SECONDS and not self._logbook.pause.on:
            self._flush()

    def finish(self, out: Path, status: Status, logfile: Path | None = None) -> None:
        """Log what the stage left and end the run.

        Args:
            out: the stage's artifact; read only when the stage finished.
            status: how the stage ended.
            logfile: the stage's log; its tail is kept with a run that did not finish.
        """
        self.status = status
        with self._logbook.pause.watch():
            try:
                self._log_params()
                if status == "FINISHED":
                    self._log_artifact(out)
                elif logfile is not None and logfile.exists():
                    tail = logfile.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
                    self._logbook.api.log_text(self.run_id, "\n".join(tail) + "\n", "log_tail.txt")
                self._flush()
            except Exception as e:
                if not reach.unreachable(e):  # else the run's end could not be told either, after as long a wait
                    self._logbook.api.set_terminated(self.run_id, status)
                raise
            self._logbook.api.set_terminated(self.run_id, status)
        if status == "FINISHED":
            client.remember_run(self.name, self.version, self.run_id, self.url, out)
            self.logged = True

    def _log_params(self) -> None:
        from mlflow.entities import Param

        path = Path("params", self._logbook.recipe, f"{self.name.split('@')[0]}.yaml")
        rows = [Param(key, value) for key, value in records.params(path).items()]
        for start in range(0, len(rows), 100):
            self._logbook.api.log_batch(self.run_id, params=rows[start : start + 100])

    def _log_artifact(self, out: Path) -> None:
        from mlflow.entities import RunTag

        manifest = artifact.read_manifest(out)
        now = time.time()
        for step, key, value in records.curves(out):
            if (step, key) not in self._live:
                self._add(step, key, value, now)
        for key, value in (records.final_metrics(out) | records.measurements(read_measurements(out))).items():
            self._add(0, key, value, now)
        tags = {"artifact": str(out), "digest": manifest.digest, "stage.module": manifest.stage}
        tags |= {f"input.{records.metric_name(name)}": digest for name, digest in manifest.inputs.items()}
        self._logbook.api.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self._log_datasets(out, manifest)
        for path in records.files(out):
            folder = path.parent.relative_to(out)
            self._logbook.api.log_artifact(self.run_id, str(path), str(folder) if folder.parts else None)

    def _log_datasets(self, out: Path, manifest: artifact.Manifest) -> None:
        """Log the data artifact as MLflow's input, for `training` of a model, for `evaluation` of everything else."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if "data" not in manifest.inputs:
            return
        digest = manifest.inputs["data"]
        folder = next((path for path, other in artifact.manifests().items() if other.digest == digest), None)
        if folder is None:  # it was made anew since
            return
        rows = {
            name: digest for name, digest in artifact.read_manifest(folder).files.items() if name.endswith(".jsonl")
        }
        dataset = Dataset(
            name=f"{self._logbook.recipe}/{folder.name}",
            digest=digest[:32],  # MLflow allows 36 characters; the whole digest is the tag input.data
            source_type="local",
            source=json.dumps({"uri": str(folder)}),
            profile=json.dumps({"sha256": rows}),
        )
        context = InputTag("mlflow.data.context", "training" if out.parent.name == "models" else "evaluation")
        with self._logbook.lock:  # two threads that log the same new data set at once: the second one fails in MLflow
            self._logbook.api.log_inputs(self.run_id, [DatasetInput(dataset, [context])])

    def _add(self, step: int, key: str, value: float, seconds: float) -> None:
        from mlflow.entities import Metric

        self._live.add((step, key))
        self._buffer.append(Metric(key, value, int(seconds * 1000), step))

    def _flush(self) -> None:
        """Send what is buffered, at most 1000 metrics a request (MLflow's limit). What was not taken stays buffered."""
        self._flushed = time.monotonic()
        with self._logbook.pause.watch():
            while self._buffer:
                self._logbook.api.log_batch(self.run_id, metrics=self._buffer[:1000])
                del self._buffer[:1000]
