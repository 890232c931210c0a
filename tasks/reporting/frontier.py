"""Pareto front of score and size over every form of every model: dense, pruned, quantised, exported.

A form is on the Pareto front when no other one is at least as good and at most as large, and better in one of the two.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.reporting import leaderboard
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError


def exported(board: dict[str, Any], folders: Mapping[str, Path], seed: int) -> list[dict[str, Any]]:
    """Compare the evaluated forms of exports, each with the PyTorch model it was exported from.

    Args:
        board: from `leaderboard.build`.
        folders: artifact name to folder.
        seed: of the resampling.

    Returns:
        A row for each form: `model`, `form`, `bytes`, `kl_per_token` in nats, `argmax_agreement`, and `tasks` as an
        evaluation has them, with a paired `difference` where the PyTorch model answered the same questions.

    Raises:
        ArtifactError: a form that the export at hand does not have.
    """
    rows = []
    for node in board["lineage"]:
        kind, _, model = node["inputs"].get("model", "").partition("/")
        if not node["name"].startswith("metrics/") or kind != "onnx":
            continue
        result = artifact.read_json(folders[node["name"]] / "results.json")
        form = result["form"]
        forms = artifact.read_json(folders[f"onnx/{model}"] / "parity.json")["forms"]
        if form not in forms:
            raise ArtifactError(f"{folders[node['name']]}: of a form '{form}' that the export has not; run `polm run`")
        dense = board["models"].get(model, {"tasks": {}})["tasks"]
        for task, scores in result["tasks"].items():
            if task in dense:
                leaderboard.compare(
                    scores,
                    task,
                    child=folders[node["name"]],
                    parent=folders[f"metrics/{model}"],
                    resamples=board["resamples"],
                    confidence=board["confidence"],
                    seed=seed,
                )
        measures = {key: forms[form][key] for key in ("bytes", "kl_per_token", "argmax_agreement")}
        rows.append({"model": model, "form": form, **measures, "tasks": result["tasks"]})
    return rows


def frontier(board: dict[str, Any], task: str, metric: str) -> dict[str, Any]:
    """List score and size of every evaluated model and form, the smallest first.

    Args:
        board: a leaderboard with `forms`.
        task: of the score.
        metric: of the task; higher or lower is better, as the task says.

    Returns:
        `task`, `metric`, `higher_is_better`, and `rows` of `name`, `model`, `form` (`pytorch` for a model folder),
        `bytes`, `score`, `low`, `high` and `front`.
    """
    rows = []
    higher = True
    models = [(model, model, "pytorch", entry) for model, entry in board["models"].items()]
    forms = [(f"{entry['model']} {entry['form']}", entry["model"], entry["form"], entry) for entry in board["forms"]]
    for name, model, form, entry in [*models, *forms]:
        scores = entry["tasks"].get(task, {}).get("metrics", {}).get(metric)
        if scores is not None:
            higher = entry["tasks"][task]["higher_is_better"][metric]
            rows.append(
                {
                    "name": name,
                    "model": model,
                    "form": form,
                    "bytes": entry["bytes"],
                    "score": scores["value"],
                    "low": scores["low"],
                    "high": scores["high"],
                }
            )
    sign = 1 if higher else -1
    front = pareto([(row["bytes"], sign * row["score"]) for row in rows])
    rows = [{**row, "front": i in front} for i, row in enumerate(rows)]
    rows.sort(key=lambda row: (row["bytes"], -sign * row["score"], row["name"]))
    return {"task": task, "metric": metric, "higher_is_better": higher, "rows": rows}


def by_speed(frontier: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List score and decoding speed, the fastest first.

    Args:
        frontier: `rows`, from the function of that name, and `higher_is_better`.
        measured: artifact name to its measurements; exports have `tokens_per_second` of their forms and of PyTorch.

    Returns:
        The rows whose speed is known, with `tokens_per_second`, and `front` as regards speed.
    """
    rows = []
    for row in frontier["rows"]:
        speeds = measured.get(f"onnx/{row['model']}", {}).get("tokens_per_second", {})
        if row["form"] in speeds:
            rows.append({**row, "tokens_per_second": speeds[row["form"]]})
    if not rows:
        return []
    sign = 1 if frontier["higher_is_better"] else -1
    front = pareto([(-row["tokens_per_second"], sign * row["score"]) for row in rows])
    rows = [{**row, "front": i in front} for i, row in enumerate(rows)]
    return sorted(rows, key=lambda row: (-row["tokens_per_second"], row["name"]))


def pareto(points: Sequence[tuple[float, float]]) -> set[int]:
    """Return the numbers of the points (cost, worth) that no other one beats."""

    def beaten(cost: float, worth: float) -> bool:
        return any(c <= cost and w >= worth and (c, w) != (cost, worth) for c, w in points)

    return {i for i, point in enumerate(points) if not beaten(*point)}
