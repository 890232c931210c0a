"""The report's board: everything that the page shows of the scores, from the recipe's settings, graph and artifacts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.reporting import frontier, leaderboard, retrieval
from tasks.stage import needs
from tasks.stage.config import StageConfig, Strict, suggest
from tasks.stage.errors import ConfigError
from tasks.stage.recipe import Graph


class Headline(Strict):
    """A score to show."""

    task: str
    """Evaluation task."""
    metric: str
    """One of its metrics."""


class Config(StageConfig):
    """`params/<recipe>/report.yaml`."""

    headline: Headline
    """The score that counts most in this recipe."""
    frontier: Headline
    """The score that is set against the size of every model and form."""
    resamples: int
    """Bootstrap samples of each paired interval."""
    confidence: float
    """Coverage of the paired intervals, 0 to 1."""
    samples: int
    """Questions shown with every model's answer, for each task."""
    listed: int
    """Most rejected, dropped and contaminated rows listed."""


def build(config: Config, graph: Graph, folders: Mapping[str, Path], path: Path) -> dict[str, Any]:
    """Everything that the page shows of the scores, and `leaderboard.json` holds.

    Claims of models that are not scored, or are to be compared with one that is not, are left out: the report of one
    run may be of a part of the graph. What is not made here, because a module is missing, is said in `left_out`.

    Args:
        config: the recipe's `report.yaml`.
        graph: the recipe's graph, which has the claims.
        folders: artifact name to folder, from `page.folders`.
        path: the recipe's `report.yaml`, for messages.

    Raises:
        ConfigError: the headline, or a claim, is of a metric that was not scored.
    """
    board = leaderboard.build(
        folders,
        recipe=graph.recipe,
        headline=(config.headline.task, config.headline.metric),
        resamples=config.resamples,
        confidence=config.confidence,
        seed=config.seed,
    )
    retrieval.compare(board, folders, config.seed)
    board["forms"] = frontier.exported(board, folders, config.seed)
    board["frontier"] = frontier.frontier(board, config.frontier.task, config.frontier.metric)
    board["page"] = {"samples": config.samples, "listed": config.listed}
    scored = {model for model, entry in board["models"].items() if entry["tasks"]}
    over = {model: other for model, other in graph.over.items() if model in scored and other in scored}
    claims = {
        model: metric
        for model, metric in graph.claims.items()
        if model in scored and graph.over.get(model, model) in scored
    }
    _check_metrics(config.headline, path, claims, graph.path, board)
    board["claims"] = leaderboard.claims(board, claims, over, folders, config.seed)
    if notices := list(needs.notices(graph)):
        board["left_out"] = notices
    return board


def _check_metrics(
    headline: Headline, path: Path, claims: Mapping[str, str], graph: Path, board: dict[str, Any]
) -> None:
    """Raises ConfigError for a headline that no model was scored on, or a claim that its model was not scored on."""
    rows = leaderboard.rows(board)
    metrics = {f"{row['task']}.{row['metric']}" for row in rows}
    name = f"{headline.task}.{headline.metric}"
    if name not in metrics:
        raise ConfigError(f"{path}: headline is '{name}', which no model was scored on{suggest(name, metrics)}")
    for model, metric in claims.items():
        metrics = {f"{row['task']}.{row['metric']}" for row in rows if row["model"] == model}
        if metric not in metrics:
            raise ConfigError(
                f"{graph}: claim of '{model}' is '{metric}', which it was not scored on{suggest(metric, metrics)}"
            )
