"""Line charts as SVG, drawn for a page with light and dark colours of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 24, 14, 40


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    low: float
    high: float
    """``low`` and ``high`` are the ends of the band around ``y``."""


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    colour: int
    """Which of the page's colours, from 0."""
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Axis:
    label: str
    show: Callable[[float], str] = "{:g}".format
    logarithmic: bool = False


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def line_chart(lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """One ``<svg>`` element. Empty where no line has a point."""
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    horizontal = _scale([p.x for p in points], _LEFT, WIDTH - _RIGHT, x.logarithmic, zero=False)
    vertical = _scale(
        [v for p in points for v in (p.low, p.high)], HEIGHT - _BOTTOM, _TOP, y.logarithmic
    )
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y.label)}">',
        *_grid(horizontal, vertical, x, y),
    ]
    for line in lines:
        parts += _drawn(line, horizontal, vertical, y)
    return "".join([*parts, "</svg>"])


def _drawn(line: Line, horizontal: _Scale, vertical: _Scale, y: Axis) -> list[str]:
    if not line.points:
        return []
    at = [(horizontal(p.x), p) for p in line.points]
    path = " ".join(f"{px:.1f},{vertical(p.y):.1f}" for px, p in at)
    top = [f"{px:.1f},{vertical(p.high):.1f}" for px, p in at]
    bottom = [f"{px:.1f},{vertical(p.low):.1f}" for px, p in reversed(at)]
    parts = [f'<g class="c{line.colour}">']
    if any(p.low != p.high for p in line.points):
        parts.append(f'<polygon class="band" points="{" ".join(top + bottom)}"/>')
    parts.append(f'<polyline class="line" points="{path}"/>')
    if len(line.points) <= 30:
        for px, p in at:
            title = f"{line.name}: {y.show(p.y)}"
            parts.append(
                f'<circle cx="{px:.1f}" cy="{vertical(p.y):.1f}" r="3.2">'
                f"<title>{escape(title)}</title></circle>"
            )
    return [*parts, "</g>"]


def _grid(horizontal: _Scale, vertical: _Scale, x: Axis, y: Axis) -> list[str]:
    parts = []
    for value in _ticks(vertical):
        at = vertical(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">'
            f"{escape(y.show(value))}</text>"
        )
    for value in _ticks(horizontal):
        at = horizontal(value)
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{escape(x.show(value))}</text>"
        )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{HEIGHT - _BOTTOM}"'
        f' y2="{HEIGHT - _BOTTOM}"/>'
        f'<text class="tick" x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
    )
    return parts


def _scale(
    values: Sequence[float], start: float, end: float, logarithmic: bool, *, zero: bool = True
) -> _Scale:
    low, high = min(values), max(values)
    if logarithmic:
        low = max(low, high / 1e6, 1e-9)
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        if low == high:
            high *= 10
    else:
        if zero:
            low = min(0.0, low)
        if low == high:
            low, high = low - 0.5, high + 0.5
        if zero:
            high += (high - low) * 0.05
    return _Scale(low, high, start, end, logarithmic)


def _ticks(scale: _Scale) -> list[float]:
    if scale.logarithmic:
        first, last = round(math.log10(scale.low)), round(math.log10(scale.high))
        return [10.0**power for power in range(first, last + 1)]
    span = scale.high - scale.low
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first = math.ceil(scale.low / step)
    return [n * step for n in range(first, math.floor(scale.high / step) + 1)]
