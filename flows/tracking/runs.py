"""MLflow tracking: one experiment per recipe, one parent run per pipeline run, one child run per stage.

Several stages run at once in threads of one process, so nothing here uses MLflow's "active run": every call names its
run. MLflow is imported when the first stage has something to say (its import takes seconds), so that a pipeline run in
which nothing changed never loads it. What cannot be logged raises; the flow makes a warning of it, because a result is
worth more than its logbook, and the next `polm run` logs a finished stage that is missing.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from flows.services import reach
from flows.tracking import client, records
from flows.tracking.git import git_state
from tasks.stage import artifact
from tasks.stage.lifecycle import read_measurements

log = logging.getLogger("polm")

FLUSH_SECONDS = 5.0
"""Live metrics are sent together, this often."""
AWAY_SECONDS = 60.0
"""For so long MLflow is not asked for what can wait, once it did not answer: each try holds a stage's thread up."""
SAMPLE_SECONDS = 5
"""Seconds between two samples of CPU, memory, disk, network and GPU."""
TAIL_LINES = 200
"""Lines of a failed stage's log kept with its run."""

State = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ends, in MLflow's words: the artifact is there, the stage failed, somebody stopped it."""


class StageRun:
    """The run of one stage. Used by the one thread that runs the stage."""

    def __init__(self, parent: "PipelineRun", name: str, version: str, tags: dict[str, str]) -> None:
        self.name, self.version, self._parent = name, version, parent
        stage_tags = {"stage": name, "version": version, **tags}
        self.run_id = parent.create(f"{name}@{version[:8]}", {"mlflow.parentRunId": parent.run_id, **stage_tags})
        self.url = client.run_url(parent.experiment_id, self.run_id)
        self.ended = False
        self._live: set[tuple[int, str]] = set()
        self._buffer: list[Any] = []
        self._flushed = time.monotonic()

    def log_event(self, event: dict[str, Any]) -> None:
        """Show one progress event (`tasks/stage/progress.py`). Cheap: metrics are sent together."""
        for key, value in event["metrics"].items():
            self._add(int(event["done"]), records.metric_name(key), float(value), event["time"])
        if time.monotonic() - self._flushed > FLUSH_SECONDS and not self._parent.pause.on:
            self._flush()

    def finish(self, out: Path, state: State, logfile: Path | None = None) -> None:
        """Log what the stage left and end the run.

        Args:
            out: the stage's artifact; read only when the stage finished.
            state: how it ended.
            logfile: the stage's log; its tail is kept with a run that did not finish.
        """
        self.ended = True
        if state != "FINISHED":
            self._parent.failed = True
        with self._parent.pause.watch():
            try:
                self._log_params()
                if state == "FINISHED":
                    self._log_artifact(out)
                elif logfile is not None and logfile.exists():
                    tail = logfile.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
                    self._parent.api.log_text(self.run_id, "\n".join(tail) + "\n", "log_tail.txt")
                self._flush()
            except Exception as e:
                if not reach.unreachable(e):  # else the run's end could not be told either, after as long a wait
                    self._parent.api.set_terminated(self.run_id, state)
                raise
            self._parent.api.set_terminated(self.run_id, state)
        if state == "FINISHED":
            self._parent.remember(self, out)

    def _log_params(self) -> None:
        from mlflow.entities import Param

        path = Path("params", self._parent.recipe, f"{self.name.split('@')[0]}.yaml")
        rows = [Param(key, value) for key, value in records.params(path).items()]
        for start in range(0, len(rows), 100):
            self._parent.api.log_batch(self.run_id, params=rows[start : start + 100])

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
        self._parent.api.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self._log_datasets(out, manifest)
        for path in records.files(out):
            folder = path.parent.relative_to(out)
            self._parent.api.log_artifact(self.run_id, str(path), str(folder) if folder.parts else None)

    def _log_datasets(self, out: Path, manifest: artifact.Manifest) -> None:
        """The data artifact as MLflow's input: context `training` for a model, `evaluation` for everything else."""
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
            name=f"{self._parent.recipe}/{folder.name}",
            digest=digest[:32],  # MLflow allows 36 characters; the whole digest is the tag input.data
            source_type="local",
            source=json.dumps({"uri": str(folder)}),
            profile=json.dumps({"sha256": rows}),
        )
        context = InputTag("mlflow.data.context", "training" if out.parent.name == "models" else "evaluation")
        with self._parent.lock:  # two threads that log the same new data set at once: the second one fails in MLflow
            self._parent.api.log_inputs(self.run_id, [DatasetInput(dataset, [context])])

    def _add(self, step: int, key: str, value: float, seconds: float) -> None:
        from mlflow.entities import Metric

        self._live.add((step, key))
        self._buffer.append(Metric(key, value, int(seconds * 1000), step))

    def _flush(self) -> None:
        """Send what is buffered, at most 1000 metrics a request (MLflow's limit). What was not taken stays buffered."""
        self._flushed = time.monotonic()
        with self._parent.pause.watch():
            while self._buffer:
                self._parent.api.log_batch(self.run_id, metrics=self._buffer[:1000])
                del self._buffer[:1000]


class PipelineRun:
    """The parent run. Opened by the first stage that has something to log."""

    def __init__(self, recipe: str) -> None:
        self.recipe, self.failed, self.run_id, self.experiment_id = recipe, False, "", ""
        self.api: Any = None
        self.lock = threading.Lock()
        self.pause = reach.Pause(AWAY_SECONDS)
        self._git: dict[str, str] = {}
        self._finished: dict[str, str] = {}

    @property
    def url(self) -> str | None:
        """Address of the parent run; None when nothing had to be logged."""
        return client.run_url(self.experiment_id, self.run_id) if self.run_id else None

    @contextmanager
    def stage(self, name: str, version: str) -> Iterator[StageRun]:
        """Open the child run of a stage and sample the machine while it runs.

        A block that ends without `finish` leaves the run FAILED, or KILLED when it was interrupted.
        """
        run = self._open(name, version, {"cached": "false"})
        monitor = self._monitor(run.run_id)
        try:
            yield run
        except KeyboardInterrupt:
            self._close(run, "KILLED")
            raise
        finally:
            monitor.finish()
            self._close(run, "FAILED")

    def log_cached(self, name: str, version: str, out: Path) -> None:
        """Show a stage whose artifact was already there or restored, unless this version was logged before."""
        known = client.known_runs().get(name, {})
        if (known.get("version"), known.get("artifact")) == (version, str(out)):
            return
        self.pause.refuse()
        with self.pause.watch():
            self._start()
            found = self.api.search_runs(
                [self.experiment_id],
                f"tags.stage = '{name}' and tags.version = '{version}' and attributes.status = 'FINISHED'",
                max_results=1,
            )
        if found:
            run_id = found[0].info.run_id
            client.remember_run(name, version, run_id, client.run_url(self.experiment_id, run_id), out)
            return
        self._open(name, version, {"cached": "true"}).finish(out, "FINISHED")

    def create(self, name: str, tags: dict[str, str]) -> str:
        """Create a run with the state of git as tags; returns its id."""
        tags = {**tags, "recipe": self.recipe, **self._git, "mlflow.source.git.commit": self._git["commit"]}
        return str(self.api.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id)

    def remember(self, run: StageRun, out: Path) -> None:
        """Keep which run shows the artifact that is in the workspace now."""
        client.remember_run(run.name, run.version, run.run_id, run.url, out)
        self._finished[run.name] = run.run_id

    def close(self, state: State) -> None:
        """End the parent run. DVC's output hashes are added here, when no `dvc` process is writing `dvc.lock`."""
        if not self.run_id:
            return
        from mlflow.exceptions import MlflowException

        try:
            for name, digest in client.locked_outputs().items():
                if name in self._finished:
                    self.api.set_tag(self._finished[name], "dvc.out", digest)
            self.api.set_terminated(self.run_id, state)
        except MlflowException as e:
            log.warning("the run was not closed in MLflow: %s", reach.reason(e))

    def _open(self, name: str, version: str, tags: dict[str, str]) -> StageRun:
        self.pause.refuse()
        with self.pause.watch():
            self._start()
            return StageRun(self, name, version, tags)

    def _start(self) -> None:
        with self.lock:
            if self.run_id:
                return
            self.api = client.client()
            self._git = git_state()
            if "git_error" in self._git:
                log.warning("the run is logged with commit '%s': %s", self._git["commit"], self._git["git_error"])
            self.experiment_id = client.experiment_id(self.api, self.recipe)
            self.run_id = self.create(time.strftime("run %Y-%m-%d %H:%M:%S"), {"kind": "pipeline"})

    def _monitor(self, run_id: str) -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, SAMPLE_SECONDS, tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
        monitor.start()
        return monitor

    def _close(self, run: StageRun, state: State) -> None:
        if not run.ended:
            run.finish(Path(), state)


@contextmanager
def pipeline_run(recipe: str) -> Iterator[PipelineRun]:
    """The parent run of one `polm run`: FINISHED, FAILED when a stage or the block failed, KILLED when interrupted."""
    run = PipelineRun(recipe)
    try:
        yield run
    except KeyboardInterrupt:
        run.close("KILLED")
        raise
    except BaseException:
        run.close("FAILED")
        raise
    run.close("FAILED" if run.failed else "FINISHED")
