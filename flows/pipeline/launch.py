"""What `polm run` does before the flow: it looks what there is to do, and starts Prefect only for that."""

import sys
import time
from pathlib import Path
from typing import Any

from flows import workspace
from flows.graph import Graph
from flows.pipeline import sharing
from flows.runners import local
from flows.runners.placing import place
from flows.terminal import exits
from flows.terminal.board import say
from flows.tracking import killed, runs
from tasks.stage import artifact
from tasks.stage.errors import ConfigError


def run(
    targets: list[str],
    jobs: int,
    force: list[str],
    runners: Path | None = None,
    *,
    pull: bool = True,
    push: bool = False,
) -> None:
    """Run what has changed. Prefect, and what else takes seconds to load, is started only when something has.

    Args:
        targets: models, methods or stages, with all they need; empty for the whole pipeline.
        jobs: stages at a time.
        force: stages to run even if nothing changed.
        runners: the file that says which stages run on other machines; None: all run here.
        pull: whether results are fetched from the default DVC remote, where there is one.
        push: whether what is up to date afterwards is sent there.

    Raises:
        PolmError: the recipe is wrong, or a service or the remote does not answer.
        SystemExit: a stage failed (1), or the run was interrupted (130).
    """
    recipe = workspace.active_recipe()
    workspace.check_recipe(recipe)
    _end_leftovers()
    graph = Graph()
    for notice in graph.notices:
        say(notice)
    names = graph.closure(targets)
    for notice in place(runners, graph, names).notices:
        say(f"warning: {notice}")
    forced = {name for word in force for name in graph.resolve(word)}
    if beyond := sorted(forced - set(names)):
        raise ConfigError(f"--force {beyond[0]}: no target needs it; add `--target {beyond[0]}`, or leave --target out")
    if others := workspace.set_aside(graph.outs):
        say(f"set aside in .polm/aside: {len(others)} artifacts that recipe {recipe} does not make")
    settled = graph.settled(names, forced)
    sharing.before(push=push)
    if pull and settled != set(names) and sharing.restore(graph, names, settled, forced):
        graph = Graph()  # `dvc.lock` has changed
        settled = graph.settled(names, forced)
    if settled == set(names):
        _close_killed()
        _log_missing(recipe, graph, names)
        say(f"nothing changed: all {len(names)} stages are up to date")
        sharing.after(names, push=push)
        return
    state = _flow(recipe, targets, jobs, force, runners, graph.notices, pull=pull)
    if isinstance(state.data, Exception):
        raise state.data
    if state.is_cancelled():
        say("interrupted: every process has ended, what was finished is kept; `polm run` goes on from here")
        sys.exit(exits.INTERRUPTED)
    sharing.after(names, push=push)
    if not state.is_completed():
        sys.exit(exits.FAILED)


def _end_leftovers() -> None:
    """End what a killed `polm run` left running: it would write the same files as this run."""
    count = local.end_leftovers(f"{artifact.STATE.resolve()}/logs/")
    if count:
        say(f"ended {count} processes that a killed `polm run` had left behind")


def _close_killed() -> None:
    """Say in MLflow and Prefect that a run was killed, where nothing else has to be started for it."""
    if not killed.left():
        return
    from flows.services import dashboards, reach

    killed.close()
    if dashboards.use_served():
        reach.prefect()
        from flows.pipeline import flow_runs

        flow_runs.crash_killed()


def _log_missing(recipe: str, graph: Graph, names: list[str]) -> None:
    """Log what ended while MLflow was away, and say so."""
    stages = {name: (graph.version(name), graph.stages[name].out) for name in names}
    logged, left, reason = runs.log_missing(recipe, stages)
    if logged:
        say(f"logged in MLflow, which had no record of them: {', '.join(logged)}")
    if left:
        say(f"warning: not in MLflow yet ({reason}): {', '.join(left)}; `polm run` tries again")


def _flow(
    recipe: str, targets: list[str], jobs: int, force: list[str], runners: Path | None, said: list[str], *, pull: bool
) -> Any:
    """Run the flow once its server is up and the recipe is found to be right, whichever of the two takes longer.

    `said` are the notices that the person has read already; other warnings of the check are printed before the run.
    """
    from concurrent.futures import ThreadPoolExecutor

    from rich.console import Console

    from flows.services import dashboards, reach
    from flows.tracking import client

    server = dashboards.prefect_for_run()
    if server is None:
        reach.prefect()
    with Console(stderr=True).status("checking the recipe, starting Prefect …"):
        from flows.pipeline import flow, flow_runs, recipe_check

        check = recipe_check.start_check(recipe)
        # MLflow takes seconds too; while the server starts there is time for it.
        with ThreadPoolExecutor(1) as pool:
            logbook = pool.submit(client.check, recipe)
            while server is not None and not server.ready() and not check.poll():
                if logbook.done():
                    logbook.result()  # raises at once what would end the run anyway
                time.sleep(0.1)
            recipe_check.finish_check(recipe)
            logbook.result()
        flow_runs.crash_killed()
        killed.close()
    left_out = {f"{recipe_check.WARNING}params/{recipe}/recipe.yaml: {notice}" for notice in said}
    for warning in recipe_check.warnings(recipe):
        if warning not in left_out:
            say(warning)
    return flow.run(recipe, targets, jobs, force, str(runners) if runners else None, pull)
