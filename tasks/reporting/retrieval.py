"""The report's look at readers: answers under each condition, what they cite, and how their passages are found."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tasks.grading.bootstrap import paired_difference, verdict
from tasks.reporting import svg
from tasks.retrieval.answered import CONDITIONS
from tasks.retrieval.scores import METRICS
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError

STAGE = "evaluate_rag"
"""Stage that evaluates with passages."""
UNTRAINED = "read_untrained"
"""Key of the board for evaluations of models that were not made to read."""
METRIC = "exact_match"
"""Metric that conditions are compared by."""
LEGS = {"lexical": "s0", "dense": "s1", "fused": "s2"}
"""Leg of an index to the style of its line."""
_ATTACK = ("rows", "followed", "exact_match", "difference")
SHOWN = ("retrieved", "removed", "planted", "contradicting", "poisoned")
"""Conditions of which the page shows an answer, in this order."""


class Reading(NamedTuple):
    """An evaluation with passages."""

    name: str
    """Name of the evaluation, of a reader that of the model."""
    model: str
    """Model that was asked."""
    task: str
    """Task that it was asked."""
    result: Mapping[str, Any]
    """Entry of the task in `results.json`."""

    @property
    def names(self) -> dict[str, str]:
        """What tells its rows from others'."""
        return {"name": self.name, "model": self.model, "task": self.task}


def section(artifacts: Mapping[str, Path], board: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """Everything that the page's section shows; empty where no reader was evaluated.

    Args:
        artifacts: artifact name to folder.
        board: content of `leaderboard.json`.
        models: names of the models, in order.
    """
    ordered = {**board, "models": {model: board["models"][model] for model in models}}
    grounded = list(read(ordered))
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
        "model_of": {of.name: of.model for of in grounded},
    }


def read(board: Mapping[str, Any]) -> Iterator[Reading]:
    """Yield each evaluation with passages, models in the order of the board, each before what was made from it."""
    for model, entry in board["models"].items():
        for name, other in board.get(UNTRAINED, {}).items():
            if other["model"] == model:
                yield from (Reading(name, model, task, result) for task, result in other["tasks"].items())
        for task, result in entry["tasks"].items():
            if "rag" in result:
                yield Reading(model, model, task, result)


def add_untrained(board: dict[str, Any], folders: Mapping[str, Path]) -> None:
    """Add the evaluations with passages of models that are evaluated without them too, in place.

    Such an evaluation has a name of its own, `metrics/sft_grounded`, and its manifest names the model. It is what a
    reader made from that model is compared with.
    """
    models = {entry["digest"]: model for model, entry in board["models"].items()}
    found = {}
    for name, folder in folders.items():
        kind, _, own = name.partition("/")
        manifest = artifact.read_manifest(folder)
        if kind == "metrics" and own not in board["models"] and manifest.stage == STAGE:
            result = artifact.read_json(folder / "results.json")
            if "form" in result:  # of an export, which `frontier.exported` compares with its model
                continue
            if (model := models.get(manifest.inputs["model"])) is None:
                raise ArtifactError(f"{folder}: an evaluation of a model that is not at hand; run `polm run`")
            found[own] = {"model": model, "tasks": result["tasks"]}
    if found:
        board[UNTRAINED] = found


def compare(board: dict[str, Any], folders: Mapping[str, Path], seed: int) -> None:
    """Add to each condition of each reader its `difference` from its parent, where that was asked the same, in place.

    Args:
        board: of the models, with `resamples` and `confidence`.
        folders: artifact name to folder.
        seed: of the resampling.

    Raises:
        DataError: both were asked under a condition, but not the same questions.
    """
    readings = list(read(board))
    for reading in readings:
        parent = board["models"][reading.model]["parent"]
        before = [other for other in readings if other.model == parent and other.task == reading.task]
        if not before or reading.name != reading.model:
            continue
        ours, theirs = (
            _by_condition(folders[f"metrics/{name}"], reading.task) for name in (reading.name, before[0].name)
        )
        result = reading.result
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
    """List each reader's answers by condition: `name`, `model`, `task`, `condition`, `rows`, the intervals of
    `exact_match`, `f1` and `abstained`, and `difference` where there is one.
    """
    return [
        {**of.names, "condition": condition, **of.result["rag"]["conditions"][condition]}
        for of in read(board)
        for condition in CONDITIONS
        if condition in of.result["rag"]["conditions"]
    ]


def attacks(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List what instructions planted in passages did: `name`, `model`, `task`, `group` (all, a wording, a position),
    `rows`, `followed`, `exact_match` and `difference`.
    """
    found = []
    for of in read(board):
        if planted := of.result["rag"].get("planted"):
            parts = {"by_wording": "wording", "by_position": "place"}
            groups = {"all": planted} | {
                f"{name}: {value}": figures for part, name in parts.items() for value, figures in planted[part].items()
            }
            found += [
                {**of.names, "group": group, **{key: figures[key] for key in _ATTACK}}
                for group, figures in groups.items()
            ]
    return found


def indexes(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the indexes that readers were evaluated with, each once.

    Returns:
        `models`, names of the evaluations with it; `task`, `questions`, `without_passage`, `legs`, `fused_over`,
        `found_by` and, where the prompts take relevant passages alone, `screen`; and `svg`, a drawing of recall by the
        number of passages.
    """
    found: list[dict[str, Any]] = []
    for of in read(board):
        figures = of.result["retrieval"]
        if not figures["questions"]:
            continue
        same = [index for index in found if all(index[key] == value for key, value in figures.items())]
        if same:
            same[0]["models"].append(of.name)
        else:
            found.append({"models": [of.name], "task": of.task, **figures, "svg": recall(figures["legs"])})
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
        Name of the evaluation to rows of its samples.
    """
    picks: dict[str, list[dict[str, Any]]] = {}
    for of in read(board):
        rows = artifact.read_jsonl(artifacts[f"metrics/{of.name}"] / "samples" / f"{of.task}.jsonl")
        for condition in SHOWN:
            picks.setdefault(of.name, []).extend([row for row in rows if row["condition"] == condition][:1])
    return picks
