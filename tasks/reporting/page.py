"""Report as one HTML page: no script, no external request, light and dark, fit to print.

`render` is a pure function of artifacts; the `report` stage calls it without measurements, so that its bytes depend on
the results alone. `tasks/reporting/local.py` calls it with seconds, memory, speeds and MLflow runs.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tasks.reporting import charts, frontier, hearing, retrieval, sight, svg
from tasks.stage import artifact
from tasks.stage.recipe import Graph

HERE = Path(__file__).parent


def folders(root: Path, graph: Graph) -> dict[str, Path]:
    """Name every artifact of a recipe's graph that is at hand: `data`, `media/…`, `labels/…`, `models/…`, and so on.

    Artifacts of other recipes beside them are left out.

    Args:
        root: `artifacts`.
        graph: the recipe's graph.
    """
    others = [f"{folder}/{name}" for name, folder in graph.kinds.items() if folder != "models"]
    models = sorted(f"models/{name}" for name, kind in graph.kinds.items() if kind == "models")
    scores, exports = (
        sorted(f"metrics/{name}" for name in graph.scored),
        sorted(f"onnx/{name}" for name in graph.exported),
    )
    names = ["data", *others, *models, *scores, *exports]
    return {name: root / name for name in names if (root / name / artifact.MANIFEST).exists()}


def render(
    artifacts: Mapping[str, Path],
    leaderboard: dict[str, Any],
    measured: Mapping[str, dict[str, Any]] | None = None,
    runs: Mapping[str, dict[str, str]] | None = None,
) -> str:
    """Render the page.

    Args:
        artifacts: artifact name to folder, from `folders`.
        leaderboard: content of `leaderboard.json`.
        measured: artifact name to its measurements (`seconds`, `import_seconds`, `peak_memory_bytes`,
            `tokens_per_second`); None leaves all measurements out.
        runs: artifact name to its MLflow run (`run_id`, `url`).
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=svg.number, score=score, size=size, duration=duration, clean=clean, count=count)
    models = order(leaderboard)
    picks = samples(artifacts, leaderboard, models)
    rewards = _files(artifacts, "models", "reward.json")
    speeds = frontier.by_speed(leaderboard["frontier"], measured or {})
    context = {
        "board": {**leaderboard, "models": {model: leaderboard["models"][model] for model in models}},
        "style": {name: f"s{i % 6}" for i, name in enumerate(models)},
        "columns": columns(leaderboard),
        "interval": svg.interval,
        "histogram": svg.histogram,
        "samples": picks,
        "pictures": sight.pictures(artifacts, picks),
        "sight": sight.controls(leaderboard, models),
        "hearing": hearing.controls(leaderboard, models),
        "error_rates": hearing.rates(leaderboard, models),
        "retrieval": retrieval.section(artifacts, leaderboard, models),
        "charts": charts.charts(artifacts, models) + charts.rewards_beside_gold(artifacts, models, rewards),
        "rewards": {model: rewards[model] for model in models if model in rewards},
        "rounds": _files(artifacts, "models", "rounds.json"),
        "refinements": _files(artifacts, "models", "refine.json"),
        "judges": _judges(artifacts),
        "supervision": _files(artifacts, "models", "supervision.json"),
        "calibration": charts.calibrations(
            _files(artifacts, "models", "calibration.json"), _files(artifacts, "models", "metrics.json"), models
        ),
        "data_sets": {
            name: {
                "report": artifact.read_json(folder / "report.json"),
                "rejects": artifact.read_jsonl(folder / "rejects.jsonl"),
            }
            for name, folder in artifacts.items()
            if (name == "data" or name.startswith("media/")) and (folder / "rejects.jsonl").exists()
        },
        "parity": _files(artifacts, "onnx", "parity.json"),
        "frontier": charts.size_chart(leaderboard["frontier"]["rows"], models),
        "speeds": speeds,
        "faster": charts.speed_chart(speeds, models),
        "graph": charts.graph(leaderboard, models),
        "measured": measured or {},
        "runs": runs or {},
        "css": Markup((HERE / "page.css").read_text(encoding="utf-8")),
    }
    return environment.get_template("page.html.j2").render(context)


def columns(leaderboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return task, metric, direction and axis of each column of scores."""
    columns_by_metric: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in leaderboard["models"].values():
        for task, result in entry["tasks"].items():
            for metric, scores in result["metrics"].items():
                higher = result["higher_is_better"][metric]
                column = columns_by_metric.setdefault(
                    (task, metric), {"task": task, "metric": metric, "higher": higher, "groups": {}, "top": 1.0}
                )
                column["top"] = max(column["top"], scores["high"])
                for group, members in result["groups"].items():
                    column["groups"].setdefault(group, sorted(members, key=lambda m: (len(m), m)))
    headline = (leaderboard["headline"]["task"], leaderboard["headline"]["metric"])
    return sorted(
        columns_by_metric.values(), key=lambda c: ((c["task"], c["metric"]) != headline, c["task"] != headline[0])
    )


def order(leaderboard: dict[str, Any]) -> list[str]:
    """Return the names of the models, parents first (a JSON object has no order of its own)."""
    names = [node["name"].partition("/") for node in leaderboard["lineage"]]
    return [model for kind, _, model in names if kind == "models"]


def samples(
    artifacts: Mapping[str, Path], leaderboard: dict[str, Any], models: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Pick questions with every model's answer, for each task that asks for answers.

    Each pattern of right and wrong among the models comes up in turn, the commonest first.
    """
    picks: dict[str, list[dict[str, Any]]] = {}
    headline = leaderboard["headline"]
    rows_by_task: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for model in models:
        for task, result in leaderboard["models"][model]["tasks"].items():
            if result["output_type"] == "generate_until":
                rows_by_task[task][model] = artifact.read_jsonl(
                    artifacts[f"metrics/{model}"] / "samples" / f"{task}.jsonl"
                )
    for task, rows_by_model in rows_by_task.items():
        first = next(iter(rows_by_model.values()))
        metric = headline["metric"] if task == headline["task"] else next(iter(first[0]["scores"]))
        answers = {model: {row["id"]: row for row in rows} for model, rows in rows_by_model.items()}
        patterns: dict[tuple[float, ...], list[dict[str, Any]]] = defaultdict(list)
        for row in first:
            if all(row["id"] in rows for rows in answers.values()):
                by_model = {model: rows[row["id"]] for model, rows in answers.items()}
                pattern = tuple(answer["scores"][metric] for answer in by_model.values())
                patterns[pattern].append({**row, "by": by_model})
        queues = sorted(patterns.values(), key=len, reverse=True)
        rounds = [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]
        picks[task] = rounds[: leaderboard["page"]["samples"]]
    return picks


def score(value: float, sign: bool = False) -> str:
    """Format a score with as many digits as its neighbours: `0.372`, `12.3`; with `sign`, `+0.031`."""
    text = f"{value:+.3f}" if abs(value) < 10 else f"{value:+.1f}"
    return (text if sign or value < 0 else text[1:]).replace("-", "\u2212")


def size(value: float) -> str:
    """Format bytes in decimal units: `3.6 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def count(value: float) -> str:
    """Format a whole number with thin spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u2009")


def duration(seconds: float) -> str:
    """Format seconds as people say them: `4.2 s`, `3 min 20 s`, `1 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def clean(text: str) -> str:
    """Make control characters visible: a model's answer is never trusted to be printable."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "\ufffd", str(text))


def _files(artifacts: Mapping[str, Path], kind: str, name: str) -> dict[str, Any]:
    """Read the JSON files of one name, by artifact, where there is one."""
    paths = {key.partition("/")[2]: folder / name for key, folder in artifacts.items() if key.startswith(f"{kind}/")}
    return {key: artifact.read_json(path) for key, path in paths.items() if path.exists()}


def _judges(artifacts: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """Return the judge's reliability, by the model that learnt from its labels."""
    metrics = _files(artifacts, "models", "metrics.json")
    prefix = "judge_"
    reliability = {
        model: {key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)}
        for model, figures in metrics.items()
    }
    return {model: figures for model, figures in reliability.items() if figures}
