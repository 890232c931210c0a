"""Axes of the report's drawings: round marks, their labels, and the place of a point between them."""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers that cover low to high."""
    if low == high:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 2.5, 5, 10), key=lambda m: abs(m * power - raw))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def labels(marks: Sequence[float]) -> list[str]:
    """Format the marks of an axis, all with as many digits as the step between them needs."""
    step = marks[1] - marks[0] if len(marks) > 1 else 1.0
    digits = next((d for d in range(6) if abs(step - round(step, d)) < 1e-9), 6)
    return [f"{mark:.{digits}f}".replace("-", "\u2212") for mark in marks]


def axes(
    x_ticks: Sequence[float], y_ticks: Sequence[float], box: tuple[float, float, float, float]
) -> tuple[Callable[[float, float], tuple[float, float]], list[Markup]]:
    """Return the place of a point (x, y) in a box (left, top, width, height), and the marks along two of its sides."""
    left, top, width, height = box

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_ticks[0]) / ((x_ticks[-1] - x_ticks[0]) or 1) * width,
            top + height - (y - y_ticks[0]) / ((y_ticks[-1] - y_ticks[0]) or 1) * height,
        )

    parts = []
    for value, label in zip(y_ticks, labels(y_ticks), strict=True):
        parts.append(y_tick(left, width, at(x_ticks[0], value)[1], label))
    for value, label in zip(x_ticks, labels(x_ticks), strict=True):
        parts.append(x_tick(at(value, y_ticks[0])[0], top + height, label))
    return at, parts


def y_tick(left: float, width: float, y: float, label: str) -> Markup:
    """Draw a line across the chart with its label on the left."""
    return Markup(
        '<line class="grid" x1="{0:.1f}" x2="{1:.1f}" y1="{2:.1f}" y2="{2:.1f}"/>'
        '<text class="y" x="{3:.1f}" y="{4:.1f}">{5}</text>'
    ).format(left, left + width, y, left - 6, y + 3.5, label)


def x_tick(x: float, y: float, label: str) -> Markup:
    """Draw a label below the chart."""
    return Markup('<text class="x" x="{:.1f}" y="{:.1f}">{}</text>').format(x, y + 14, label)
