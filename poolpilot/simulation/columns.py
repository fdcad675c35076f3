"""The numbers of a simulation that people are shown, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sim.fleet.experiment import Cell


@dataclass(frozen=True, slots=True)
class Column:
    """One number as it is shown."""

    title: str
    name: str
    """The field of :class:`sim.fleet.measure.Measures`."""
    show: Callable[[float], str]
    lower_is_better: bool | None = True
    """None: neither."""


def seconds(value: float) -> str:
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def _milliseconds(value: float) -> str:
    return f"{value * 1000:.1f}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


COLUMNS = (
    Column("TTFT p50", "ttft_p50", seconds),
    Column("p90", "ttft_p90", seconds),
    Column("p99", "ttft_p99", seconds),
    Column("NTPOT p50 ms", "ntpot_p50", _milliseconds),
    Column("ITL ms", "itl_mean", _milliseconds),
    Column("e2e p50", "latency_p50", seconds),
    Column("p99", "latency_p99", seconds),
    Column("out tok/s", "output_tokens_per_second", _count, lower_is_better=False),
    Column("steady", "steady_tokens_per_second", _count, lower_is_better=False),
    Column("hit rate", "hit_rate", lambda value: f"{value:.0%}", lower_is_better=False),
    Column("spread", "spread", lambda value: f"{value:.2f}"),
    Column("loads/s", "adapter_loads_per_second", lambda value: f"{value:.2f}"),
    Column("refused", "refused", _count),
    Column("cut", "cut", _count, lower_is_better=None),
    Column("lost", "lost", _count),
)
_ONLY_IF_ANY = {"adapter_loads_per_second", "refused", "cut", "lost"}


def shown(grid: Sequence[Cell]) -> list[Column]:
    """The columns that say something about these results."""
    return [
        column
        for column in COLUMNS
        if column.name not in _ONLY_IF_ANY or any(cell.estimate(column.name).mean for cell in grid)
    ]


def best(column: Column, row: Sequence[Cell]) -> float:
    """The best mean; NaN where there is nothing to choose."""
    means = [cell.estimate(column.name).mean for cell in row]
    means = [mean for mean in means if not math.isnan(mean)]
    if len(means) < 2 or column.lower_is_better is None:
        return math.nan
    return min(means) if column.lower_is_better else max(means)
