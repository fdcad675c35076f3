"""Requests that have nothing to do with one another, but for a system prompt or an adapter."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from sim.engine import EngineConfig
from sim.fleet.prompt import Segment
from sim.fleet.traffic import WARM_UP, Call, Incident, Traffic
from sim.workloads.lengths import Spread
from sim.workloads.stages import Stage, StagedTraffic


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleTurns:
    """Poisson arrivals of questions that nobody asked before."""

    name: str
    title: str
    loads: Sequence[float]
    question: Spread
    output: Spread
    shared_tokens: int = 0
    """A system prompt that all have in common."""
    adapters: int = 0
    """LoRA adapters; each request is for one of them. 0: all are for the base model."""
    zipf: float = 0.0
    """The n-th adapter is asked for in proportion to ``n ** -zipf``."""
    objectives: Mapping[str, float] = field(default_factory=dict)
    """Which share of the requests names which objective; none: none does."""
    seconds: float = 120.0
    warm_up: float = 20.0
    """Seconds, at the same load, that do not count."""
    burst: bool = False
    """All at once instead; the load is their number, and nothing came before."""
    slow_pods: int = 0
    """The first so many pods are slower ..."""
    slowness: float = 1.0
    """... by this factor."""
    happenings: tuple[Incident, ...] = ()
    pods: int = 8
    unit: str = "req/s"

    def traffic(self, load: float, pods: int, rng: random.Random) -> Traffic:
        names = [f"adapter-{number}" for number in range(self.adapters)]
        weights = list(accumulate((n + 1) ** -self.zipf for n in range(self.adapters)))

        objectives, shares = list(self.objectives), list(self.objectives.values())

        def make(stage: Stage, number: int) -> Call:
            serial = 10 + stage.number * 10_000_000 + number
            prompt = (Segment(1, self.shared_tokens), Segment(serial, self.question.count(rng)))
            return Call(
                id=f"{stage.number}-{number}",
                prompt=tuple(segment for segment in prompt if segment.tokens),
                output_tokens=self.output.count(rng),
                output=100_000_000 + serial,
                stage=stage.number,
                adapter=rng.choices(names, cum_weights=weights)[0] if names else None,
                objective=rng.choices(objectives, shares)[0] if objectives else "",
            )

        if self.burst:
            return StagedTraffic([Stage(1, 1e9, round(load))], make, rng)
        stages = [
            Stage(WARM_UP, load, max(1, round(load * self.warm_up))),
            Stage(1, load, max(1, round(load * self.seconds))),
        ]
        return StagedTraffic(stages, make, rng, drain=False)

    def engines(self, pods: int, engine: EngineConfig) -> Sequence[EngineConfig]:
        slow = replace(engine, cost=engine.cost.slower(self.slowness))
        return [slow if index < self.slow_pods else engine for index in range(pods)]

    def incidents(self, load: float) -> Sequence[Incident]:
        return self.happenings
