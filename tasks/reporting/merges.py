"""Merged models on the report: each against its members, on the average of the metrics that chose it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.grading.average import Scores, average, average_difference
from tasks.grading.bootstrap import verdict
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError


def merges(board: dict[str, Any], folders: Mapping[str, Path], seed: int) -> list[dict[str, Any]]:
    """Compare every evaluated merge with each of its members, on the average of its metrics on the test questions.

    Args:
        board: from `tasks.reporting.leaderboard.build`.
        folders: artifact name (`models/merged_ties`, `metrics/dpo`) to folder.
        seed: of the resampling.

    Returns:
        A row for each: `model`, `method`, `members` (name to average), `weights`, `average`, `best` (the member that
        is ahead on the test questions), `difference` from it, and `search`: the content of `merge.json`.

    Raises:
        ArtifactError: a metric that the models were not evaluated on.
    """
    inputs_by_name = {node["name"]: node["inputs"] for node in board["lineage"]}
    rows = []
    for model, entry in board["models"].items():
        path = folders[f"models/{model}"] / "merge.json"
        if not path.exists() or not entry["tasks"]:
            continue
        inputs = inputs_by_name[f"models/{model}"]
        members = [inputs[key].removeprefix("models/") for key in ("first", "second")]
        if all(board["models"].get(member, {"tasks": {}})["tasks"] for member in members):
            rows.append(_row(model, members, artifact.read_json(path), board, folders, seed))
    return rows


def _row(
    model: str,
    members: list[str],
    search: dict[str, Any],
    board: dict[str, Any],
    folders: Mapping[str, Path],
    seed: int,
) -> dict[str, Any]:
    """Return the row of one merge, as `merges` describes it."""
    weights = {name: metric["weight"] for name, metric in search["metrics"].items() if metric["weight"]}
    scores = {name: _test_scores(folders, name, weights) for name in (model, *members)}
    averages = {name: average(scores[name], weights) for name in members}
    best = max(members, key=averages.__getitem__)
    difference = average_difference(
        scores[model],
        scores[best],
        weights,
        resamples=board["resamples"],
        confidence=board["confidence"],
        seed=seed,
    )
    return {
        "model": model,
        "method": search["method"],
        "weights": weights,
        "average": average(scores[model], weights),
        "members": averages,
        "best": best,
        "search": search,
        "difference": {**asdict(difference), "verdict": verdict(difference, higher_is_better=True)},
    }


def _test_scores(folders: Mapping[str, Path], model: str, weights: Mapping[str, float]) -> Scores:
    """Read a model's scores of the test questions, metric by metric."""
    scores: Scores = {}
    for name in weights:
        task, _, metric = name.partition(".")
        path = folders[f"metrics/{model}"] / "samples" / f"{task}.jsonl"
        if not path.exists():
            raise ArtifactError(
                f"{path}: no such task, but a merge was chosen by '{name}'; rename the metric in merge.yaml"
            )
        rows = artifact.read_jsonl(path)
        if metric not in rows[0]["scores"]:
            raise ArtifactError(f"{path}: no metric '{metric}', by which a merge was chosen; rename it in merge.yaml")
        scores[name] = {row["id"]: row["scores"][metric] for row in rows}
    return scores
