"""What simulations gave, for people on a terminal and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sim.fleet.experiment import NUMBERS, Cell, Run
from sim.fleet.policies import POLICIES
from sim.fleet.traffic import Workload
from sim.workloads import WORKLOADS


@dataclass(frozen=True, slots=True)
class Column:
    """One number as it is shown."""

    title: str
    name: str
    """The field of :class:`sim.fleet.measure.Measures`."""
    show: Callable[[float], str]
    lower_is_better: bool | None = True
    """None: neither."""


def _seconds(value: float) -> str:
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def _milliseconds(value: float) -> str:
    return f"{value * 1000:.1f}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


COLUMNS = (
    Column("TTFT p50", "ttft_p50", _seconds),
    Column("p90", "ttft_p90", _seconds),
    Column("p99", "ttft_p99", _seconds),
    Column("NTPOT p50 ms", "ntpot_p50", _milliseconds),
    Column("ITL ms", "itl_mean", _milliseconds),
    Column("e2e p50", "latency_p50", _seconds),
    Column("p99", "latency_p99", _seconds),
    Column("out tok/s", "output_tokens_per_second", _count, lower_is_better=False),
    Column("hit rate", "hit_rate", lambda value: f"{value:.0%}", lower_is_better=False),
    Column("spread", "spread", lambda value: f"{value:.2f}"),
    Column("loads/s", "adapter_loads_per_second", lambda value: f"{value:.2f}"),
    Column("shed", "shed", _count),
    Column("failed", "failed", _count),
)
_OPTIONAL = {"adapter_loads_per_second", "shed", "failed"}


def table(workload: Workload, pods: int, seeds: int, grid: Sequence[Cell]) -> RenderableType:
    """All policies, load by load; the best mean of a load in bold."""
    columns = [
        column
        for column in COLUMNS
        if column.name not in _OPTIONAL or any(cell.estimate(column.name).mean for cell in grid)
    ]
    view = Table(box=None, pad_edge=False)
    view.add_column(workload.unit, justify="right")
    view.add_column("policy")
    for column in columns:
        view.add_column(column.title, justify="right")
    for load in dict.fromkeys(cell.load for cell in grid):
        row = [cell for cell in grid if cell.load == load]
        best = {column.name: _best(column, row) for column in columns}
        for cell in row:
            view.add_row(
                f"{load:g}" if cell is row[0] else "",
                cell.policy,
                *[_shown(column, cell, best[column.name]) for column in columns],
            )
        view.add_section()
    noun = "seed" if seeds == 1 else "seeds"
    note = "" if seeds == 1 else "; small: standard deviation between seeds"
    return Group(
        Text(f"{workload.name}: {workload.title}", style="bold"),
        Text(f"{pods} pods, {seeds} {noun}{note}\n", style="dim"),
        view,
    )


def _best(column: Column, row: Sequence[Cell]) -> float:
    means = [cell.estimate(column.name).mean for cell in row]
    means = [mean for mean in means if not math.isnan(mean)]
    if len(means) < 2 or column.lower_is_better is None:
        return math.nan
    return min(means) if column.lower_is_better else max(means)


def _shown(column: Column, cell: Cell, best: float) -> Text:
    estimate = cell.estimate(column.name)
    if math.isnan(estimate.mean):
        return Text("-", style="dim")
    text = Text(column.show(estimate.mean), style="bold" if estimate.mean == best else "")
    if cell.results[1:] and estimate.deviation > 0.005 * abs(estimate.mean):
        text.append(f" ±{estimate.deviation / abs(estimate.mean or 1):.0%}", style="dim")
    return text


def document(workload: Workload, run: Run, grid: Sequence[Cell]) -> dict[str, Any]:
    """Everything, as values that JSON has. Times in seconds."""
    return {
        "workload": {"name": workload.name, "title": workload.title, "unit": workload.unit},
        "pods": run.pods,
        "engine": asdict(run.engine),
        "fleet": asdict(run.fleet),
        "results": [
            {
                "policy": cell.policy,
                "load": cell.load,
                "mean": {name: _number(cell.estimate(name).mean) for name in NUMBERS},
                "deviation": {name: _number(cell.estimate(name).deviation) for name in NUMBERS},
                "seeds": [
                    {
                        "seed": result.seed,
                        "wall_seconds": round(result.wall_seconds, 3),
                        **{name: _number(getattr(result.measures, name)) for name in NUMBERS},
                        "ttft_quantiles": [_number(q) for q in result.measures.ttft_quantiles],
                    }
                    for result in cell.results
                ],
            }
            for cell in grid
        ],
    }


def _number(value: float) -> float | None:
    if math.isnan(value):
        return None
    return value if isinstance(value, int) else round(value, 6)


def as_json(workload: Workload, run: Run, grid: Sequence[Cell]) -> str:
    return json.dumps(document(workload, run, grid), indent=1) + "\n"


def catalogue() -> RenderableType:
    """What there is to try."""
    view = Table(box=None, pad_edge=False)
    for title in ("workload", "what it is", "pods", "loads"):
        view.add_column(title)
    for workload in WORKLOADS.values():
        loads = ", ".join(f"{load:g}" for load in workload.loads)
        view.add_row(workload.name, workload.title, str(workload.pods), f"{loads} {workload.unit}")
    return Group(view, Text(f"\npolicies: {', '.join(POLICIES)}"))
