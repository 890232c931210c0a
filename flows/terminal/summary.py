"""What is left on the screen after a run: what each stage did, what went wrong and where, and the leaderboard."""

import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows import workspace
from flows.graph import Graph
from flows.runners.wire import PARTS
from flows.terminal import defaults, leaderboard
from flows.terminal.board import STYLES, Board, duration, screen, size
from tasks.stage import artifact, audit_record
from tasks.stage.errors import ArtifactError, StageFailed, kind
from tasks.stage.lifecycle import read_measurements

REPORT = artifact.LAST_REPORT / "index.html"
"""The report of the last run, with this machine's seconds and speeds, and links to MLflow's runs."""
UP_TO_DATE = {"cached", "restored", "done"}


def after_run(console: Console, board: Board, graph: Graph, folder: Path) -> list[dict[str, str]]:
    """Print the summary of a run and write it to `summary.json` beside its logs.

    Returns:
        The rows of the leaderboard; none when this run evaluated no model.
    """
    states = {
        name: {
            "state": row.state, "version": row.version, "seconds": row.seconds, "runner": row.runner, "parts": row.parts
        }
        for name, row in board.rows.items()
    }  # fmt: skip
    artifact.write_json(folder / "summary.json", states)
    console.print(stage_table(board, graph))
    if any(row.parts for row in board.rows.values()):
        console.print(travel_table(board))
    for line in lost_rows(board, graph):
        console.print(f"[yellow]{escape(line)}[/]", highlight=False, soft_wrap=True)
    for name, row in board.rows.items():
        if row.state == "failed":
            _explain(console, name, row.error)
    console.print(f"[dim]logs: {folder}[/]\n", highlight=False, soft_wrap=True)
    fresh = [graph.stages[name].out for name, row in board.rows.items() if row.state in UP_TO_DATE]
    if not any(out.parent.name == "metrics" for out in fresh) or not _report(console, folder, fresh):
        return []
    scores = artifact.read_json(leaderboard.LOCAL)
    leaderboard.show(console, scores)
    console.print(f"report: [bold]{REPORT}[/]", highlight=False, soft_wrap=True)
    return leaderboard.rows(scores)


def show() -> None:
    """Print the leaderboard of the last run. Raises ArtifactError when there is none."""
    board = leaderboard.read()
    if board is None:
        raise ArtifactError(f"{leaderboard.FILE}: no report yet; make it with `polm run`")
    console = screen()
    leaderboard.show(console, board)
    if kind(REPORT) == "a file":
        console.print(f"report: {REPORT}", highlight=False, soft_wrap=True)


def show_defaults() -> None:
    """Print what holds for the active recipe that nobody wrote. Raises ConfigError where a file cannot be read."""
    defaults.show(screen())


def stage_table(board: Board, graph: Graph) -> Table:
    """Make one line a stage: how it ended, seconds, of which imports, and the most memory it took."""
    table = Table(box=None, padding=(0, 1))
    table.add_column("stage", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for title in ("time", "imports", "peak memory"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, row in board.rows.items():
        measured = read_measurements(graph.stages[name].out) if row.state in ("done", "cached") else {}
        took = duration(row.seconds) if row.seconds else ""
        imports = duration(measured["import_seconds"]) if row.state == "done" and "import_seconds" in measured else ""
        memory = size(measured["peak_memory_bytes"]) if row.state == "done" and "peak_memory_bytes" in measured else ""
        version = f"[dim]@{row.version[:8]}[/]" if row.version else ""
        table.add_row(f"{escape(name)}{version}", Text(row.state, style=STYLES[row.state]), took, imports, memory)
    return table


def travel_table(board: Board) -> Table:
    """Make one line for each stage that ran on another machine: where, and the seconds of each part of its way."""
    table = Table(box=None, padding=(0, 1))
    table.add_column("stage", no_wrap=True)
    table.add_column("runner", no_wrap=True)
    for title in (*PARTS, "overhead"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, row in board.rows.items():
        if row.parts:
            overhead = sum(seconds for part, seconds in row.parts.items() if part not in ("stage", "wait"))
            cells = [f"{row.parts[part]:.1f} s" if part in row.parts else "" for part in PARTS]
            table.add_row(escape(name), row.runner, *cells, f"{overhead:.1f} s")
    return table


def lost_rows(board: Board, graph: Graph) -> list[str]:
    """Write a line for each part of the data that was too long for a stage, which is up to date, to learn it whole."""
    return [
        f"{name}: {part}: {lost}"
        for name, row in board.rows.items()
        if row.state in UP_TO_DATE
        for part, record in audit_record.read(graph.stages[name].out).items()
        if (lost := audit_record.sentence(record))
    ]


def _report(console: Console, folder: Path, fresh: list[Path]) -> bool:
    """Make the report of these artifacts, with what was measured here; False, and a word to the user, if that fails."""
    params = f"params/{workspace.active_recipe()}/report.yaml"
    command = [sys.executable, "-m", "tasks.reporting.local", params, str(REPORT.parent), *map(str, fresh)]
    with console.status("making the report …"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        (folder / "report.log").write_text(done.stderr, encoding="utf-8")
        console.print(f"[yellow]the report could not be made, see {folder / 'report.log'}[/]", soft_wrap=True)
    return done.returncode == 0


def _explain(console: Console, name: str, error: Exception | None) -> None:
    if not isinstance(error, StageFailed):
        console.print(f"[bold red]{escape(name)}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        return
    where = f"{error.log}:{error.line}"
    console.print(f"[bold red]{escape(name)} {error.reason}[/], see {escape(where)}", highlight=False, soft_wrap=True)
    console.print(f"    {escape(error.text)}", highlight=False, soft_wrap=True)
