"""What simulations gave, as one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from poolpilot.simulation.chart import line_chart
from poolpilot.simulation.charts import charts
from poolpilot.simulation.columns import Column, best, shown
from sim.fleet.experiment import Cell, Run
from sim.fleet.traffic import Workload

_LIGHT = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#db2777", "#65a30d")
_DARK = ("#60a5fa", "#fbbf24", "#34d399", "#f87171", "#a78bfa", "#22d3ee", "#f472b6", "#a3e635")

_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--card:#fff;--ink:#16202e;--soft:#5b6776;
--rule:#e3e7ed;--best:#eaf6ef}
@media(prefers-color-scheme:dark){:root{--ground:#0f141b;--card:#161d27;--ink:#e6ebf2;
--soft:#93a0b1;--rule:#283241;--best:#15312a}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1240px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:16px;margin:0 0 2px}
p{margin:0 0 8px;color:var(--soft)}
.legend{display:flex;flex-wrap:wrap;gap:6px 20px;margin:20px 0 16px;padding:0;list-style:none;
font-weight:600}
.legend i{display:inline-block;width:14px;height:14px;border-radius:4px;margin-right:8px;
vertical-align:-2px;background:currentColor}
.legend span{color:var(--ink)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px}
figure{margin:0;padding:16px 16px 8px;border:1px solid var(--rule);border-radius:12px;
background:var(--card)}
figure p{font-size:13px}
svg{display:block;width:100%;height:auto}
svg .grid{stroke:var(--rule)}svg .axis{stroke:var(--soft)}
svg .tick{fill:var(--soft);font-size:12px;font-variant-numeric:tabular-nums}
svg .line{fill:none;stroke:currentColor;stroke-width:2.2;stroke-linejoin:round}
svg .band{fill:currentColor;opacity:.15}svg circle{fill:currentColor}
.scroll{overflow-x:auto;margin-top:32px;border:1px solid var(--rule);border-radius:12px;
background:var(--card)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:6px 12px;text-align:right;white-space:nowrap}
th{color:var(--soft);font-weight:600;border-bottom:1px solid var(--rule)}
td:nth-child(2),th:nth-child(2){text-align:left}
tr.first td{border-top:1px solid var(--rule)}
td.best{background:var(--best);font-weight:650}
small{color:var(--soft);font-weight:400}
footer{margin-top:24px;font-size:13px;color:var(--soft)}
"""


def page(workload: Workload, run: Run, grid: Sequence[Cell]) -> str:
    """The whole document."""
    policies = list(dict.fromkeys(cell.policy for cell in grid))
    figures = "".join(
        f"<figure><h2>{escape(chart.title)}</h2><p>{escape(chart.note)}</p>"
        f"{line_chart(chart.lines, chart.x, chart.y)}</figure>"
        for chart in charts(workload, grid)
    )
    legend = "".join(
        f'<li class="c{number}"><i></i><span>{escape(policy)}</span></li>'
        for number, policy in enumerate(policies)
    )
    seeds = max(len(cell.results) for cell in grid)
    cost = run.engine.cost
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{escape(workload.name)}: policies compared</title>
<style>{_STYLE}{_colours(len(policies))}</style></head>
<body><main>
<h1>{escape(workload.name)}: policies compared</h1>
<p>{escape(workload.title)}. {run.pods} simulated pods, {seeds} {"seed" if seeds == 1 else "seeds"}.
{"Bands and ± show how far seeds are apart." if seeds > 1 else ""}</p>
<ul class="legend">{legend}</ul>
<div class="charts">{figures}</div>
<div class="scroll">{_table(workload, grid)}</div>
<footer>poolpilot simulate {escape(workload.name)} · a pod computes
{cost.prefill_tokens_per_second:,.0f} prompt tokens a second, a decode step takes
{cost.decode_base_seconds * 1000:g} ms and {cost.decode_per_sequence_seconds * 1000:g} ms for each
sequence, its KV cache holds {run.engine.kv_cache_tokens:,} tokens.</footer>
</main></body></html>
"""


def _colours(count: int) -> str:
    def rules(palette: Sequence[str]) -> str:
        return "".join(f".c{n}{{color:{palette[n % len(palette)]}}}" for n in range(count))

    return f"{rules(_LIGHT)}@media(prefers-color-scheme:dark){{{rules(_DARK)}}}"


def _table(workload: Workload, grid: Sequence[Cell]) -> str:
    columns = shown(grid)
    head = "".join(f"<th>{escape(column.title)}</th>" for column in columns)
    rows = []
    for load in dict.fromkeys(cell.load for cell in grid):
        row = [cell for cell in grid if cell.load == load]
        bests = {column.name: best(column, row) for column in columns}
        for cell in row:
            first = cell is row[0]
            rows.append(
                f"<tr{' class=first' if first else ''}><td>{f'{load:g}' if first else ''}</td>"
                f"<td>{escape(cell.policy)}</td>"
                + "".join(_entry(column, cell, bests[column.name]) for column in columns)
                + "</tr>"
            )
    return (
        f"<table><thead><tr><th>{escape(workload.unit)}</th><th>policy</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _entry(column: Column, cell: Cell, best_mean: float) -> str:
    estimate = cell.estimate(column.name)
    if math.isnan(estimate.mean):
        return "<td><small>-</small></td>"
    mark = " class=best" if estimate.mean == best_mean else ""
    small = ""
    if cell.results[1:] and estimate.deviation > 0.005 * abs(estimate.mean):
        small = f" <small>±{estimate.deviation / abs(estimate.mean):.0%}</small>"
    return f"<td{mark}>{escape(column.show(estimate.mean))}{small}</td>"
