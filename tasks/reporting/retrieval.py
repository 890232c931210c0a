"""The report's look at readers: answers under each condition, what they cite, and how their passages are found."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.grading.bootstrap import paired_difference, verdict
from tasks.reporting import svg
from tasks.retrieval.answered import CONDITIONS
from tasks.retrieval.scores import METRICS
from tasks.stage import artifact

METRIC = "exact_match"
"""Metric that conditions are compared by."""
LEGS = {"lexical": "s0", "dense": "s1", "fused": "s2"}
"""Leg of an index to the style of its line."""
_ATTACK = ("rows", "followed", "exact_match", "difference")
SHOWN = ("retrieved", "removed", "planted", "contradicting", "poisoned")
"""Conditions of which the page shows an answer, in this order."""


def section(artifacts: Mapping[str, Path], board: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """Everything that the page's section shows; empty where no reader was evaluated.

    Args:
        artifacts: artifact name to folder.
        board: content of `leaderboard.json`.
        models: names of the models, in order.
    """
    ordered = {**board, "models": {model: board["models"][model] for model in models}}
    grounded = [(model, result) for model, _, result in read(ordered)]
    if not grounded:
        return {}
    return {
        "readers": conditions(ordered),
        "grounded": grounded,
        "attacks": attacks(ordered),
        "indexes": indexes(ordered),
        "legs": LEGS,
        "metrics": METRICS,
        "examples": examples(artifacts, ordered),
    }


def read(board: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield model, task and result of each evaluation of a reader, in the order of the board."""
    for model, entry in board["models"].items():
        for task, result in entry["tasks"].items():
            if "rag" in result:
                yield model, task, result


def compare(board: dict[str, Any], folders: Mapping[str, Path], seed: int) -> None:
    """Add to each condition of each reader its `difference` from its parent, where that was asked the same, in place.

    Args:
        board: of the models, with `resamples` and `confidence`.
        folders: artifact name to folder.
        seed: of the resampling.

    Raises:
        DataError: both were asked under a condition, but not the same questions.
    """
    for model, task, result in read(board):
        parent = board["models"][model]["parent"]
        if parent is None or "rag" not in board["models"][parent]["tasks"].get(task, {}):
            continue
        ours, theirs = (_by_condition(folders[f"metrics/{name}"], task) for name in (model, parent))
        for condition, figures in result["rag"]["conditions"].items():
            if condition in theirs:
                difference = paired_difference(
                    ours[condition],
                    theirs[condition],
                    resamples=board["resamples"],
                    confidence=board["confidence"],
                    seed=seed,
                )
                said = verdict(difference, higher_is_better=True)
                figures["difference"] = {**asdict(difference), "verdict": said}


def _by_condition(folder: Path, task: str) -> dict[str, dict[str, float]]:
    """Condition to row id to its score."""
    scores: dict[str, dict[str, float]] = {}
    for row in artifact.read_jsonl(folder / "samples" / f"{task}.jsonl"):
        scores.setdefault(row["condition"], {})[row["id"]] = row["scores"][METRIC]
    return scores


def conditions(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List each reader's answers by condition: `model`, `task`, `condition`, `rows`, the intervals of `exact_match`,
    `f1` and `abstained`, and `difference` where there is one.
    """
    return [
        {"model": model, "task": task, "condition": condition, **result["rag"]["conditions"][condition]}
        for model, task, result in read(board)
        for condition in CONDITIONS
        if condition in result["rag"]["conditions"]
    ]


def attacks(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List what instructions planted in passages did: `model`, `task`, `group` (all, a wording, a position), `rows`,
    `followed`, `exact_match` and `difference`.
    """
    found = []
    for model, task, result in read(board):
        if planted := result["rag"].get("planted"):
            parts = {"by_wording": "wording", "by_position": "place"}
            groups = {"all": planted} | {
                f"{name}: {value}": figures for part, name in parts.items() for value, figures in planted[part].items()
            }
            found += [
                {"model": model, "task": task, "group": group, **{key: figures[key] for key in _ATTACK}}
                for group, figures in groups.items()
            ]
    return found


def indexes(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the indexes that readers were evaluated with, each once.

    Returns:
        `models` and `task` evaluated with it, `questions`, `without_passage`, `legs`, `fused_over`, `found_by`, and
        `svg`, a drawing of recall by the number of passages.
    """
    found: list[dict[str, Any]] = []
    for model, task, result in read(board):
        figures = result["retrieval"]
        if not figures["questions"]:
            continue
        same = [index for index in found if all(index[key] == value for key, value in figures.items())]
        if same:
            same[0]["models"].append(model)
        else:
            found.append({"models": [model], "task": task, **figures, "svg": recall(figures["legs"])})
    return found


def recall(legs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Any:
    """Draw recall by the number of passages, a line for each leg."""
    series = {}
    for leg, style in LEGS.items():
        named = [name.partition("@") for name in legs[leg] if name.startswith("recall@")]
        series[leg] = (style, sorted((float(k), legs[leg][f"recall@{k}"]["value"]) for _, _, k in named))
    return svg.lines("recall by passages", series, floor=0.0)


def examples(artifacts: Mapping[str, Path], board: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Pick answers to show, of each reader the first one of each condition of `SHOWN`, right or wrong.

    Args:
        artifacts: artifact name to folder.
        board: content of `leaderboard.json`.

    Returns:
        Model to rows of its samples.
    """
    picks: dict[str, list[dict[str, Any]]] = {}
    for model, task, _ in read(board):
        rows = artifact.read_jsonl(artifacts[f"metrics/{model}"] / "samples" / f"{task}.jsonl")
        for condition in SHOWN:
            picks.setdefault(model, []).extend([row for row in rows if row["condition"] == condition][:1])
    return picks
