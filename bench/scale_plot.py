"""The picture of `bench.data`: rows a second and peak memory over the number of rows, from its file of figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def kept(path: Path, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Put the figures of one run into a JSON file, in place of those of as many rows, and return all, fewest first."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    runs = sorted([*(run for run in before if run["rows"] != figures["rows"]), figures], key=lambda run: run["rows"])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n", encoding="utf-8")
    temporary.rename(path)
    return runs


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw rows a second above, peak memory in GB below, over rows on a logarithmic axis.

    Args:
        runs: figures of `bench.data`, with `rows`, `rows_per_s` and `peak_mb`, fewest rows first.
        path: of the picture; its suffix decides on the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    speed, memory = figure.subplots(2, 1, sharex=True)
    rows = [run["rows"] for run in runs]
    speed.plot(rows, [run["rows_per_s"] for run in runs], "o-", color="tab:blue")
    speed.set_ylabel("rows a second")
    memory.plot(rows, [run["peak_mb"] / 1000 for run in runs], "o-", color="tab:orange")
    memory.set_ylabel("peak memory, all processes (GB)")
    memory.set_xlabel("rows of 300 words")
    memory.set_xscale("log")
    for axes in (speed, memory):
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
