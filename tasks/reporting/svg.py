"""Small drawings for the report, as inline SVG: plain shapes, coloured by the page, equal bytes every time.

Unlike matplotlib's, they follow the page's colours in light and dark, weigh a kilobyte each, and import nothing.
"""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from tasks.reporting import axes

Points = Sequence[tuple[float, float]]


def number(value: float) -> str:
    """Format a number as short as it can be read: `0.372`, `0.0064`, `12`, `1.5e-05`."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) < 1e-4 or abs(value) >= 1e6:
        return f"{value:.1e}"
    if abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def interval(value: float, low: float, high: float, top: float, style: str, width: float = 120.0) -> Markup:
    """Draw a dot with its interval on an axis from 0 to `top`, `width` pixels wide."""

    def x(v: float) -> float:
        return 4 + v / top * (width - 8)

    return Markup(
        '<svg class="interval {style}" viewBox="0 0 {width:.0f} 14" width="{width:.0f}" role="img"'
        ' aria-label="{label}">'
        '<line class="axis" x1="4" x2="{end:.0f}" y1="7" y2="7"/>'
        '<line class="bar" x1="{xl:.1f}" x2="{xh:.1f}" y1="7" y2="7"/><circle cx="{xv:.1f}" cy="7" r="3.2"/></svg>'
    ).format(
        style=style,
        width=width,
        label=f"{number(value)} [{number(low)}, {number(high)}]",
        end=width - 4,
        xl=x(low),
        xh=x(high),
        xv=x(value),
    )


def lines(title: str, series: Mapping[str, tuple[str, Points]], floor: float | None = None) -> Markup:
    """Draw a line chart.

    Args:
        title: quantity on the y axis.
        series: label to style class and points (x, y).
        floor: a value that the y axis must include.
    """
    xs = [x for _, points in series.values() for x, _ in points]
    ys = [y for _, points in series.values() for _, y in points] + ([] if floor is None else [floor])
    x_ticks = axes.ticks(min(xs), max(xs), 4)
    y_ticks = axes.ticks(min(ys), max(ys), 4)
    at, parts = axes.axes(x_ticks, y_ticks, (44.0, 12.0, 296.0, 132.0))
    for label, (style, points) in series.items():
        path = _path([at(x, y) for x, y in points])
        last_x, last_y = points[-1]
        end_x, end_y = at(last_x, last_y)
        tip = f"{label}: {number(last_y)} at step {number(last_x)}"
        parts.append(
            Markup('<g class="{}"><path class="line" d="{}"><title>{}</title></path>').format(style, path, tip)
            + Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.6"/></g>').format(end_x, end_y)
        )
    return _chart(title, parts)


def scatter(title: str, points: Sequence[tuple[float, float, str, str, bool]], unit: str) -> Markup:
    """Draw scores against a cost or a gain, with the Pareto front as a line and its members named.

    Args:
        title: of the drawing.
        points: x, y, name, style class, and whether it is on the front; at least one.
        unit: of x.
    """
    x_ticks = axes.ticks(0, max(point[0] for point in points), 5)
    y_ticks = axes.ticks(min(point[1] for point in points), max(point[1] for point in points), 5)
    at, parts = axes.axes(x_ticks, y_ticks, (52.0, 14.0, 590.0, 250.0))
    front = sorted({at(x, y) for x, y, _, _, on_front in points if on_front})
    parts.append(Markup('<g class="s0"><path class="line" d="{}"/></g>').format(_path(front)))
    for x, y, name, style, on_front in points:
        place_x, place_y = at(x, y)
        tip = f"{name}: {number(y)} at {number(x)} {unit}"
        dot = '<g class="{}"><circle cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle></g>'
        parts.append(Markup(dot).format(style, place_x, place_y, 4.5 if on_front else 2.6, tip))
        if on_front:
            side = -8 if place_x > 347 else 8  # away from the nearer edge
            # Neighbours on a flat part would write over each other.
            below = front.index((place_x, place_y)) % 2 or place_y < 24
            anchor = "end" if side < 0 else "start"
            text = '<text class="point" x="{:.1f}" y="{:.1f}" style="text-anchor: {}">{}</text>'
            parts.append(Markup(text).format(place_x + side, place_y + (17 if below else -7), anchor, name))
    return Markup('<svg class="chart wide" viewBox="0 0 680 290" role="img" aria-label="{}">{}</svg>').format(
        title, Markup("").join(parts)
    )


def calibration(bins: Sequence[Mapping[str, float]], style: str) -> Markup:
    """Draw observed against predicted probability, a dot for each bin, with the diagonal of perfect calibration.

    Args:
        bins: `predicted`, `observed` (0 to 1) and `pairs` of each bin.
        style: style class.
    """
    left, top, width, height = 44.0, 12.0, 296.0, 132.0
    marks = axes.ticks(min(0.5, *(b["observed"] for b in bins)), 1, 4)
    low = marks[0]

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (x - low) / (1 - low) * width, top + height - (y - low) / (1 - low) * height

    parts = [axes.y_tick(left, width, at(low, v)[1], text) for v, text in zip(marks, axes.labels(marks), strict=True)]
    parts += [axes.x_tick(at(v, low)[0], top + height, text) for v, text in zip(marks, axes.labels(marks), strict=True)]
    parts.append(
        Markup('<line class="zero" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(*at(low, low), *at(1, 1))
    )
    most = max(b["pairs"] for b in bins)
    path = _path([at(b["predicted"], b["observed"]) for b in bins])
    parts.append(Markup('<g class="{}"><path class="line" d="{}"/>').format(style, path))
    for b in bins:
        x, y = at(b["predicted"], b["observed"])
        tip = f"{b['pairs']} pairs: predicted {number(b['predicted'])}, observed {number(b['observed'])}"
        radius = 2.5 + 2.5 * math.sqrt(b["pairs"] / most)
        parts.append(
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>').format(x, y, radius, tip)
        )
    return _chart("observed share of pairs won, by predicted probability", [*parts, Markup("</g>")])


def histogram(bins: Sequence[tuple[int, int]]) -> Markup:
    """Draw bars of counts, `bins` being (upper bound, count)."""
    most = max(count for _, count in bins)
    bars = [
        Markup(
            '<rect x="{x}" y="{y:.1f}" width="28" height="{height:.1f}"><title>up to {upper}: {count}</title></rect>'
            '<text x="{middle}" y="47">≤{upper}</text>'
        ).format(x=31 * i, y=36 - height, height=height, upper=upper, count=count, middle=31 * i + 14)
        for i, (upper, count) in enumerate(bins)
        for height in (max(1.0, 34 * count / most),)
    ]
    return Markup(
        '<svg class="histogram" viewBox="0 0 {0} 50" width="{0}" role="img" aria-label="histogram">{1}</svg>'
    ).format(31 * len(bins), Markup("").join(bars))


def graph(nodes: Mapping[str, tuple[str, str, str]], edges: Sequence[tuple[str, str]]) -> Markup:
    """Draw a layered graph, left to right.

    Args:
        nodes: name to title, second line and style class, parents before children.
        edges: (parent, child). Those that a longer way implies are left out of the drawing.
    """
    parents: dict[str, set[str]] = {name: {a for a, b in edges if b == name} for name in nodes}
    above: dict[str, set[str]] = {}
    depth: dict[str, int] = {}
    for name in nodes:
        above[name] = set().union(*(above[p] | {p} for p in parents[name]))
        depth[name] = 1 + max((depth[p] for p in parents[name]), default=-1)
    columns: dict[int, list[str]] = {}
    for name in nodes:
        columns.setdefault(depth[name], []).append(name)
    tallest = max(len(column) for column in columns.values())
    place = {
        name: (8 + d * 186, 8 + (i + (tallest - len(column)) / 2) * 54)
        for d, column in columns.items()
        for i, name in enumerate(column)
    }
    parts = []
    for name in nodes:
        for parent in sorted(parents[name]):
            if any(parent in above[other] for other in parents[name]):
                continue
            (x1, y1), (x2, y2) = place[parent], place[name]
            parts.append(
                Markup('<path class="edge" d="M{:.0f} {:.0f}C{:.0f} {:.0f} {:.0f} {:.0f} {:.0f} {:.0f}"/>').format(
                    x1 + 152, y1 + 20, x1 + 170, y1 + 20, x2 - 20, y2 + 20, x2, y2 + 20
                )
            )
    for name, (title, note, style) in nodes.items():
        x, y = place[name]
        parts.append(
            Markup(
                '<g class="node {}"><rect x="{:.0f}" y="{:.0f}" width="152" height="40" rx="7"/>'
                '<text x="{:.0f}" y="{:.0f}">{}</text><text class="note" x="{:.0f}" y="{:.0f}">{}</text></g>'
            ).format(style, x, y, x + 12, y + 17, title, x + 12, y + 31, note)
        )
    width = 168 + max(columns) * 186
    height = tallest * 54 + 2
    return Markup(
        '<svg class="graph" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="lineage">{2}</svg>'
    ).format(width, height, Markup("").join(parts))


def _path(points: Points) -> str:
    """Return a line through points as the `d` of an SVG path."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _chart(title: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 352 168" role="img" aria-label="{}">{}</svg>').format(
        title, Markup("").join(parts)
    )
