"""Plots as inline SVG: no library, no script, colours from the page's own light and dark themes.

All plots are drawn in a box of WIDTH x HEIGHT units that scales with its column; text keeps the page's font.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from .parts import Bars, Histogram, Interval, Line, LinePlot

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 22, 12, 40
MOST_POINTS = 600

Scale = Callable[[float], float]


def line_plot(plot: LinePlot) -> str:
    """Lines over an x axis; beyond MOST_POINTS points, the mean of neighbours with their range behind."""
    values = [y for line in plot.lines for y in line.y if y is not None and math.isfinite(y)]
    xs = [x for line in plot.lines for x in line.x]
    if not values:
        return _figure(plot.title, "", "")
    low, high = _padded(min(values), max(values), log=plot.log)
    across = _linear(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    up = (_logarithmic if plot.log else _linear)(low, high, HEIGHT - BOTTOM, TOP)
    body = [_y_axis(_log_ticks(low, high) if plot.log else _ticks(low, high), up, plot.y_label)]
    body.append(_x_axis(_ticks(min(xs), max(xs), 6), across, plot.x_label))
    for number, line in enumerate(plot.lines):
        body.append(_line(line, across, up, number))
    return _figure(plot.title, "".join(body), _legend([line.name for line in plot.lines]))


def bars(plot: Bars) -> str:
    """Horizontal bars, the second distribution as a thinner bar beneath the first."""
    row = 26 if plot.compare else 20
    top = max([*plot.values, *(plot.compare or ()), 1e-12])
    height = row * len(plot.labels) + 8
    left = 140
    across = _linear(0, top, left, WIDTH - 60)
    body = []
    for index, (label, value) in enumerate(zip(plot.labels, plot.values, strict=True)):
        y = 4 + index * row
        body.append(_text(left - 6, y + 13, label if len(label) <= 20 else label[:19] + "…", "end"))
        body.append(f'<rect class="fill0" x="{left}" y="{y + 2}" width="{across(value) - left:.1f}" height="12"/>')
        if plot.compare:
            other = across(plot.compare[index]) - left
            body.append(f'<rect class="fill1" x="{left}" y="{y + 15}" width="{other:.1f}" height="6"/>')
        body.append(
            _text(across(value) + 5, y + 13, f"{value:,.4g} {plot.unit}" if plot.unit else f"{value:.1%}", "start")
        )
    return _figure(plot.title, "".join(body), _legend(plot.legend or ()), height)


def histogram(plot: Histogram) -> str:
    """Buckets as steps; the second distribution as an outline over the first."""
    both = [*plot.buckets, *plot.compare]
    low, high = min(b[0] for b in both), max(b[1] for b in both)
    across = _linear(low, high, LEFT, WIDTH - RIGHT)
    top = max(density for density in (_density(b) for b in both)) or 1.0
    up = _linear(0, top * 1.05, HEIGHT - BOTTOM, TOP)
    body = [_x_axis(_ticks(low, high, 6), across, "")]
    for bucket in plot.buckets:
        x, y = across(bucket[0]), up(_density(bucket))
        width = max(across(bucket[1]) - x - 1, 1)
        body.append(f'<rect class="fill0" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{up(0) - y:.1f}"/>')
    if plot.compare:
        points = [f"{across(plot.compare[0][0]):.1f},{up(0):.1f}"]
        for bucket in plot.compare:
            y = up(_density(bucket))
            points += [f"{across(bucket[0]):.1f},{y:.1f}", f"{across(bucket[1]):.1f},{y:.1f}"]
        points.append(f"{across(plot.compare[-1][1]):.1f},{up(0):.1f}")
        body.append(f'<polyline class="line1" points="{" ".join(points)}"/>')
    return _figure(plot.title, "".join(body), _legend(plot.legend if plot.compare else ()))


def interval(plot: Interval) -> str:
    """Estimates with their intervals against the bound that must not be crossed; the allowed side is shaded."""
    row, left = 54, 20
    height = row * len(plot.rows) + 8
    body = []
    for index, (label, low, estimate, high, bound, side) in enumerate(plot.rows):
        ends = (min(low, bound), max(high, bound))
        margin = (ends[1] - ends[0]) * 0.15 or 0.01
        across = _linear(ends[0] - margin, ends[1] + margin, left, WIDTH - left)
        y = 34 + index * row
        edge = across(bound)
        start, stop = (edge, WIDTH - left) if side == ">" else (left, edge)
        body.append(f'<rect class="allowed" x="{start:.1f}" y="{y - 10}" width="{stop - start:.1f}" height="20"/>')
        body.append(f'<line class="bound" x1="{edge:.1f}" x2="{edge:.1f}" y1="{y - 13}" y2="{y + 13}"/>')
        body.append(f'<line class="line0" x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{y}" y2="{y}"/>')
        for end in (low, high):
            body.append(
                f'<line class="line0" x1="{across(end):.1f}" x2="{across(end):.1f}" y1="{y - 5}" y2="{y + 5}"/>'
            )
        body.append(f'<circle class="fill0" cx="{across(estimate):.1f}" cy="{y}" r="5"/>')
        told = f"{label}: {estimate:.4f}, between {low:.4f} and {high:.4f}"
        body.append(_text(left, y - 18, told, "start"))
        anchor = "end" if edge > WIDTH * 0.75 else "start" if edge < WIDTH * 0.25 else "middle"
        body.append(_text(edge, y + 24, f"must be {side} {bound:g}", anchor))
    return _figure(plot.title, "".join(body), "", height + 10)


def _line(line: Line, across: Scale, up: Scale, number: int) -> str:
    points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None and math.isfinite(y)]
    if len(points) == 1:
        return f'<circle class="fill{number % 5}" cx="{across(points[0][0]):.1f}" cy="{up(points[0][1]):.1f}" r="3"/>'
    drawn = []
    if len(points) > MOST_POINTS:
        size = math.ceil(len(points) / MOST_POINTS)
        groups = [points[i : i + size] for i in range(0, len(points), size)]
        tops = [(group[0][0], max(y for _, y in group)) for group in groups]
        floors = [(group[0][0], min(y for _, y in group)) for group in groups]
        shade = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in (*tops, *reversed(floors)))
        drawn.append(f'<polygon class="range{number % 5}" points="{shade}"/>')
        points = [(group[0][0], sum(y for _, y in group) / len(group)) for group in groups]
    path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
    return "".join((*drawn, f'<polyline class="line{number % 5}" points="{path}"/>'))


def _figure(title: str, body: str, legend: str, height: float = HEIGHT) -> str:
    label = escape(title, quote=True)
    return (
        f'<figure><figcaption>{escape(title)}{legend}</figcaption><svg viewBox="0 0 {WIDTH} {height:g}" '
        f'role="img" aria-label="{label}">{body}</svg></figure>'
    )


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    keys = "".join(f'<span class="key key{i % 5}">{escape(name)}</span>' for i, name in enumerate(names))
    return f'<span class="legend">{keys}</span>'


def _y_axis(ticks: Sequence[float], up: Scale, label: str) -> str:
    drawn = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(t):.1f}" y2="{up(t):.1f}"/>'
        + _text(LEFT - 6, up(t) + 4, _number(t), "end")
        for t in ticks
    ]
    return "".join(drawn) + _text(LEFT, HEIGHT - 4, f"↑ {label}" if label else "", "start", "label")


def _x_axis(ticks: Sequence[float], across: Scale, label: str) -> str:
    drawn = [_text(across(t), HEIGHT - BOTTOM + 16, _number(t), "middle") for t in ticks]
    return "".join(drawn) + _text(WIDTH - RIGHT, HEIGHT - 4, f"{label} →" if label else "", "end", "label")


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>' if text else ""


def _linear(low: float, high: float, start: float, stop: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (stop - start)


def _logarithmic(low: float, high: float, start: float, stop: float) -> Scale:
    inner = _linear(math.log(low), math.log(high), start, stop)
    return lambda value: inner(math.log(max(value, low)))


def _padded(low: float, high: float, *, log: bool) -> tuple[float, float]:
    if low == high:
        return (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    margin = (high - low) * 0.04
    return (low, high) if log else (low - margin, high + margin)


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside [low, high]: 1, 2 or 5 times a power of ten apart."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(decades) > 4 else (1, 2, 5) if len(decades) > 2 else range(1, 10)
    ticks = [10.0**decade * factor for decade in decades for factor in factors]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside[:: math.ceil(len(inside) / 8)] or [low]


def _density(bucket: tuple[float, float, float]) -> float:
    low, high, share = bucket
    return share / ((high - low) or 1.0)


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:,.6g}"
