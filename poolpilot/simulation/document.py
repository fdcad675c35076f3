"""What simulations gave, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sim.fleet.experiment import NUMBERS, Cell, Run
from sim.fleet.traffic import Workload


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
                        "priorities": [
                            {name: _number(value) for name, value in asdict(one).items()}
                            for one in result.measures.priorities
                        ],
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
