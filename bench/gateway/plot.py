"""A plot as SVG, without a plotting library: rows of panels with lines over the concurrency."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 330, 250  # of a panel, pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 38
_LEGEND = 34
# Okabe and Ito's colours, which colour-blind readers can tell apart, and a mark for each.
_COLOURS = ("#000000", "#56b4e9", "#e69f00", "#d55e00", "#009e73", "#cc79a7")
_MARKS = ("circle", "square", "up", "diamond", "down", "cross")
_STYLE = "font-family:sans-serif;font-size:11px;fill:#222"


@dataclass(frozen=True)
class Line:
    """One arm.

    Attributes:
        title: in the legend.
        points: median, least and greatest at each concurrency; None where nothing was measured.
    """

    title: str
    points: list[tuple[float, float, float] | None]


@dataclass(frozen=True)
class Panel:
    """One metric of one engine."""

    title: str
    labels: list[str]
    lines: list[Line]
    logarithmic: bool


def svg(rows: list[list[Panel]]) -> str:
    """The plot as a document; a colour means the same arm everywhere."""
    titles = list(dict.fromkeys(line.title for row in rows for panel in row for line in panel.lines))
    styles = {title: (_COLOURS[i % 6], _MARKS[i % 6]) for i, title in enumerate(titles)}
    width = _WIDTH * max((len(row) for row in rows), default=1)
    height = _LEGEND + _HEIGHT * len(rows)
    parts = [f'<rect width="{width}" height="{height}" fill="#fff"/>', _legend(styles)]
    for y, row in enumerate(rows):
        for x, panel in enumerate(row):
            parts.append(f'<g transform="translate({x * _WIDTH},{_LEGEND + y * _HEIGHT})">{_panel(panel, styles)}</g>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="{_STYLE}">'
    return head + "\n" + "\n".join(parts) + "\n</svg>\n"


def _legend(styles: dict[str, tuple[str, str]]) -> str:
    parts, x = [], 20.0
    for title, (colour, mark) in styles.items():
        parts.append(f'<path d="M{x:.0f} 16h24" stroke="{colour}" stroke-width="2"/>{_mark(mark, x + 12, 16, colour)}')
        parts.append(f'<text x="{x + 30:.0f}" y="20">{escape(title)}</text>')
        x += 48 + 6.5 * len(title)
    return "".join(parts)


def _panel(panel: Panel, styles: dict[str, tuple[str, str]]) -> str:
    values = [value for line in panel.lines for point in line.points if point for value in point if value > 0]
    ticks = _log_ticks(min(values), max(values)) if panel.logarithmic else _ticks(min(0.9, *values), max(1.0, *values))

    def scale(value: float) -> float:
        return math.log10(max(value, 1e-9)) if panel.logarithmic else value

    low, high = scale(ticks[0]), scale(ticks[-1])

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (scale(value) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def x(index: int) -> float:
        steps = max(len(panel.labels) - 1, 1)
        return _LEFT + 12 + index * (_WIDTH - _LEFT - _RIGHT - 24) / steps

    parts = [f'<text x="{_LEFT}" y="18" font-weight="bold">{escape(panel.title)}</text>']
    for tick in ticks:
        parts.append(f'<path d="M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for index, label in enumerate(panel.labels):
        parts.append(f'<text x="{x(index):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">requests in flight</text>')
    for line in panel.lines:
        colour, mark = styles[line.title]
        found = [(x(index), point) for index, point in enumerate(line.points) if point]
        path = "L".join(f"{at:.1f} {y(middle):.1f}" for at, (middle, _, _) in found)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        for at, (middle, least, greatest) in found:
            parts.append(f'<path d="M{at:.1f} {y(least):.1f}V{y(greatest):.1f}" stroke="{colour}"/>')
            parts.append(_mark(mark, at, y(middle), colour))
    return "".join(parts)


def _mark(mark: str, x: float, y: float, colour: str) -> str:
    paths = {
        "square": "m-3.5 -3.5h7v7h-7z",
        "up": "m0 -4.5l4.2 7.5h-8.4z",
        "down": "m0 4.5l4.2 -7.5h-8.4z",
        "diamond": "m0 -4.8l4.4 4.8l-4.4 4.8l-4.4 -4.8z",
        "cross": "m-4 -4l8 8m0 -8l-8 8",
        "circle": "m-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0",
    }
    stroke = f' stroke="{colour}" stroke-width="2"' if mark == "cross" else ""
    return f'<path d="M{x:.1f} {y:.1f}{paths[mark]}" fill="{colour}"{stroke}/>'


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten, from below the least to above the greatest."""
    steps = [base * 10.0**power for power in range(-6, 9) for base in (1, 2, 5)]
    first = max(index for index, step in enumerate(steps) if step <= low)
    last = min(index for index, step in enumerate(steps) if step >= high)
    return steps[first : max(last, first + 1) + 1]


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers, from below the least to above the greatest."""
    rough = (high - low) / 5 or 1
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(base * power for base in (1, 2, 5, 10) if base * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 10) for index in range(first, last + 1)]
