"""The Prefect flow over DVC's graph.

The graph comes from `dvc.yaml`, what has to run from DVC; Prefect schedules, retries and shows; MLflow keeps what came
out. `flows.session` runs the stages; here is what stands around them.
"""

import functools
import subprocess
import sys
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Completed, Crashed, Failed

from flows import summary, track, workspace
from flows.console import Board, screen
from flows.graph import Graph
from flows.session import Session
from tasks._errors import ConfigError


@flow(name="polm", flow_run_name="{recipe}", persist_result=False)
def pipeline(recipe: str, targets: list[str], jobs: int, force: list[str]) -> State[Any]:
    """Run what has changed of the pipeline.

    Args:
        recipe: the active recipe.
        targets: stages (with all they need); empty for the whole pipeline.
        jobs: stages at a time.
        force: stages to run even if nothing changed.

    Returns:
        Completed, Failed when a stage failed, Cancelled when the run was interrupted.
    """
    finish_check(recipe)
    graph = Graph()
    names = graph.closure(targets)
    console, folder = screen(), workspace.new_run()
    board = Board(names, console)
    forced = {name for target in force for name in graph.resolve(target)}
    interrupted = False
    try:
        with track.pipeline_run(recipe) as tracked, board.shown():
            session = Session(graph, board, folder, tracked, forced, graph.settled(names, forced))
            session.run(names, jobs)
    except KeyboardInterrupt:
        interrupted = True
    rows = summary.after_run(console, board, graph, folder)
    if rows and not interrupted:
        create_table_artifact(key="leaderboard", table=rows, description=f"Recipe {recipe}")
    if interrupted:
        return Cancelled(message="interrupted")
    failed = [name for name, row in board.rows.items() if row.state == "failed"]
    return Failed(message=f"failed: {', '.join(failed)}") if failed else Completed(message="every stage is up to date")


@flow(name="polm-scheduled", persist_result=False)
def scheduled(jobs: int) -> State[Any]:
    """What `polm schedule` runs: the whole pipeline, unless somebody is running it here already."""
    workspace.enter()
    with workspace.run_lock():
        return pipeline(workspace.active_recipe(), [], jobs, [], return_state=True)


def crash_killed_runs() -> None:
    """Mark runs of a killed process as crashed: Prefect shows them as running for ever.

    To be called by the holder of the workspace's lock, with the workspace's own server: nothing can be running there.
    """
    alive = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=alive)):
            client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)


@functools.cache
def start_check(recipe: str) -> subprocess.Popen[str]:
    """Start checking the recipe's files against their stages' schemas; once a process, for it takes seconds."""
    command = [sys.executable, "-m", "tasks._check", f"params/{recipe}"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish_check(recipe: str) -> None:
    """Wait for the recipe's check. Raises ConfigError with what it found."""
    check = start_check(recipe)
    if check.stderr is not None and not check.stderr.closed:
        check.errors = check.communicate()[1]  # type: ignore[attr-defined]
    if check.returncode:
        said = check.errors.strip()  # type: ignore[attr-defined]
        raise ConfigError(said or f"params/{recipe}: its check ended with exit code {check.returncode}")
