"""The leaderboard: every model's scores, and whether it is better than the model it was made from.

A model's parent is found, not declared: `sft` was made from `base` because its manifest names the digest of `base`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.grading.bootstrap import paired_difference, verdict
from tasks.reporting.merges import merges
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError


@dataclass(frozen=True)
class Node:
    """One artifact in the lineage."""

    name: str
    """Folder of the artifact, from the artifacts' own folder: `data`, `models/sft`."""
    stage: str
    """Stage that made it."""
    digest: str
    """Digest of its manifest: its identity."""
    params: str
    """Digest of the stage's configuration."""
    inputs: dict[str, str]
    """Input name to the name of the artifact it was, or to a digest that is none of those at hand."""


def lineage(folders: Mapping[str, Path]) -> dict[str, Node]:
    """Read the manifests of artifacts and link them, parents first.

    Args:
        folders: name to folder.
    """
    manifests = {name: artifact.read_manifest(folder) for name, folder in folders.items()}
    names = {manifest.digest: name for name, manifest in manifests.items()}
    nodes: dict[str, Node] = {}

    def add(name: str) -> None:
        if name in nodes:
            return
        manifest = manifests[name]
        inputs = {key: names.get(digest, digest) for key, digest in manifest.inputs.items()}
        for parent in inputs.values():
            if parent in manifests:
                add(parent)
        nodes[name] = Node(name, manifest.stage, manifest.digest, manifest.params, inputs)

    for name in folders:
        add(name)
    return nodes


def build(
    folders: Mapping[str, Path], *, recipe: str, headline: tuple[str, str], resamples: int, confidence: float, seed: int
) -> dict[str, Any]:
    """Everything that `leaderboard.json` holds.

    Args:
        folders: artifact name (`models/sft`, `metrics/sft`) to folder.
        recipe: name of the recipe.
        headline: task and metric that the report shows first.
        resamples: bootstrap samples of the paired intervals.
        confidence: their coverage.
        seed: seed of the resampling.

    Raises:
        ArtifactError: an evaluation is of another model than the one that lies beside it.
        DataError: two models were asked different questions.
    """
    nodes = lineage(folders)
    models: dict[str, dict[str, Any]] = {}
    for node in nodes.values():
        kind, _, model = node.name.partition("/")
        if kind == "models":
            models[model] = _entry(node, model, models, nodes, folders)
    for model, entry in models.items():
        parent = entry["parent"]
        for task, result in entry["tasks"].items():
            if parent is not None and task in models[parent]["tasks"]:
                sides = folders[f"metrics/{model}"], folders[f"metrics/{parent}"]
                compare(result, task, *sides, resamples, confidence, seed)
    board = {
        "recipe": recipe,
        "headline": {"task": headline[0], "metric": headline[1]},
        "confidence": confidence,
        "resamples": resamples,
        "models": models,
        "lineage": [asdict(node) for node in nodes.values()],
    }
    return {**board, "merges": merges(board, folders, seed)}


def claims(
    leaderboard: dict[str, Any],
    metrics: Mapping[str, str],
    over: Mapping[str, str],
    folders: Mapping[str, Path],
    seed: int,
) -> list[dict[str, Any]]:
    """What each method says it improves, and whether it did: its own metric before and after.

    Args:
        leaderboard: what `build` returned.
        metrics: model to its own metric, `task.metric`.
        over: model to the one that it is compared with; the others with the model they were made from.
        folders: artifact name to folder.
        seed: seed of the resampling.

    Returns:
        A row for each model that has one to be compared with, its `parent`: `model`, `stage`, `parent`, `task`,
        `metric`, `before`, `after`, `difference`. In the order of the lineage.
    """
    rows = []
    for model, entry in leaderboard["models"].items():
        against = over.get(model, entry["parent"])
        if model not in metrics or against is None:
            continue
        task, _, metric = metrics[model].partition(".")
        scores = entry["tasks"][task]["metrics"][metric]
        before = leaderboard["models"][against]["tasks"].get(task, {}).get("metrics", {}).get(metric)
        if before is not None and against != entry["parent"]:
            result = {"metrics": {metric: dict(scores)}, "higher_is_better": entry["tasks"][task]["higher_is_better"]}
            sides = folders[f"metrics/{model}"], folders[f"metrics/{against}"]
            compare(result, task, *sides, leaderboard["resamples"], leaderboard["confidence"], seed)
            scores = result["metrics"][metric]
        if before is not None:
            values = {"before": _score(before), "after": _score(scores), "difference": scores["difference"]}
            names = {"model": model, "stage": entry["stage"], "parent": against, "task": task, "metric": metric}
            rows.append({**names, **values})
    return rows


def _score(scores: dict[str, Any]) -> dict[str, float]:
    return {key: scores[key] for key in ("value", "low", "high")}


def weights(folder: Path) -> dict[str, int]:
    """Number of parameters and bytes of a model folder's safetensors, read from their headers.

    Tied weights are stored, and counted, once.
    """
    parameters = size = 0
    for path in sorted(folder.glob("*.safetensors")):
        size += path.stat().st_size
        with path.open("rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        parameters += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return {"parameters": parameters, "bytes": size}


def values(leaderboard: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """`{model: {task: {metric: value}}}`, for `dvc metrics`."""
    return {
        model: {
            task: {metric: scores["value"] for metric, scores in result["metrics"].items()}
            for task, result in entry["tasks"].items()
        }
        for model, entry in leaderboard["models"].items()
        if entry["tasks"]
    }


def rows(leaderboard: dict[str, Any]) -> list[dict[str, Any]]:
    """One flat row for each model, task and metric, all with the same keys, as `dvc plots` wants them."""
    return [
        {
            "score": f"{model} {task}.{metric}",
            "model": model,
            "task": task,
            "metric": metric,
            **{key: scores[key] for key in ("value", "low", "high")},
        }
        for model, entry in leaderboard["models"].items()
        for task, result in entry["tasks"].items()
        for metric, scores in result["metrics"].items()
    ]


def _entry(
    node: Node, model: str, models: Mapping[str, Any], nodes: Mapping[str, Node], folders: Mapping[str, Path]
) -> dict[str, Any]:
    """One model: what made it from what, how big it is, its scores (none when it was not evaluated)."""
    parent = node.inputs.get("model", "").removeprefix("models/")
    scores = f"metrics/{model}"
    tasks = {}
    if scores in folders:
        if nodes[scores].inputs["model"] != node.name:
            raise ArtifactError(f"{folders[scores]}: an evaluation of another version of {model}; run `polm run`")
        tasks = artifact.read_json(folders[scores] / "results.json")["tasks"]
    return {
        "stage": node.stage,
        "digest": node.digest,
        "parent": parent if parent in models else None,
        **weights(folders[node.name]),
        "tasks": tasks,
    }


def compare(
    result: dict[str, Any], task: str, child: Path, parent: Path, resamples: int, confidence: float, seed: int
) -> None:
    """Add the paired `difference` to each metric that both sides have, in place."""
    ours, theirs = (artifact.read_jsonl(folder / "samples" / f"{task}.jsonl") for folder in (child, parent))
    for metric, scores in result["metrics"].items():
        if metric not in theirs[0]["scores"]:
            continue
        sides = [{row["id"]: row["scores"][metric] for row in side} for side in (ours, theirs)]
        difference = paired_difference(*sides, resamples=resamples, confidence=confidence, seed=seed)
        higher = result["higher_is_better"][metric]
        scores["difference"] = {**asdict(difference), "verdict": verdict(difference, higher_is_better=higher)}
