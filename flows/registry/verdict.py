"""What a gate decides, and how its decisions are shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Verdict:
    """One gate's decision."""

    gate: str
    required: str
    found: str
    passed: bool


def table(model: str, verdicts: Sequence[Verdict]) -> Table:
    """Show the verdicts as a table for the terminal."""
    shown = Table(title=f"gates for {model}", title_justify="left")
    for column in ("gate", "required", "found", ""):
        shown.add_column(column, overflow="fold")
    for v in verdicts:
        shown.add_row(v.gate, escape(v.required), escape(v.found), "[green]pass[/]" if v.passed else "[red]FAIL[/]")
    return shown
