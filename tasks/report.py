"""Report: everything the pipeline learnt, for a person and for `dvc metrics` and `dvc plots`.

It reads finished artifacts and computes one thing of its own: whether each model is better than the model it was made
from, by the paired bootstrap on the questions both answered. Seconds and speeds are no part of it, because they differ
from run to run; `tasks/reporting/local.py` makes the same page with them.

It writes `index.html`, `leaderboard.json`, `metrics.json` and `plots/`. One raw row of `plots/leaderboard.json`:

    {"model": "sft", "task": "sums", "metric": "helpful", "value": 0.37, "low": 0.32, "high": 0.42, …}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.reporting import frontier as size_frontier
from tasks.reporting import leaderboard as leaderboards
from tasks.reporting import page
from tasks.stage import artifact
from tasks.stage.config import StageConfig, Strict, suggest
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage

PLOTTED = {
    "loss": {"loss": "loss"},
    "preference": {
        "rewards/accuracies": "accuracy", "rewards/margins": "margin", "accuracy": "accuracy", "margin": "margin",
    },
    "reward": {"reward": "reward", "kl": "kl", "entropy": "entropy", "completions/mean_length": "length"},
}  # fmt: skip
"""Folder under `plots/` to the keys of `curves.jsonl` and their names in the plot."""


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
    claims: dict[str, str]
    """Model to the metric it was made to improve, `task.metric`: its method's own."""
    over: dict[str, str]
    """Model to the one its claim compares it with, e.g. one that was made alike but for what the method adds; a model
    that is not named is compared with the one it was made from."""
    resamples: int
    """Bootstrap samples of each paired interval."""
    confidence: float
    """Coverage of the paired intervals, 0 to 1."""
    samples: int
    """Questions shown with every model's answer, for each task."""
    listed: int
    """Most rejected, dropped and contaminated rows listed."""


def main(
    config: Config, run: Run, *, data: Path, models: Path, metrics: Path, onnx: Path, labels: Path | None = None
) -> None:
    """Write the report."""
    found = page.folders(data, labels, models, metrics, onnx)
    board = leaderboard(config, found, run.params_file)
    artifact.write_json(run.out / "leaderboard.json", board)
    artifact.write_json(run.out / "metrics.json", leaderboards.values(board))
    (run.out / "plots").mkdir()
    artifact.write_json(run.out / "plots" / "leaderboard.json", leaderboards.rows(board))
    artifact.write_json(run.out / "plots" / "frontier.json", board["frontier"]["rows"])
    for model in board["models"]:
        curves = found[f"models/{model}"] / "curves.jsonl"
        if curves.exists():
            _write_plots(run.out / "plots", model, artifact.read_jsonl(curves))
    (run.out / "index.html").write_text(page.render(found, board), encoding="utf-8")


def leaderboard(config: Config, found: Mapping[str, Path], path: Path, part: bool = False) -> dict[str, Any]:
    """Everything that the page shows of the scores, and `leaderboard.json` holds.

    Args:
        config: the recipe's.
        found: artifact name to folder, from `_page.folders`.
        path: the recipe's `report.yaml`.
        part: whether models that the recipe claims something of may be missing.

    Raises:
        ConfigError: the headline, or a claim, is of something that was not scored.
    """
    board = leaderboards.build(
        found,
        recipe=path.parent.name,
        headline=(config.headline.task, config.headline.metric),
        resamples=config.resamples,
        confidence=config.confidence,
        seed=config.seed,
    )
    board["forms"] = size_frontier.exported(board, found, config.seed)
    board["frontier"] = size_frontier.frontier(board, config.frontier.task, config.frontier.metric)
    board["page"] = {"samples": config.samples, "listed": config.listed}
    scored = {model for model, entry in board["models"].items() if entry["tasks"]}
    claims = {
        model: metric
        for model, metric in config.claims.items()
        if not part or (model in scored and config.over.get(model, model) in scored)
    }
    _check_metrics(path, config.headline, claims, board, part)
    over = {model: other for model, other in config.over.items() if model in claims and (other in scored or not part)}
    for model, other in over.items():
        if other not in scored:
            raise ConfigError(f"{path}: over.{model} is '{other}', which was not evaluated{suggest(other, scored)}")
    board["claims"] = leaderboards.claims(board, claims, over, found, config.seed)
    return board


def _write_plots(out: Path, model: str, curve: list[dict[str, Any]]) -> None:
    """Write `<kind>/<model>.json` for each kind of curve that the model has. DVC wants the same keys in every row."""
    for kind, names in PLOTTED.items():
        points = [
            {"step": row["step"], **{name: row[key] for key, name in names.items() if key in row}}
            for row in curve
            if "step" in row
        ]
        complete = [point for point in points if len(point) == max(map(len, points))]
        if complete and len(complete[0]) > 1:
            (out / kind).mkdir(exist_ok=True)
            artifact.write_json(out / kind / f"{model}.json", complete)


def _check_metrics(
    path: Path, headline: Headline, claims: Mapping[str, str], board: dict[str, Any], part: bool
) -> None:
    """Raises ConfigError for a headline, or a claim, that no model, or that model, was scored on."""
    everywhere = {f"{row['task']}.{row['metric']}" for row in leaderboards.rows(board)}
    name = f"{headline.task}.{headline.metric}"
    if name not in everywhere:
        raise ConfigError(f"{path}: headline is '{name}', which no model was scored on{suggest(name, everywhere)}")
    for model, metric in claims.items():
        if model not in board["models"]:
            raise ConfigError(f"{path}: claims names the model '{model}'{suggest(model, board['models'])}")
        known = {f"{row['task']}.{row['metric']}" for row in leaderboards.rows(board) if row["model"] == model}
        if metric not in known:
            raise ConfigError(
                f"{path}: claims.{model} is '{metric}', which it was not scored on{suggest(metric, known)}"
            )
        parent = board["models"][model]["parent"]
        if parent is not None and not board["models"][parent]["tasks"] and not part:
            raise ConfigError(
                f"{path}: claims names '{model}', but {parent}, which it was made from, was not evaluated"
            )


if __name__ == "__main__":
    stage(main, Config)
