"""What simulations gave, for people on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from poolpilot.simulation.columns import Column, best, seconds, shown
from sim.fleet.experiment import Cell, priorities
from sim.fleet.policies import POLICIES
from sim.fleet.traffic import Workload
from sim.workloads import WORKLOADS


def table(workload: Workload, pods: int, seeds: int, grid: Sequence[Cell]) -> RenderableType:
    """All policies, load by load; the best mean of a load in bold."""
    columns = shown(grid)
    view = Table(box=None, pad_edge=False)
    view.add_column(workload.unit, justify="right")
    view.add_column("policy", no_wrap=True)
    for column in columns:
        view.add_column(column.title, justify="right", no_wrap=True)
    for load in dict.fromkeys(cell.load for cell in grid):
        row = [cell for cell in grid if cell.load == load]
        bests = {column.name: best(column, row) for column in columns}
        for cell in row:
            view.add_row(
                f"{load:g}" if cell is row[0] else "",
                cell.policy,
                *[_text(column, cell, bests[column.name]) for column in columns],
            )
        view.add_section()
    noun = "seed" if seeds == 1 else "seeds"
    note = "" if seeds == 1 else "; small: standard deviation between seeds"
    return Group(
        Text(f"{workload.name}: {workload.title}", style="bold"),
        Text(f"{pods} pods, {seeds} {noun}{note}\n", style="dim"),
        view,
        *_by_priority(workload, grid),
    )


def _by_priority(workload: Workload, grid: Sequence[Cell]) -> list[RenderableType]:
    """How each priority fared, where there are several."""
    view = Table(box=None, pad_edge=False)
    titles = ("policy", "priority", "requests", "refused", "TTFT mean", "p50", "p90")
    view.add_column(workload.unit, justify="right")
    for title in titles:
        view.add_column(title, justify="left" if title == "policy" else "right", no_wrap=True)
    for cell in grid:
        for priority, means in priorities(cell):
            view.add_row(
                f"{cell.load:g}",
                cell.policy,
                str(priority),
                *[f"{means[name]:,.0f}" for name in ("requests", "refused")],
                *[
                    "-" if math.isnan(means[name]) else seconds(means[name])
                    for name in ("ttft_mean", "ttft_p50", "ttft_p90")
                ],
            )
        view.add_section()
    return [Text(), view] if view.row_count else []


def _text(column: Column, cell: Cell, best_mean: float) -> Text:
    estimate = cell.estimate(column.name)
    if math.isnan(estimate.mean):
        return Text("-", style="dim")
    text = Text(column.show(estimate.mean), style="bold" if estimate.mean == best_mean else "")
    if cell.results[1:] and estimate.deviation > 0.005 * abs(estimate.mean):
        text.append(f" ±{estimate.deviation / abs(estimate.mean or 1):.0%}", style="dim")
    return text


def catalogue() -> RenderableType:
    """What there is to try."""
    view = Table(box=None, pad_edge=False)
    for title in ("workload", "what it is", "pods", "loads"):
        view.add_column(title)
    for workload in WORKLOADS.values():
        loads = ", ".join(f"{load:g}" for load in workload.loads)
        view.add_row(workload.name, workload.title, str(workload.pods), f"{loads} {workload.unit}")
    return Group(view, Text(f"\npolicies: {', '.join(POLICIES)}"))
