"""Charts of the report: the figures of the artifacts that each one shows. `tasks/reporting/svg.py` draws them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tasks.reporting import svg
from tasks.stage import artifact

CURVES: dict[str, dict[str, str]] = {
    "loss": {"loss": "", "eval_loss": "dashed"},
    "reward accuracy": {
        "rewards/accuracies": "",
        "accuracy": "",
        "eval_rewards/accuracies": "dashed",
        "eval_accuracy": "dashed",
    },
    "reward margin": {
        "rewards/margins": "",
        "margin": "",
        "eval_rewards/margins": "dashed",
        "eval_margin": "dashed",
    },
    "reward of chosen; rejected dashed": {"rewards/chosen": "", "rewards/rejected": "dashed"},
    "reward": {"reward": ""},
    "KL from the reference": {"kl": ""},
    "entropy of the policy": {"entropy": ""},
    "answer length, tokens": {"completions/mean_length": ""},
    "groups without signal": {"frac_reward_zero_std": "", "dynamic_sampling/still_empty": "dashed"},
    "clipped share": {"clip_fraction": "", "clip_ratio/region_mean": ""},
    "explained variance of the values": {"explained_variance": ""},
    "value loss": {"value_loss": ""},
}
"""Title of a chart to the keys of `curves.jsonl` that it draws where a model has them, each with its line's style."""


def charts(artifacts: Mapping[str, Path], models: list[str]) -> list[dict[str, Any]]:
    """Draw the training curves: for each quantity, one line chart a model."""
    drawings = []
    for title, keys in CURVES.items():
        for i, model in enumerate(models):
            path = artifacts[f"models/{model}"] / "curves.jsonl"
            curve = artifact.read_jsonl(path) if path.exists() else []
            series = {}
            for key, style in keys.items():
                points = [(row["step"], row[key]) for row in curve if key in row and "step" in row]
                if len(points) > 1:
                    series[key] = (f"s{i % 6} {style}", points)
            if series:
                drawings.append({"title": title, "model": model, "svg": svg.lines(title, series)})
    return drawings


def rewards_beside_gold(
    artifacts: Mapping[str, Path], models: list[str], rewards: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Draw reward and gold metric on the same samples, for each model whose reward is not the gold metric itself."""
    drawings = []
    for i, model in enumerate(models):
        gold = rewards.get(model, {}).get("gold")
        if gold is None or rewards[model]["graders"].get(gold, {}).get("weight"):
            continue
        curve = artifact.read_jsonl(artifacts[f"models/{model}"] / "curves.jsonl")
        keys = {"reward": "reward", f"rewards/{gold}/mean": f"gold: {gold}"}
        series = {}
        for key, name in keys.items():
            points = [(row["step"], row[key]) for row in curve if key in row]
            series[name] = (f"s{i % 6}{' dashed' if key != 'reward' else ''}", points)
        title = "reward; gold metric dashed"
        drawings.append({"title": title, "model": model, "svg": svg.lines(title, series)})
    return drawings


def calibrations(
    bins_by_model: Mapping[str, Any], metrics: Mapping[str, dict[str, Any]], models: Sequence[str]
) -> dict[str, Any]:
    """Draw predicted against observed preference for each reward model, with its figures."""
    return {
        model: {"svg": svg.calibration(bins, f"s{models.index(model) % 6}"), "metrics": metrics[model], "bins": bins}
        for model, bins in bins_by_model.items()
    }


def size_chart(rows: Sequence[Mapping[str, Any]], models: Sequence[str]) -> Markup | None:
    """Draw score against size of every model and form; None for fewer than two."""
    return _scatter("score against size", [(r["bytes"] / 1e6, r) for r in rows], "MB", models)


def speed_chart(rows: Sequence[Mapping[str, Any]], models: Sequence[str]) -> Markup | None:
    """Draw score against decoding speed, of rows from `frontier.by_speed`; None for fewer than two."""
    return _scatter("score against speed", [(r["tokens_per_second"], r) for r in rows], "tokens/s", models)


def _scatter(
    title: str, rows: Sequence[tuple[float, Mapping[str, Any]]], unit: str, models: Sequence[str]
) -> Markup | None:
    if len(rows) < 2:
        return None
    style = {model: f"s{i % 6}" for i, model in enumerate(models)}
    points = [(x, r["score"], r["name"], style.get(r["model"], "s0"), r["front"]) for x, r in rows]
    return svg.scatter(title, points, unit)


def graph(leaderboard: dict[str, Any], models: Sequence[str]) -> Markup:
    """Draw the lineage: an edge from each artifact to those made from it."""
    nodes: dict[str, tuple[str, str, str]] = {}
    edges: list[tuple[str, str]] = []
    for node in leaderboard["lineage"]:
        model = node["name"].partition("/")[2]
        style = f"s{models.index(model) % 6}" if model in models else ""
        nodes[node["name"]] = (node["name"], f"{node['stage']} @ {node['digest'][:8]}", style)
        edges += [(source, node["name"]) for source in node["inputs"].values() if source in nodes]
    return svg.graph(nodes, edges)
