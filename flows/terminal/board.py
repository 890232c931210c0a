"""What a person sees of a run: a live table on a terminal, lines in order anywhere else."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

STYLES = {
    "waiting": "dim",
    "starting": "yellow",
    "running": "bold yellow",
    "retrying": "bold magenta",
    "cached": "cyan",
    "restored": "cyan",
    "done": "green",
    "failed": "bold red",
    "skipped": "red",
    "stopped": "magenta",
}
"""Every state of a stage, with its colour."""
SETTLED = {"cached", "restored", "done", "failed", "skipped", "stopped"}
LINE_SECONDS = 10.0
"""Seconds between two lines of a stage's progress where there is no terminal."""
METRICS = 3
"""Live metrics that fit beside a bar."""
TELLING = ("loss", "accurac", "reward", "margin", "kl", "learning_rate")
"""Parts of the names of metrics that a person looks at first."""


@dataclass
class Row:
    """One stage as it stands."""

    state: str = "waiting"
    version: str = ""
    started: float | None = None
    seconds: float | None = None
    """Wall time of the stage, once it is settled."""
    event: dict[str, Any] = field(default_factory=dict)
    """Last progress event."""
    first: dict[str, Any] = field(default_factory=dict)
    """First event with the same label, from which the pace is measured."""
    note: str = ""
    runner: str = "local"
    """Where it runs: a name of the runners' file, or `local`."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of each part of a stage on another machine: `{"code": 0.1, "inputs": 1.4, …}`."""
    error: Exception | None = None
    """Error by which the stage failed."""
    printed: float = 0.0
    """Time at which its last line of progress was printed."""


class Board:
    """The state of every stage, shown while it changes. Stages report from several threads."""

    def __init__(self, stages: list[str], console: Console) -> None:
        self.rows = {name: Row() for name in stages}
        self._console = console
        self._lock = threading.Lock()
        self._start = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the board while the block runs, and leave its last state on the screen."""
        if not self._console.is_terminal:
            yield
            return
        with Live(self, console=self._console, refresh_per_second=4, transient=True):
            yield

    def state(self, name: str, state: str, *, version: str | None = None, note: str = "") -> None:
        """Move a stage to another state."""
        with self._lock:
            row = self.rows[name]
            row.state, row.note = state, note
            if version is not None:
                row.version = version
            if state in ("starting", "retrying") and row.started is None:
                row.started = time.monotonic()
            if state in SETTLED:
                row.seconds = time.monotonic() - row.started if row.started is not None else 0.0
            if not self._console.is_terminal and state not in ("waiting", "starting", "cached"):
                took = f" in {duration(row.seconds)}" if state in ("done", "restored", "failed") and row.seconds else ""
                self._say(f"{self._label(name)} {state}{took}{': ' + note if note else ''}")

    def placed(self, name: str, runner: str) -> None:
        """Note where a stage runs."""
        self.rows[name].runner = runner

    def waits(self, name: str, reason: str) -> None:
        """Show why a stage on another machine does not start yet, in the words of its engine."""
        with self._lock:
            self.rows[name].note = reason
            if not self._console.is_terminal:
                self._say(f"{self._label(name)} waits: {reason}")

    def took(self, name: str, seconds: dict[str, float]) -> None:
        """Note the seconds of the parts of a stage on another machine; those of an earlier attempt are forgotten."""
        self.rows[name].parts = seconds

    def failed(self, name: str, error: Exception) -> None:
        """Mark a stage as failed. Prefect may try it again."""
        self.rows[name].error = error
        self.state(name, "failed", note=str(error))

    def event(self, name: str, event: dict[str, Any]) -> None:
        """Note a progress event `{"done", "total", "label", "metrics"}`."""
        with self._lock:
            row = self.rows[name]
            row.event = event
            if not row.first or row.first["label"] != event["label"]:
                row.first = event
            if not self._console.is_terminal and time.monotonic() - row.printed >= LINE_SECONDS:
                row.printed = time.monotonic()
                self._say(f"{self._label(name)} {event['label']} {event['done']}/{event['total']}  {_metrics(event)}")

    def __rich__(self) -> Group:
        table = Table(box=None, padding=(0, 1), expand=False)
        for title in ("stage", "state", "", "", "elapsed", "left"):
            table.add_column(title, justify="right" if title in ("elapsed", "left") else "left", no_wrap=True)
        with self._lock:
            for name, row in self.rows.items():
                table.add_row(*self._cells(name, row))
            open_rows = [row for row in self.rows.values() if row.state not in SETTLED]
        total = duration(time.monotonic() - self._start)
        footer = Text(f" {len(self.rows) - len(open_rows)} of {len(self.rows)} stages settled, {total}", style="dim")
        return Group(table, footer)

    def _cells(self, name: str, row: Row) -> tuple[Any, ...]:
        name_cell = Text(name, style="bold" if row.state == "running" else "")
        name_cell.append(f"@{row.version[:8]}" if row.version else "", style="dim")
        name_cell.append("" if row.runner == "local" else f" on {row.runner}", style="blue")
        state = Text(row.state, style=STYLES[row.state])
        elapsed = row.seconds if row.seconds is not None else _since(row.started)
        shown = duration(elapsed) if elapsed else ""
        if row.state != "running" or not row.event:
            return name_cell, state, "", Text(row.note, style="dim"), shown, ""
        done, total = row.event["done"], row.event["total"]
        note = Text(f"{row.event['label']} {done}/{total}  {_metrics(row.event)}".strip(), overflow="ellipsis")
        return name_cell, state, ProgressBar(total=total, completed=done, width=16), note, shown, _left(row)

    def _label(self, name: str) -> str:
        row = self.rows[name]
        label = f"{name}@{row.version[:8]}" if row.version else name
        return label if row.runner == "local" else f"{label} on {row.runner}"

    def _say(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, highlight=False, soft_wrap=True)


def screen() -> Console:
    """Open the console for a command's output. A file or a pipe is given room, so that no table is folded in a log."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=160)


def say(text: str) -> None:
    """Print one line about what the command itself does."""
    Console().print(text, highlight=False, soft_wrap=True)


def duration(seconds: float | None) -> str:
    """Write seconds as `0.4 s`, `42 s`, `3 min 20 s`, `2 h 05 min`; `-` when they are not known."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float | None) -> str:
    """Write bytes for a person, e.g. `3.4 MB`; `-` when they are not known."""
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _since(start: float | None) -> float | None:
    return None if start is None else time.monotonic() - start


def _left(row: Row) -> str:
    """Estimate the time until the running step's total is reached, at its pace so far."""
    steps = row.event["done"] - row.first["done"]
    if steps <= 0:
        return ""
    pace = (row.event["time"] - row.first["time"]) / steps
    return duration(max(0.0, pace * (row.event["total"] - row.event["done"]) - (time.time() - row.event["time"])))


def _metrics(event: dict[str, Any]) -> str:
    """Write the most telling metrics of an event."""

    def rank(name: str) -> tuple[int, str]:
        return next((i for i, part in enumerate(TELLING) if part in name), len(TELLING)), name

    metrics = event["metrics"]
    return "  ".join(f"{key} {metrics[key]:.4g}" for key in sorted(metrics, key=rank)[:METRICS])
