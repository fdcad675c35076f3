"""Many runs: every policy at every load with every seed, on several cores."""

from __future__ import annotations

import math
import multiprocessing
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, fields

from sim.engine import EngineConfig
from sim.fleet.fleet import Fleet, FleetConfig
from sim.fleet.measure import Measures, OfPriority, measure
from sim.fleet.policies import policies
from sim.fleet.traffic import Workload


@dataclass(frozen=True, slots=True)
class Run:
    """One policy at one load with one seed. The seed decides the traffic, which is the same for
    every policy."""

    workload: Workload
    policy: str
    load: float
    seed: int
    pods: int
    engine: EngineConfig = field(default_factory=EngineConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    profiles: str = ""
    """The text of a profiles file, whose profiles are policies too."""


@dataclass(frozen=True, slots=True)
class Result:
    policy: str
    load: float
    seed: int
    measures: Measures
    wall_seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """One number over several seeds."""

    mean: float
    deviation: float
    """The standard deviation between seeds; 0 for one seed."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy at one load, over all seeds."""

    policy: str
    load: float
    results: tuple[Result, ...]

    def estimate(self, name: str) -> Estimate:
        """Of the field of :class:`Measures` of that name."""
        values = [float(getattr(result.measures, name)) for result in self.results]
        values = [value for value in values if not math.isnan(value)]
        if not values:
            return Estimate(math.nan, math.nan)
        return Estimate(statistics.fmean(values), statistics.stdev(values) if values[1:] else 0.0)


def priorities(cell: Cell) -> list[tuple[int, Mapping[str, float]]]:
    """The means over the seeds of each field of :class:`sim.fleet.measure.OfPriority`, highest
    priority first; none where all requests have the same."""
    groups: dict[int, list[OfPriority]] = {}
    for result in cell.results:
        for one in result.measures.priorities:
            groups.setdefault(one.priority, []).append(one)
    return [
        (
            priority,
            {
                f.name: statistics.fmean(getattr(one, f.name) for one in groups[priority])
                for f in fields(OfPriority)
            },
        )
        for priority in sorted(groups, reverse=True)
    ]


NUMBERS = tuple(f.name for f in fields(Measures) if f.name not in ("ttft_quantiles", "priorities"))
"""The names of the single numbers in :class:`Measures`."""


def perform(run: Run) -> Result:
    """Simulate one run."""
    begun = time.perf_counter()
    fleet = Fleet(
        run.workload.engines(run.pods, run.engine),
        policies(run.profiles)[run.policy](),
        run.workload.traffic(run.load, run.pods, random.Random(f"traffic {run.seed} {run.load}")),
        random.Random(f"picks {run.seed}"),
        run.fleet,
        run.workload.incidents(run.load),
    )
    measures = measure(fleet.run())
    return Result(run.policy, run.load, run.seed, measures, time.perf_counter() - begun)


def perform_all(runs: Sequence[Run], processes: int) -> Iterator[Result]:
    """Simulate all, in no order; one after the other where ``processes`` is 1."""
    if processes <= 1 or len(runs) <= 1:
        yield from map(perform, runs)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(min(processes, len(runs)), mp_context=context) as pool:
        futures = [pool.submit(perform, run) for run in runs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def cells(results: Sequence[Result]) -> list[Cell]:
    """By policy (in the order of first appearance) and load, seeds in order."""
    groups: dict[tuple[str, float], list[Result]] = {}
    for result in results:
        groups.setdefault((result.policy, result.load), []).append(result)
    return [
        Cell(policy, load, tuple(sorted(group, key=lambda result: result.seed)))
        for (policy, load), group in groups.items()
    ]
