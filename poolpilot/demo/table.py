"""The demo's live view: one row for each pod."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from poolpilot.debug import PodRow


def table(rows: Sequence[PodRow]) -> Table:
    """For a terminal."""
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("pod", "address"):
        grid.add_column(heading, no_wrap=True)
    for heading in ("running", "waiting", "KV cache", "picked"):
        grid.add_column(heading, justify="right")
    grid.add_column("adapters")
    for row in rows:
        grid.add_row(
            row.name,
            row.address,
            _count(row.running),
            _count(row.waiting),
            _percent(row.kv_usage),
            str(row.picked),
            ", ".join(row.adapters) or "[dim]-[/dim]",
        )
    return grid


def line(rows: Sequence[PodRow]) -> str:
    """For a log: all pods in one line."""
    return " | ".join(
        f"{row.name} running={_count(row.running)} waiting={_count(row.waiting)}"
        f" kv={_percent(row.kv_usage)} picked={row.picked}"
        f" adapters={','.join(row.adapters) or '-'}"
        for row in rows
    )


def _count(value: int | None) -> str:
    return "?" if value is None else str(value)


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.1%}"
