"""Groups of users with one long system prompt each, as inference-perf's ``shared_prefix``."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sim.engine import EngineConfig
from sim.fleet.prompt import Segment
from sim.fleet.traffic import WARM_UP, Call, Incident, Traffic
from sim.workloads.stages import Stage, StagedTraffic


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefix:
    """``groups`` system prompts with ``users`` questions each.

    Every stage goes through all questions in one shuffled order, again and again, so a question
    comes back after ``groups * users`` requests. With ``fresh`` every question is a new one, and
    only the system prompts repeat.
    """

    name: str
    title: str
    loads: Sequence[float]
    groups: int = 150
    users: int = 5
    prefix_tokens: int = 6000
    question_tokens: int = 1200
    output_tokens: int = 1000
    fresh: bool = False
    warm_up_rate: float = 15.0
    """Every question is asked once at this rate before it counts ..."""
    warm_up_requests: int = 10_000
    """... but not more than so many."""
    seconds: Mapping[float, float] = field(default_factory=dict)
    """How long a load lasts; others last ``default_seconds``."""
    default_seconds: float = 30.0
    pods: int = 8
    slow_pods: int = 0
    """The first so many are slower ..."""
    slowness: float = 1.0
    """... by this factor."""
    happenings: tuple[Incident, ...] = ()
    unit: str = "req/s"

    def traffic(self, load: float, pods: int, rng: random.Random) -> Traffic:
        order = [(group, user) for group in range(self.groups) for user in range(self.users)]
        rng.shuffle(order)
        seconds = self.seconds.get(load, self.default_seconds)
        stages = [
            Stage(WARM_UP, self.warm_up_rate, min(len(order), self.warm_up_requests)),
            Stage(1, load, max(1, round(load * seconds))),
        ]
        total = len(order)

        def make(stage: Stage, number: int) -> Call:
            group, user = order[number % total]
            serial = stage.number * 10_000_000 + number
            question = 1_000_000 + group * self.users + user
            return Call(
                id=f"{stage.number}-{number}",
                prompt=(
                    Segment(group, self.prefix_tokens),
                    Segment(2_000_000 + serial if self.fresh else question, self.question_tokens),
                ),
                output_tokens=self.output_tokens,
                output=100_000_000 + serial,
                stage=stage.number,
            )

        return StagedTraffic(stages, make, rng)

    def engines(self, pods: int, engine: EngineConfig) -> Sequence[EngineConfig]:
        slow = replace(engine, cost=engine.cost.slower(self.slowness))
        return [slow if index < self.slow_pods else engine for index in range(pods)]

    def incidents(self, load: float) -> Sequence[Incident]:
        return self.happenings
