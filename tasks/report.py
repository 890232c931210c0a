"""Report: everything the pipeline learnt, for a person and for `dvc metrics` and `dvc plots`.

It reads the models and evaluations that the recipe's graph names, with all that they were made from, and computes one
thing of its own: whether each model is better than the model it was made from, by the paired bootstrap on the questions
both answered. Seconds and speeds are
no part of it, because they differ from run to run; `tasks/reporting/local.py` makes the same page with them.

It writes `index.html`, `leaderboard.json`, `metrics.json` and `plots/`. One raw row of `plots/leaderboard.json`:

    {"model": "sft", "task": "sums", "metric": "helpful", "value": 0.37, "low": 0.32, "high": 0.42, …}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.reporting import board, leaderboard, page
from tasks.stage import artifact, needs, recipe
from tasks.stage.errors import ArtifactError
from tasks.stage.lifecycle import Run, stage

Config = board.Config
PLOTTED = {
    "loss": {"loss": "loss"},
    "preference": {
        "rewards/accuracies": "accuracy", "rewards/margins": "margin", "accuracy": "accuracy", "margin": "margin",
    },
    "reward": {"reward": "reward", "kl": "kl", "entropy": "entropy", "completions/mean_length": "length"},
}  # fmt: skip
"""Folder under `plots/` to the keys of `curves.jsonl` and their names in the plot."""


def main(config: Config, run: Run, *, data: Path) -> None:
    """Write the report on the artifacts beside `data` that the recipe's graph names.

    Raises:
        ArtifactError: a model or an evaluation was not made yet, what one was made from is not here, or an artifact is
            corrupted.
        ConfigError: the headline, or a claim, is of a metric that was not scored.
    """
    graph = recipe.read(run.params_file.parent / recipe.FILE)
    made = needs.without(graph)
    folders = _with_origins(page.folders(data.parent, made))
    expected = {f"models/{name}" for name, kind in made.kinds.items() if kind == "models"}
    for name in sorted(folders.keys() | expected | {f"metrics/{scored}" for scored in made.scored}):
        run.verify(name, data.parent / name)
    scores = board.build(config, graph, folders, run.params_file)
    artifact.write_json(run.out / "leaderboard.json", scores)
    artifact.write_json(run.out / "metrics.json", leaderboard.values(scores))
    (run.out / "plots").mkdir()
    artifact.write_json(run.out / "plots" / "leaderboard.json", leaderboard.rows(scores))
    artifact.write_json(run.out / "plots" / "frontier.json", scores["frontier"]["rows"])
    for model in scores["models"]:
        curves = folders[f"models/{model}"] / "curves.jsonl"
        if curves.exists():
            _write_plots(run.out / "plots", model, artifact.read_jsonl(curves))
    (run.out / "index.html").write_text(page.render(folders, scores), encoding="utf-8")


def _with_origins(folders: Mapping[str, Path]) -> dict[str, Path]:
    """Keep data, models and evaluations, and all that they were made from: DVC's hashes of the inputs cover just these.

    Raises:
        ArtifactError: one was made from an artifact that is not here.
    """
    nodes = leaderboard.lineage(folders)
    kept: set[str] = set()
    wanted = [name for name in nodes if name == "data" or name.startswith(("models/", "metrics/"))]
    while wanted:
        node = nodes[wanted.pop()]
        kept.add(node.name)
        for key, name in node.inputs.items():
            if name not in nodes:
                raise ArtifactError(
                    f"{folders[node.name]}: the {key} that it was made from is not here in that version; `polm run` "
                    f"makes or fetches it"
                )
            if name not in kept:
                wanted.append(name)
    return {name: folder for name, folder in folders.items() if name in kept}


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


if __name__ == "__main__":
    stage(main, Config, board.settings)
