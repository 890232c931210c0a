"""The Prefect flow over DVC's graph.

The graph comes from `dvc.yaml`, what has to run from DVC; Prefect schedules, retries and shows; MLflow keeps what came
out. `flows.pipeline.session` runs the stages; here is what stands around them.
"""

import re
from pathlib import Path
from typing import Any

from prefect import flow, tags
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.context import TagsContext
from prefect.states import Cancelled, Completed, Failed

from flows import workspace
from flows.graph import Graph
from flows.pipeline import flow_runs, sharing
from flows.pipeline.recipe_check import finish_check
from flows.pipeline.session import Session
from flows.runners import local, warm
from flows.runners.placing import place
from flows.runners.settings import LOCAL
from flows.terminal import summary
from flows.terminal.board import Board, screen
from flows.tracking import runs
from tasks.stage import artifact


def run(recipe: str, targets: list[str], jobs: int, force: list[str], runners: str | None, pull: bool) -> State[Any]:
    """Run the flow `polm`, marked as this working copy's; for the arguments see `pipeline`."""
    with tags(flow_runs.home()):
        return pipeline(recipe, targets, jobs, force, runners, pull, return_state=True)


@flow(name="polm", flow_run_name="{recipe}", persist_result=False)
def pipeline(
    recipe: str, targets: list[str], jobs: int, force: list[str], runners: str | None, pull: bool
) -> State[Any]:
    """Run what has changed of the pipeline.

    Args:
        recipe: the active recipe.
        targets: stages (with all they need); empty for the whole pipeline.
        jobs: stages at a time.
        force: stages to run even if nothing changed.
        runners: the file that says which stages run on other machines; None: all run here.
        pull: whether a stage's output is fetched from the default DVC remote, where it has it.

    Returns:
        Completed, Failed when a stage failed, Cancelled when the run was interrupted, or cancelled in Prefect.
    """
    finish_check(recipe)
    graph = Graph()
    workspace.set_aside(graph.outs)  # a scheduled run comes here by itself
    names = graph.closure(targets)
    placement = place(Path(runners) if runners else None, graph, names)
    puller = sharing.puller(graph) if pull else None
    console, folder = screen(), workspace.new_run()
    board = Board(names, console)
    forced = {name for target in force for name in graph.resolve(target)}
    interrupted = False
    try:
        # The mark is for the flow run; a tag of a task run is a limit that Prefect asks its server about.
        with runs.pipeline_run(recipe) as tracked, board.shown(), TagsContext(current_tags=set()):
            settled = graph.settled(names, forced)
            stages = [graph.stages[name] for name in names if name not in settled]
            here = [stage for stage in stages if placement.of(stage) == LOCAL]
            with warm.parents(folder, here) as python:
                session = Session(graph, board, folder, tracked, forced, settled, python, placement, puller)
                with flow_runs.watched(session.cancel):
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
        local.end_leftovers(f"{artifact.STATE.resolve()}/logs/")
        flow_runs.crash_killed()
        return run(workspace.active_recipe(), [], jobs, [], None, pull=True)


def serve(cron: str, jobs: int) -> None:
    """Run the flow at the given times until interrupted, as a deployment of this working copy's own.

    Two working copies that share a server would otherwise take each other's schedule and runs.
    """
    home = flow_runs.home()
    scheduled.serve(name=re.sub(r"[^\w.:-]", "-", home), cron=cron, parameters={"jobs": jobs}, tags=[home])
