"""Tables and figures as the pages write them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MARKS = {"better": "▲", "worse": "▼", "no difference": "="}
"""Verdict of a paired comparison to its mark."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table. Raises ValueError for a row with more or fewer cells than the head."""
    lines = [head, ["---"] * len(head), *rows]
    for cells in lines:
        if len(cells) != len(head):
            raise ValueError(f"a row of {len(cells)} cells below a head of {len(head)}: {cells}")
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def figure(value: float, digits: int = 3, sign: bool = False) -> str:
    """Write a number with so many digits behind the point, `0.372`; with `sign`, `+0.031`. Zero has no sign."""
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return text[1:]
    return text.replace("-", "−") if sign or value < 0 else text[1:]


def value(score: Mapping[str, Any] | None) -> str:
    """Write the value of a score, or a dash where there is none."""
    return "–" if score is None else figure(score["value"])


def percent(share: float) -> str:
    """Write a share from 0 to 1 as `12.3 %`."""
    return f"{100 * share:.1f} %"


def count(value: float) -> str:
    """Write a whole number with commas between thousands."""
    return f"{value:,.0f}"


def code(name: str) -> str:
    """Write a name as code."""
    return f"`{name}`"


def bracket(interval: Mapping[str, Any], sign: bool = False) -> str:
    """Write a value with its interval: `0.372 [0.321, 0.423]`."""
    value, low, high = (figure(interval[key], sign=sign) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def change(difference: Mapping[str, Any]) -> str:
    """Write a paired difference with its interval and its mark: `+0.547 [+0.497, +0.598] ▲`."""
    return f"{bracket(difference, sign=True)} {MARKS[difference['verdict']]}"
