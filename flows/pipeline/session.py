"""One run of the pipeline: which stage starts when, and what happens around it.

A stage is handed to Prefect when its upstreams have ended and a slot is free. A failed stage fails what waits for it
and nothing else: Prefect marks its descendants NotReady, the rest goes on.
"""

import contextlib
import logging
import queue
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed

from flows.graph import Graph
from flows.runners import local
from flows.runners.placing import Placement
from flows.runners.settings import LOCAL
from flows.runners.slots import ANY, Slots, cores, visible_gpus
from flows.services import reach
from flows.sharing.pull import Puller
from flows.terminal.board import Board
from flows.tracking import client
from flows.tracking.runs import PipelineRun
from flows.tracking.stage_run import StageRun, Status
from tasks.stage.errors import PolmError, StageFailed, Stopped

log = logging.getLogger("polm")
RETRY_DELAY = 3.0
"""Seconds before a failed stage is tried again."""


@dataclass
class Session:
    """One run: which stages are settled, running, or wait."""

    graph: Graph
    board: Board
    folder: Path
    tracked: PipelineRun
    forced: set[str]
    settled: set[str]
    python: str
    """What runs DVC and the stages (`flows.runners.warm`)."""
    placement: Placement = field(default_factory=Placement)
    puller: Puller | None = None
    """What fetches outputs from DVC's remote; None: nothing does."""
    stopping: threading.Event = field(default_factory=threading.Event)
    futures: dict[str, PrefectFuture[Any]] = field(default_factory=dict)
    ended: dict[str, State[Any]] = field(default_factory=dict)
    finished: "queue.SimpleQueue[str | None]" = field(default_factory=queue.SimpleQueue)
    """Stages as they end; None wakes the loop when the run is to end."""

    def run(self, names: list[str], jobs: int) -> None:
        """Run the stages, `jobs` at a time; returns when all are settled.

        Raises:
            KeyboardInterrupt: Ctrl-C, SIGTERM or `cancel`, after every process was ended.
        """
        here = Slots(jobs, cores(), visible_gpus())
        here.check(self.graph.stages[name] for name in names if self._runner(name) == LOCAL)
        slots = {name: Slots(limit, ANY, []) for name, limit in self.placement.limits().items()} | {LOCAL: here}
        for name in self.settled:
            self.board.state(name, "cached")
        try:
            self._loop(names, slots)
        except (KeyboardInterrupt, TerminationSignal):
            self.stopping.set()
            self._drain()
            for name, row in self.board.rows.items():
                if row.state == "waiting":
                    self.board.state(name, "stopped")
            raise KeyboardInterrupt from None

    def cancel(self) -> None:
        """End the run as Ctrl-C does; called from another thread."""
        self.stopping.set()
        self.finished.put(None)

    def _runner(self, name: str) -> str:
        """Return the name of the runner that a stage is placed on; what is not run takes its place here."""
        return LOCAL if name in self.settled else self.placement.of(self.graph.stages[name])

    def _loop(self, names: list[str], slots: dict[str, Slots]) -> None:
        """Submit what is ready, longest chain first; wait until a stage has ended; repeat."""
        waiting = sorted(names, key=self.graph.depth, reverse=True)
        while waiting or any(places.in_use for places in slots.values()):
            for name in list(waiting):
                stage = self.graph.stages[name]
                if not stage.upstreams <= self.ended.keys():
                    continue
                runs = name not in self.settled and all(self.ended[up].is_completed() for up in stage.upstreams)
                places = slots[self._runner(name)]
                gpus = places.take(name, stage.threads if runs else 0, stage.meta.gpus if runs else 0)
                if gpus is not None:
                    waiting.remove(name)
                    self._submit(name, gpus)
            ended = self.finished.get()
            if ended is None or self.stopping.is_set():
                raise KeyboardInterrupt
            self.futures[ended].wait()
            self.ended[ended] = self.futures[ended].state
            slots[self._runner(ended)].give_back(ended)

    def _drain(self) -> None:
        """Wait until no stage runs any more; impatience does not help, the processes are ending already."""
        for future in self.futures.values():
            with contextlib.suppress(KeyboardInterrupt, TerminationSignal):
                future.wait()

    def _submit(self, name: str, gpus: tuple[str, ...]) -> None:
        """Hand a stage to Prefect, which runs it, or marks it NotReady when an upstream failed."""
        stage = self.graph.stages[name]
        missing = [up for up in sorted(stage.upstreams) if not self.ended[up].is_completed()]
        version = "" if missing else self._version(name)
        if missing:
            self.board.state(name, "skipped", note=f"needs {', '.join(missing)}")

        def body() -> State[Any]:
            return self._stage(name, version, gpus)

        work = task(
            name=name,
            task_run_name=f"{name}@{version[:8]}" if version else name,
            persist_result=False,
            cache_policy=NO_CACHE,
            retries=stage.meta.retries,
            retry_delay_seconds=RETRY_DELAY,
            retry_condition_fn=lambda _task, _run, _state: self._try_again(name),
        )(body)
        upstreams = [self.futures[up] for up in sorted(stage.upstreams)]
        self.futures[name] = work.submit(return_state=False, wait_for=upstreams)
        self.futures[name].add_done_callback(lambda _: self.finished.put(name))

    def _version(self, name: str) -> str:
        """Read the stage's version; empty when an input is missing, which the stage itself then explains."""
        try:
            return self.graph.version(name)
        except PolmError:
            return ""

    def _try_again(self, name: str) -> bool:
        error = self.board.rows[name].error
        if not isinstance(error, StageFailed) or not error.retry or self.stopping.is_set():
            return False
        self.board.state(name, "retrying", note=error.reason)
        return True

    def _stage(self, name: str, version: str, gpus: tuple[str, ...]) -> State[Any]:
        """Do what a task run does: nothing when the stage is unchanged, else run it."""
        out = self.graph.stages[name].out
        if name in self.settled or (name not in self.forced and self.graph.unchanged(name)):
            self.board.state(name, "cached", version=version)
            self._log_cached(name, version, out)
            return Completed(name="Cached", message="unchanged")
        fetched = self.puller is not None and name not in self.forced and self.puller.fetch(name)
        runner = LOCAL if fetched else self.placement.of(self.graph.stages[name])
        self.board.placed(name, runner)
        self.board.state(name, "starting", version=version)
        try:
            state = self._execute(name, runner, version, gpus)
        except Stopped:
            self.board.state(name, "stopped")
            return Cancelled(message="interrupted")
        except Exception as e:
            self.board.failed(name, e)
            raise
        came = fetched and state == "restored" and self.puller is not None
        self.board.state(name, state, note=f"from {self.puller.remote}" if came and self.puller else "")
        return Completed(name="Restored" if state == "restored" else "Completed")

    def _execute(self, name: str, runner: str, version: str, gpus: tuple[str, ...]) -> str:
        """Run the stage's processes with an MLflow run beside them, opened when its command really starts."""
        stage = self.graph.stages[name]
        run: list[StageRun] = []
        with contextlib.ExitStack() as stack:

            def on_start() -> None:
                self.board.state(name, "running")
                with _logging_may_fail(name):
                    run.append(stack.enter_context(self.tracked.stage(name, version)))

            def on_event(event: dict[str, Any]) -> None:
                self.board.event(name, event)
                with _logging_may_fail(name):
                    for r in run:
                        r.log_event(event)

            job = local.Job(
                name=name,
                log=self.folder / f"{name}.log",
                events=self.folder / f"{name}.events",
                timeout=stage.meta.timeout * 60 if stage.meta.timeout is not None else None,
                force=name in self.forced,
                gpus=gpus,
                on_start=on_start,
                on_event=on_event,
                python=self.python,
                upstreams=tuple(sorted(self.graph.reads(name))),
                gpu_count=stage.meta.gpus,
                on_seconds=lambda seconds: self.board.took(name, seconds),
                on_wait=lambda reason: self.board.waits(name, reason),
            )
            outcome: Status = "FAILED"
            try:
                state = self.placement.run(runner, job, self.stopping)
                outcome = "FINISHED"
            except Stopped:
                outcome = "KILLED"
                raise
            finally:
                with _logging_may_fail(name):
                    for r in run:
                        r.finish(stage.out, outcome, job.log)
                        _link(name, r.url)
        if state == "restored":
            self._log_cached(name, version, stage.out)
        return state

    def _log_cached(self, name: str, version: str, out: Path) -> None:
        with _logging_may_fail(name):
            self.tracked.log_cached(name, version, out)
            _link(name, client.known_runs()[name]["url"])


def _link(name: str, url: str) -> None:
    """Show a link to the MLflow run beside the task run in Prefect's UI."""
    key = re.sub(r"[^a-z0-9]+", "-", f"mlflow-{name}".lower())  # all that Prefect allows in a key
    create_link_artifact(key=key, link=url, link_text=f"MLflow: {name}")


@contextlib.contextmanager
def _logging_may_fail(name: str) -> Iterator[None]:
    """Make a warning of whatever goes wrong: a training of hours must not die of its logbook."""
    try:
        yield
    except Exception as e:
        log.warning("%s: not logged (%s: %s)", name, type(e).__name__, reach.reason(e))
