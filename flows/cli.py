"""The `polm` command. Every import that takes time is inside the command that needs it."""

import logging
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows import talking
from tasks.stage.errors import PolmError

app = typer.Typer(
    help="A post-training pipeline for language models: every method a stage, every stage measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
JOBS = 2


class Pull(StrEnum):
    """Whether `polm run` fetches results from DVC's remote."""

    AUTO = "auto"
    NEVER = "never"


@app.command()
def run(
    recipe: Annotated[
        str | None, typer.Option(help="Recipe to run: a folder under params/. It becomes the active one.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Model, method or stage to bring up to date, with all it needs. Repeatable."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Stages that may run at a time.")] = JOBS,
    force: Annotated[
        list[str] | None, typer.Option(help="Model, method or stage to run even if nothing changed. Repeatable.")
    ] = None,
    runners: Annotated[
        Path | None, typer.Option(help="File that places stages on Ray, Slurm or Kubernetes, e.g. infra/runners.yaml.")
    ] = None,
    pull: Annotated[
        Pull, typer.Option(help="Fetch what others have computed from the default DVC remote, if there is one.")
    ] = Pull.AUTO,
    push: Annotated[bool, typer.Option("--push", help="Send what is up to date to the default DVC remote.")] = False,
) -> None:
    """Run what has changed of the pipeline."""
    from flows import workspace
    from flows.pipeline import launch
    from flows.terminal.board import say

    runners = runners and runners.absolute()  # before the working directory changes
    workspace.enter()
    with workspace.run_lock():
        if recipe is not None and workspace.choose_recipe(recipe):
            say(f"recipe: {recipe} (now in {workspace.RECIPE})")
        launch.run(target or [], jobs, force or [], runners, pull=pull is Pull.AUTO, push=push)


NEW = """Documents to answer by, and questions about them:

    polm new handbook --model Qwen/Qwen3-0.6B --data docs/ --data data/questions.jsonl --methods rag

Preferences, with a benchmark that others publish:

    polm new tone --model Qwen/Qwen3-0.6B --data data/pairs.jsonl --methods sft,dpo --benchmarks ifeval

Questions whose answers can be checked:

    polm new sums --model Qwen/Qwen3-0.6B --data openai/gsm8k:main:train --methods sft,rft,grpo@rft

Replies to your customers, and a smaller model for the same:

    polm new desk --model models/llama --data data/tickets.jsonl --data data/more.csv.gz --methods sft,student=distill
"""


@app.command(epilog=NEW)
def new(
    name: Annotated[str, typer.Argument(help="Name of the recipe: a folder under params/ that is not there yet.")],
    model: Annotated[str, typer.Option(help="Hub id, or folder, of the model to start from.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="File of rows, folder of `save_to_disk`, or hub id of a data set; `rag`: documents too. Repeatable."
        ),
    ],
    methods: Annotated[
        str,
        typer.Option(help="Methods with commas between, e.g. `sft,dpo`, or `name=method@parent` for another graph."),
    ] = "sft",
    benchmarks: Annotated[
        str | None, typer.Option(help="Tasks of lm-evaluation-harness with commas between, e.g. `gsm8k,ifeval`.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Hub id, or folder of sentence-transformers, that the retriever of `rag` starts from."),
    ] = None,
    licence: Annotated[
        str, typer.Option(help="Licence of the data and of a local model, for the report; an SPDX identifier.")
    ] = "unknown",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")] = False,
) -> None:
    """Write a recipe for a model and data of your own."""
    from flows import workspace
    from flows.authoring import command

    given = command.found(model, data)  # before the working directory changes
    encoder = encoder and command.found(encoder, [])[0]
    workspace.enter()
    command.main(name, *given, methods, benchmarks, licence, yes=yes, encoder=encoder)


@app.command()
def check(
    recipe: Annotated[str | None, typer.Option(help="Recipe to check; without it, the active one.")] = None,
) -> None:
    """Find what would fail later in the recipe, its data and this machine, all at once."""
    from flows import workspace
    from flows.pipeline import check

    workspace.enter(writes=False)
    check.main(recipe)


@app.command()
def show(
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Print the claims, report and gates that nobody wrote, as YAML to copy.")
    ] = False,
) -> None:
    """Print the leaderboard of the last report."""
    from flows import workspace
    from flows.terminal import summary

    workspace.enter(writes=False)
    summary.show_defaults() if defaults else summary.show()


@app.command()
def graph(
    mermaid: Annotated[bool, typer.Option("--mermaid", help="In Mermaid's language, for a page.")] = False,
) -> None:
    """Print the active recipe's graph: every model, its method, its parents and its claim."""
    from flows import workspace
    from flows.terminal import graph_view

    workspace.enter(writes=False)
    graph_view.show(mermaid=mermaid)


@app.command()
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow dashboard.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect dashboard.")] = 4200,
) -> None:
    """Serve the MLflow and Prefect dashboards on loopback until Ctrl-C."""
    from flows import workspace
    from flows.services import dashboards
    from flows.terminal.board import say

    workspace.enter()
    say("starting the servers …")
    dashboards.serve(mlflow_port, prefect_port, say)


@app.command()
def schedule(cron: Annotated[str, typer.Option(help='When to run, e.g. "0 2 * * *" for every night at two.')]) -> None:
    """Run the pipeline at the given times until Ctrl-C. Needs a running `polm ui` or PREFECT_API_URL."""
    from flows import workspace
    from flows.services import dashboards, reach

    workspace.enter()
    workspace.check_recipe(workspace.active_recipe())
    if not dashboards.use_served():
        raise PolmError(
            "a schedule needs a Prefect server: start `polm ui` in another terminal, or set PREFECT_API_URL"
        )
    reach.prefect(otherwise="unset PREFECT_API_URL and start `polm ui` in another terminal")
    from flows.pipeline import flow

    flow.serve(cron, JOBS)


@app.command()
def promote(model: Annotated[str, typer.Argument(help="Model of the active recipe, e.g. `dpo`.")]) -> None:
    """Register a model and make it the champion, if it passes mlflow/gates.yaml."""
    from flows import workspace
    from flows.registry import promotion

    workspace.enter()
    promotion.promote(model)


@app.command()
def rollback() -> None:
    """Make the previous champion the champion again."""
    from flows import workspace
    from flows.registry import promotion

    workspace.enter()
    promotion.rollback()


@app.command()
def doctor(
    recipe: Annotated[str | None, typer.Option(help="Recipe to check; without it, the active one.")] = None,
    runners: Annotated[
        Path | None, typer.Option(help="File that places stages on other machines: each runner is given a short job.")
    ] = None,
) -> None:
    """Check this machine, the recipe and the workspace before the first expensive step."""
    from flows import workspace
    from flows.doctor import checks

    runners = runners and runners.absolute()  # before the working directory changes
    workspace.enter(writes=False)
    checks.main(recipe, runners)


@app.command()
def lineage(
    what: Annotated[str, typer.Argument(help="A version, an alias, a trace's id, or an answer's id (chatcmpl-…).")],
) -> None:
    """Print what an answer or a version comes from, down to the rows of data."""
    from flows import workspace
    from flows.registry import lineage_tree

    workspace.enter(writes=False)
    lineage_tree.show(what)


for command in (talking.chat, talking.ask, talking.serve):
    app.command()(command)


def main() -> None:
    """Run the command; `flows.terminal.exits` says with which exit code it ends."""
    from flows.terminal import exits

    logger = logging.getLogger("polm")
    logger.addHandler(_Stderr())
    logger.propagate = False
    signal.signal(signal.SIGTERM, _interrupt)
    exits.leave(lambda: app(prog_name="polm"))


class _Stderr(logging.Handler):
    """Writes to the standard error of the moment, which the live table redirects to above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        sys.stderr.write(f"{self.format(record)}\n")


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
