"""An average of several metrics over one set of rows each: what a merge of models is chosen by, and judged by.

The members of a merge are each good at something else, so that no single metric says whether the merge was worth it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tasks.grading.bootstrap import Interval, verdict
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError

Scores = dict[str, dict[str, float]]
"""Metric to the score of each row, by its id."""


def average(scores: Scores, weights: Mapping[str, float]) -> float:
    """Mean of the metrics' means; the weights need not add up to 1."""
    total = math.fsum(weights.values())
    return math.fsum(weight * math.fsum(scores[m].values()) / len(scores[m]) for m, weight in weights.items()) / total


def difference(
    ours: Scores, theirs: Scores, weights: Mapping[str, float], *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Difference of two averages, with its percentile bootstrap interval.

    Both sides answered the same rows, so differences are resampled; the metrics have rows of their own, so each is
    resampled apart (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8).

    Args:
        ours: metric to scores, shape (rows of the metric,).
        theirs: the same metrics of the same rows.
        weights: of the metrics.
        resamples: bootstrap samples.
        confidence: coverage, 0 to 1.
        seed: equal seeds draw equal rows.

    Raises:
        ArtifactError: the two were not scored on the same rows.
    """
    rng, means, drawn = np.random.default_rng(seed), 0.0, np.zeros(resamples)
    total = math.fsum(weights.values())
    for metric, weight in weights.items():
        if ours[metric].keys() != theirs[metric].keys():
            raise ArtifactError(f"{metric}: the two models answered different rows; run `polm run`")
        each = np.array([score - theirs[metric][row] for row, score in sorted(ours[metric].items())])
        means += weight / total * float(each.mean())
        drawn += weight / total * np.array([each[rng.integers(0, each.size, each.size)].mean() for _ in drawn])
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(means, float(low), float(high))


def merges(board: dict[str, Any], folders: Mapping[str, Path], seed: int) -> list[dict[str, Any]]:
    """Every evaluated merge against each of its members, on the average of its metrics on the test questions.

    Args:
        board: what `_leaderboard.build` returned.
        folders: artifact name (`models/merged_ties`, `metrics/dpo`) to folder.
        seed: of the resampling.

    Returns:
        A row for each: `model`, `method`, `members` (name to average), `weights`, `average`, `best` (the member that
        is ahead on the test questions), `difference` from it, and `search`: what `merge.json` holds.

    Raises:
        ArtifactError: a metric that the models were not evaluated on.
    """
    made = {node["name"]: node["inputs"] for node in board["lineage"]}
    rows = []
    for model, entry in board["models"].items():
        path = folders[f"models/{model}"] / "merge.json"
        if not path.exists() or not entry["tasks"]:
            continue
        search = artifact.read_json(path)
        inputs = made[f"models/{model}"]
        members = [inputs[key].removeprefix("models/") for key in ("first", "second")]
        if not all(board["models"].get(member, {"tasks": {}})["tasks"] for member in members):
            continue
        weights = {name: metric["weight"] for name, metric in search["metrics"].items() if metric["weight"]}
        scores = {name: _tested(folders, name, weights) for name in (model, *members)}
        averages = {name: average(scores[name], weights) for name in scores}
        best = max(members, key=averages.__getitem__)
        settings = {key: board[key] for key in ("resamples", "confidence")}
        gap = difference(scores[model], scores[best], weights, seed=seed, **settings)
        rows.append(
            {
                "model": model, "method": search["method"], "weights": weights, "average": averages.pop(model),
                "members": averages, "best": best, "search": search,
                "difference": {**asdict(gap), "verdict": verdict(gap, higher_is_better=True)},
            }
        )  # fmt: skip
    return rows


def _tested(folders: Mapping[str, Path], model: str, weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Scores of a model on the test questions."""
    found = {}
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
        found[name] = {row["id"]: row["scores"][metric] for row in rows}
    return found
