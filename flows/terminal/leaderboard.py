"""The leaderboard in a terminal: what the report found, beside the seconds and speeds that were measured here."""

from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.terminal.board import duration, size
from flows.tracking import client
from tasks.stage import artifact
from tasks.stage.errors import kind
from tasks.stage.lifecycle import read_measurements

LOCAL = artifact.LAST_REPORT / "leaderboard.json"
"""Leaderboard of what the last `polm run` brought up to date, all of the DAG or a part."""
FILE = artifact.REPORTS / "leaderboard.json"
"""Leaderboard of the whole DAG, as `dvc repro` leaves it too."""
FORMS = ("pytorch", "fp32", "int8", "int4")
"""Forms of a model that are timed when it is exported."""
WIDE = 140
"""Columns that the whole table takes."""
MARKS = {"better": "▲", "worse": "▼", "no difference": "="}
"""Verdict against the model it was made from, to its mark."""
COLOURS = {"▲": "green", "▼": "red", "=": "dim"}


def read() -> dict[str, Any] | None:
    """Read the leaderboard of the last run, or of the last report where artifacts changed since; None without one."""
    for path in (LOCAL, FILE):
        if kind(path) == "a file":  # `.polm` may be closed to us: then there is still the report of the whole DAG
            board: dict[str, Any] = artifact.read_json(path)
            if path is FILE or all(_at_hand(node) for node in board["lineage"]):
                return board
    return None


def _at_hand(node: dict[str, Any]) -> bool:
    path = artifact.ROOT / node["name"]
    return (path / artifact.MANIFEST).exists() and artifact.read_manifest(path).digest == node["digest"]


def rows(board: dict[str, Any]) -> list[dict[str, str]]:
    """Make one row a model, column title to text, the headline's metric first."""
    runs = {run["artifact"]: run["run_id"] for run in client.known_runs().values() if "artifact" in run}
    metrics = _metrics(board)
    order = [node["digest"] for node in board["lineage"]]  # parents first
    return [
        {
            "model": model,
            "trained with": entry["stage"],
            **{f"{task} {metric}": _score(entry, task, metric) for task, metric in metrics},
            "size": size(entry["bytes"]),
            **_measured(model),
            "MLflow run": runs.get(str(artifact.MODELS / model), ""),
        }
        for model, entry in sorted(board["models"].items(), key=lambda item: order.index(item[1]["digest"]))
    ]


def show(console: Console, board: dict[str, Any]) -> None:
    """Print the rows as a table, with what its marks mean."""
    models = rows(board)
    console.print(f"[bold]recipe {board['recipe']}[/]", highlight=False)
    titles = list(models[0])
    costs = titles.index("size")
    # A terminal too narrow for all of it gets two tables rather than folded numbers.
    parts = [titles] if console.width >= WIDE else [titles[:costs], ["model", *titles[costs:]]]
    for part in parts:
        table = Table(box=None, padding=(0, 1, 0, 0))
        for title in part:
            left = title in ("model", "trained with", "MLflow run")
            justify: Literal["left", "right"] = "left" if left else "right"
            header = Text(title.replace(" ", "\n", 1))  # and no markup: a metric may be `exact_match[strict-match]`
            table.add_column(header, justify=justify, vertical="bottom", no_wrap=True)
        for row in models:
            table.add_row(*(_cell(title, row[title]) for title in part))
        console.print(table)
    if board["claims"]:
        console.print("\n[bold]each method on the metric it is there for[/]", highlight=False)
        console.print(_claims(board["claims"]))
    for sentence in board.get("by_default", ()):
        console.print(f"[dim]{escape(sentence)}[/]", highlight=False)
    percent = f"{board['confidence']:.0%}"
    legend = f"± half of the {percent} interval. ▲ better, ▼ worse, = no different from the model it was made from"
    console.print(f"[dim]{legend} (paired bootstrap, {percent})[/]", highlight=False)


def _claims(claims: list[dict[str, Any]]) -> Table:
    """Show each method on the metric it is there for, before and after."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for title in ("method", "over", "its own metric", "before", "after", "change, paired"):
        table.add_column(title, justify="left" if title in ("method", "over", "its own metric") else "right")
    for row in claims:
        change = "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row["difference"])
        change = f"{change} {MARKS[row['difference']['verdict']]}"
        before, after = (f"{row[side]['value']:.3f}" for side in ("before", "after"))
        cells = (row["model"], row["parent"], f"{row['task']} {row['metric']}", before, after, change)
        table.add_row(*(_cell("model" if i == 0 else "", text) for i, text in enumerate(cells)))
    return table


def _metrics(board: dict[str, Any]) -> list[tuple[str, str]]:
    """List task and metric of each column of scores; beside the methods' own metrics, the headline's task is enough."""
    headline = (board["headline"]["task"], board["headline"]["metric"])
    columns = {
        (task, metric)
        for entry in board["models"].values()
        for task, result in entry["tasks"].items()
        for metric in result["metrics"]
        if task == headline[0] or not board["claims"]
    }
    return sorted(columns, key=lambda column: (column != headline, column[0] != headline[0], column))


def _score(entry: dict[str, Any], task: str, metric: str) -> str:
    """Write a score as `0.372 ±0.047 ▲`; nothing for a model that was not asked."""
    if task not in entry["tasks"] or metric not in entry["tasks"][task]["metrics"]:
        return ""
    score = entry["tasks"][task]["metrics"][metric]
    mark = MARKS[score["difference"]["verdict"]] if "difference" in score else ""
    return f"{score['value']:.3f} ±{(score['high'] - score['low']) / 2:.3f} {mark}".rstrip()


def _measured(model: str) -> dict[str, str]:
    """Show the decoding speed of the PyTorch model and of each exported form, and how long the training took."""
    exported, trained = read_measurements(artifact.ONNX / model), read_measurements(artifact.MODELS / model)
    speeds = exported.get("tokens_per_second", {})
    return {
        f"tokens/s {' · '.join(FORMS)}": " · ".join(_speed(speeds[form]) for form in FORMS if form in speeds),
        "time": duration(trained["seconds"]) if trained else "",
    }


def _speed(tokens: float) -> str:
    return f"{tokens:.0f}" if tokens >= 100 else f"{tokens:.1f}"


def _cell(title: str, text: str) -> Text:
    if title == "MLflow run":
        return Text(text[:8], style="dim")
    cell = Text(text, style="bold" if title == "model" else "")
    for mark, colour in COLOURS.items():
        cell.highlight_words([mark], colour)
    return cell
