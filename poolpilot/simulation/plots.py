"""The charts as PNG files, for slides and tickets. Needs matplotlib (the extra ``plots``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from poolpilot.errors import PoolPilotError
from poolpilot.simulation.chart import Axis
from poolpilot.simulation.charts import Chart, charts
from pools.extras import install_command
from sim.fleet.experiment import Cell
from sim.fleet.traffic import Workload


def prepare_plots(directory: Path) -> None:
    """What can be missing is missed before anything runs. PoolPilotError without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise PoolPilotError(
            f"--plots needs matplotlib: {install_command('plots')} (--html needs nothing)"
        ) from None
    mpl.use("Agg")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PoolPilotError(f"--plots: {error}") from None


def write_plots(workload: Workload, grid: Sequence[Cell], directory: Path) -> list[Path]:
    """One file a chart, in a directory for which prepare_plots was called."""
    paths = []
    for chart in charts(workload, grid):
        path = directory / f"{workload.name}-{chart.name}.png"
        _write(chart, path)
        paths.append(path)
    return paths


def _write(chart: Chart, path: Path) -> None:
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=150, layout="constrained")
    for line in chart.lines:
        xs = [point.x for point in line.points]
        marker = "o" if len(xs) <= 30 else ""
        (drawn,) = axes.plot(
            xs, [p.y for p in line.points], label=line.name, marker=marker, markersize=4
        )
        axes.fill_between(
            xs,
            [p.low for p in line.points],
            [p.high for p in line.points],
            color=drawn.get_color(),
            alpha=0.15,
        )

    def formatter(axis: Axis) -> FuncFormatter:
        return FuncFormatter(lambda value, _: axis.show(value))

    for axis, side, scale in (
        (chart.x, axes.xaxis, axes.set_xscale),
        (chart.y, axes.yaxis, axes.set_yscale),
    ):
        if axis.logarithmic:
            scale("log")
            side.set_minor_formatter(NullFormatter())
        side.set_major_formatter(formatter(axis))
    if not chart.y.logarithmic:
        axes.set_ylim(bottom=0)
    axes.set_title(chart.title, loc="left", fontsize=11)
    axes.set_xlabel(chart.x.label)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)
