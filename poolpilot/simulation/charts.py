"""Which charts there are: the same on the page and as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from poolpilot.simulation.chart import Axis, Line, Point
from sim.fleet.experiment import Cell
from sim.fleet.traffic import Workload


@dataclass(frozen=True, slots=True)
class Chart:
    name: str
    """For file names."""
    title: str
    note: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]


def _seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


_BY_LOAD = (
    ("ttft-p90", "Time to first token, p90", "Lower is better.", "ttft_p90", Axis(
        "TTFT p90", _seconds, logarithmic=True)),
    ("output-tokens", "Output tokens per second", "Higher is better.", "output_tokens_per_second",
     Axis("tokens/s", "{:,.0f}".format)),
    ("ntpot-p50", "Time per output token, p50", "The whole latency over the tokens of the answer;"
     " lower is better.", "ntpot_p50", Axis("NTPOT p50", lambda v: f"{v * 1000:.0f} ms")),
    ("hit-rate", "Prefix cache hit rate", "Share of the prompt tokens that were not computed.",
     "hit_rate", Axis("hit rate", "{:.0%}".format)),
    ("spread", "Load spread", "The busiest pod over the mean; 1 is even.", "spread",
     Axis("max / mean", "{:.2g}".format)),
    ("adapter-loads", "LoRA adapters loaded per second", "Lower is better.",
     "adapter_loads_per_second", Axis("loads/s", "{:.2g}".format)),
)  # fmt: skip


def charts(workload: Workload, grid: Sequence[Cell]) -> list[Chart]:
    """By load where there are several; and how the TTFT is distributed at each load."""
    policies = list(dict.fromkeys(cell.policy for cell in grid))
    loads = sorted({cell.load for cell in grid})
    found = []
    if len(loads) > 1:
        for name, title, note, field, y in _BY_LOAD:
            lines = _by_load(grid, policies, field)
            if any(point.y for line in lines for point in line.points):
                found.append(Chart(name, title, note, Axis(workload.unit), y, lines))
    return [*found, *[_waits(workload, grid, policies, load) for load in loads]]


def _waits(workload: Workload, grid: Sequence[Cell], policies: Sequence[str], load: float) -> Chart:
    lines = [
        Line(cell.policy, policies.index(cell.policy), _distribution(cell))
        for cell in grid
        if cell.load == load
    ]
    return Chart(
        f"ttft-at-{load:g}",
        f"How many waited how long, at {load:g} {workload.unit}",
        "Further to the left is better.",
        Axis("TTFT", _seconds, logarithmic=True),
        Axis("share of requests", "{:.0%}".format),
        tuple(lines),
    )


def _by_load(grid: Sequence[Cell], policies: Sequence[str], name: str) -> tuple[Line, ...]:
    lines = []
    for colour, policy in enumerate(policies):
        points = []
        for cell in sorted((c for c in grid if c.policy == policy), key=lambda c: c.load):
            values = [float(getattr(result.measures, name)) for result in cell.results]
            values = [value for value in values if not math.isnan(value)]
            if values:
                mean = sum(values) / len(values)
                points.append(Point(cell.load, mean, min(values), max(values)))
        lines.append(Line(policy, colour, points))
    return tuple(lines)


def _distribution(cell: Cell) -> list[Point]:
    """The quantiles, averaged over seeds."""
    columns = zip(*(result.measures.ttft_quantiles for result in cell.results), strict=True)
    points = []
    for percent, column in enumerate(columns):
        value = sum(column) / len(column)
        if not math.isnan(value):
            share = percent / 100
            points.append(Point(max(value, 1e-3), share, share, share))
    return points
