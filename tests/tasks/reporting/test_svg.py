"""Drawings and how numbers are written."""

import math
import re

import pytest

from tasks.reporting import axes, page
from tasks.reporting import svg as drawing


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, ["0.00", "0.25", "0.50", "0.75", "1.00"]), (0, 120, ["0", "25", "50", "75", "100", "125"]), (3, 3, ["3"])],
)
def test_ticks(low: float, high: float, expected: list[str]) -> None:
    assert axes.labels(axes.ticks(low, high, 4)) == expected


def test_drawings_stay_inside_their_box() -> None:
    svg = drawing.lines("loss", {"loss": ("s0", [(1, 5.0), (2, -3.0), (3, 1e-3)])})
    xs = [float(x) for x in re.findall(r'cx="([-\d.]+)"', svg)]
    points = [float(v) for v in re.findall(r"[ML]([-\d.]+) ", svg)]
    assert all(0 <= x <= 352 for x in xs + points)
    assert "nan" not in svg


def test_a_flat_line_is_drawn_level() -> None:
    svg = drawing.lines("flat", {"x": ("s0", [(1, 2.0), (2, 2.0)])})
    heights = [float(y) for y in re.findall(r"[ML][-\d.]+ ([-\d.a-z]+)", svg)]
    assert len(heights) == 2
    assert heights[0] == heights[1]
    assert math.isfinite(heights[0])


def test_graph_leaves_out_what_a_longer_way_implies() -> None:
    nodes = {name: (name, "", "") for name in ("data", "base", "sft")}
    svg = drawing.graph(nodes, [("data", "base"), ("base", "sft"), ("data", "sft")])
    ends = re.findall(r'class="edge" d="M(\d+) \d+C[^"]* (\d+) \d+"', svg)
    boxes = sorted(int(x) for x in re.findall(r'<rect[^>]* x="(\d+)', svg))
    assert [(int(a), int(b)) for a, b in ends] == [(boxes[0] + 152, boxes[1]), (boxes[1] + 152, boxes[2])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (page.size(999), "999 B"),
        (page.size(4_940_000), "4.9 MB"),
        (page.size(538e6), "538 MB"),
        (page.duration(4.25), "4.2 s"),
        (page.duration(200), "3 min 20 s"),
        (page.duration(4330), "1 h 12 min"),
        (page.count(12345), "12\u2009345"),
        (page.score(-0.5), "\u22120.500"),
        (page.score(0.5, True), "+0.500"),
        (drawing.number(0.0064), "0.0064"),
    ],
)
def test_how_numbers_are_written(text: str, expected: str) -> None:
    assert text == expected
