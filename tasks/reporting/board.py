"""The report's board: everything that the page shows of the scores, from the recipe's settings, graph and artifacts.

What a recipe does not state, it has by default: the settings of `params/report.yaml`, the claims and the headline of
`tasks/grading/claims.py`. What was chosen is said on the page.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.grading import claims as claims_by_default
from tasks.reporting import frontier, leaderboard, retrieval
from tasks.stage import artifact, needs
from tasks.stage.config import StageConfig, Strict, load, suggest
from tasks.stage.errors import ConfigError
from tasks.stage.recipe import Graph


class Headline(Strict):
    """A score to show."""

    task: str
    """Evaluation task."""
    metric: str
    """One of its metrics."""


class Config(StageConfig):
    """`params/<recipe>/report.yaml`, or `params/report.yaml` for a recipe without one."""

    headline: Headline | None = None
    """The score that counts most in this recipe; null takes the claim of the last model that was evaluated."""
    frontier: Headline | None = None
    """The score that is set against the size of every model and form; null takes the headline."""
    resamples: int
    """Bootstrap samples of each paired interval."""
    confidence: float
    """Coverage of the paired intervals, 0 to 1."""
    samples: int
    """Questions shown with every model's answer, for each task."""
    listed: int
    """Most rejected, dropped and contaminated rows listed."""


def settings(path: Path) -> Config:
    """Read the settings of a recipe's report.

    Args:
        path: `params/<recipe>/report.yaml`; where there is no such file, `params/report.yaml` holds.

    Raises:
        ConfigError: naming the file and every wrong key.
    """
    return load(path if os.path.lexists(path) else path.parent.parent / path.name, Config)


def build(config: Config, graph: Graph, folders: Mapping[str, Path], path: Path) -> dict[str, Any]:
    """Everything that the page shows of the scores, and `leaderboard.json` holds.

    Claims of models that are not scored, or are to be compared with one that is not, are left out: the report of one
    run may be of a part of the graph. What is not made here, because a module is missing, is said in `left_out`; what
    the recipe does not state, and was chosen, in `by_default`.

    Args:
        config: the settings, from `settings`.
        graph: the recipe's graph, which has the claims.
        folders: artifact name to folder, from `page.folders`.
        path: the recipe's `report.yaml`, for messages; it need not be there.

    Raises:
        ConfigError: the headline, or a claim, is of a metric that was not scored, or nothing was evaluated.
    """
    results = _results(folders)
    stated = graph.claims or claims_by_default.by_default(graph, results)
    headline = config.headline or _headline(stated, graph, results, path)
    on_frontier = config.frontier or headline
    board = leaderboard.build(
        folders,
        recipe=graph.recipe,
        headline=(headline.task, headline.metric),
        resamples=config.resamples,
        confidence=config.confidence,
        seed=config.seed,
    )
    retrieval.add_untrained(board, folders)
    retrieval.compare(board, folders, config.seed)
    board["forms"] = frontier.exported(board, folders, config.seed)
    board["frontier"] = frontier.frontier(board, on_frontier.task, on_frontier.metric)
    board["page"] = {"samples": config.samples, "listed": config.listed}
    scored = {model for model, entry in board["models"].items() if entry["tasks"]}
    over = {model: other for model, other in graph.over.items() if model in scored and other in scored}
    claims = {
        model: metric for model, metric in stated.items() if model in scored and graph.over.get(model, model) in scored
    }
    _check_metrics(headline, path, claims, graph.path, board)
    board["claims"] = leaderboard.claims(board, claims, over, folders, config.seed)
    if notices := list(needs.notices(graph)):
        board["left_out"] = notices
    if chosen := list(_chosen(config, graph, claims, board, path)):
        board["by_default"] = chosen
    return board


def _results(folders: Mapping[str, Path]) -> dict[str, claims_by_default.Tasks]:
    """Read the results of every model that was evaluated, without those of its exported forms."""
    found = {name: folder for name, folder in folders.items() if name.startswith("metrics/")}
    models = {name.partition("/")[2]: folder for name, folder in found.items()}
    read = {name: artifact.read_json(folder / "results.json") for name, folder in models.items()}
    return {name: content["tasks"] for name, content in read.items() if "form" not in content}


def _headline(
    claims: Mapping[str, str], graph: Graph, results: Mapping[str, claims_by_default.Tasks], path: Path
) -> Headline:
    """Choose the headline of a recipe that names none. Raises ConfigError where nothing was evaluated."""
    chosen = claims_by_default.headline(claims, graph, results)
    if chosen is None:
        raise ConfigError(f"{path}: no headline, and no model was evaluated to choose one of; evaluate one first")
    task, _, metric = chosen.partition(".")
    return Headline(task=task, metric=metric)


def _chosen(
    config: Config, graph: Graph, claims: Mapping[str, str], board: Mapping[str, Any], path: Path
) -> Iterator[str]:
    """Say what the recipe does not state, a sentence each."""
    if not os.path.lexists(path):
        yield f"settings of {path.parent.parent / path.name}, as there is no {path}"
    if claims and not graph.claims:
        listed = ", ".join(f"{model} {metric}" for model, metric in claims.items())
        yield f"claim by default: {listed} (the metric that each method is there for; {graph.path} states none)"
    if config.headline is None:
        yield "headline by default: {task}.{metric}, the claim of the last model evaluated".format(**board["headline"])
    if config.frontier is None:
        yield "frontier by default: {task}.{metric}, the headline".format(**board["frontier"])


def _check_metrics(
    headline: Headline, path: Path, claims: Mapping[str, str], graph: Path, board: dict[str, Any]
) -> None:
    """Raises ConfigError for a headline that is no metric of its task, or a claim that its model was not scored on.

    A headline of a task that nobody was asked is none of this board: the run was of another part of the graph.
    """
    rows = leaderboard.rows(board)
    metrics = {f"{row['task']}.{row['metric']}" for row in rows}
    name = f"{headline.task}.{headline.metric}"
    if name not in metrics and headline.task in {row["task"] for row in rows}:
        raise ConfigError(f"{path}: headline is '{name}', which no model was scored on{suggest(name, metrics)}")
    for model, metric in claims.items():
        metrics = {f"{row['task']}.{row['metric']}" for row in rows if row["model"] == model}
        if metric not in metrics:
            raise ConfigError(
                f"{graph}: claim of '{model}' is '{metric}', which it was not scored on{suggest(metric, metrics)}"
            )
