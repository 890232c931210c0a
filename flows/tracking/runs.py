"""MLflow tracking: one experiment per recipe, one parent run per pipeline run, one child run per stage.

Several stages run at once in threads of one process, so nothing here uses MLflow's "active run": every call names its
run. MLflow is imported when the first stage has something to say (its import takes seconds), so that a pipeline run in
which nothing changed never loads it. What cannot be logged raises; the flow makes a warning of it, because a result is
worth more than its logbook, and the next `polm run` logs a finished stage that is missing.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.services import reach
from flows.tracking import client, killed
from flows.tracking.logbook import Logbook
from flows.tracking.stage_run import StageRun, Status

log = logging.getLogger("polm")

SAMPLE_SECONDS = 5
"""Seconds between two samples of CPU, memory, disk, network and GPU."""


class PipelineRun:
    """The parent run. Opened by the first stage that has something to log."""

    def __init__(self, recipe: str) -> None:
        self.logbook = Logbook(recipe)
        self.run_id = ""
        self._stages: list[StageRun] = []

    @property
    def url(self) -> str | None:
        """Address of the parent run; None when nothing had to be logged."""
        return self.logbook.url(self.run_id) if self.run_id else None

    @property
    def failed(self) -> bool:
        """Whether a stage failed or was stopped."""
        return any(run.status in ("FAILED", "KILLED") for run in self._stages)

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
        if _known(client.known_runs(), name, version, out):
            return
        logbook = self.logbook
        logbook.pause.refuse()
        with logbook.pause.watch():
            self._start()
            runs = logbook.api.search_runs(
                [logbook.experiment_id],
                f"tags.stage = '{name}' and tags.version = '{version}' and attributes.status = 'FINISHED'",
                max_results=1,
            )
        if runs:
            run_id = runs[0].info.run_id
            client.remember_run(name, version, run_id, logbook.url(run_id), out)
            return
        self._open(name, version, {"cached": "true"}).finish(out, "FINISHED")

    def close(self, status: Status) -> None:
        """End the parent run. DVC's output hashes are added here, when no `dvc` process is writing `dvc.lock`."""
        if not self.run_id:
            return
        from mlflow.exceptions import MlflowException

        try:
            outputs = client.locked_outputs()
            for run in self._stages:
                if run.logged and run.name in outputs:
                    self.logbook.api.set_tag(run.run_id, "dvc.out", outputs[run.name])
            self.logbook.api.set_terminated(self.run_id, status)
            killed.forget()
        except MlflowException as e:
            log.warning("the run was not closed in MLflow: %s", reach.reason(e))

    def _open(self, name: str, version: str, tags: dict[str, str]) -> StageRun:
        self.logbook.pause.refuse()
        with self.logbook.pause.watch():
            self._start()
            run = StageRun(self.logbook, name, version, {"mlflow.parentRunId": self.run_id, **tags})
        self._stages.append(run)
        return run

    def _start(self) -> None:
        """Connect to MLflow and open the parent run, if no stage did so before."""
        with self.logbook.lock:
            if self.run_id:
                return
            self.logbook.connect()
            self.run_id = self.logbook.create(time.strftime("run %Y-%m-%d %H:%M:%S"), {"kind": "pipeline"})
            killed.note(self.run_id, self.logbook.experiment_id)

    def _monitor(self, run_id: str) -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, SAMPLE_SECONDS, tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
        monitor.start()
        return monitor

    def _close(self, run: StageRun, status: Status) -> None:
        if run.status is None:
            run.finish(Path(), status)


def log_missing(recipe: str, stages: Mapping[str, tuple[str, Path]]) -> tuple[list[str], list[str], str]:
    """Log finished stages without a record, which MLflow did not take when they ended.

    Nothing is looked for where nothing was ever logged: such a working copy got its results from elsewhere.

    Args:
        recipe: whose stages they are.
        stages: name to the version and the artifact.

    Returns:
        Those that have a record now, those that still have none, and why.
    """

    def without_record(names: Iterable[str]) -> list[str]:
        known = client.known_runs()
        return [name for name in names if known and not _known(known, name, *stages[name])]

    missing, reason = without_record(stages), ""
    if missing:
        try:
            client.check(recipe)
            with pipeline_run(recipe) as run:
                for name in missing:
                    run.log_cached(name, *stages[name])
        except Exception as e:  # of MLflow, its database or the network: nothing else is lost
            reason = reach.reason(e)
    left = without_record(missing)
    return [name for name in missing if name not in left], left, reason


def _known(runs: Mapping[str, Mapping[str, str]], name: str, version: str, out: Path) -> bool:
    last = runs.get(name, {})
    return (last.get("version"), last.get("artifact")) == (version, str(out))


@contextmanager
def pipeline_run(recipe: str) -> Iterator[PipelineRun]:
    """Keep the parent run of one `polm run`: FINISHED, FAILED when a stage or the block failed, KILLED on Ctrl-C."""
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
