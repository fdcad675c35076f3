"""Requests that come whether or not the ones before were answered, in stages.

As in inference-perf, a stage sends ``rate * duration`` requests at Poisson times and ends when the
last of them is answered; then the next begins after a pause.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sim.fleet.traffic import Arrival, Call


@dataclass(frozen=True, slots=True)
class Stage:
    number: int
    rate: float
    """Requests a second."""
    requests: int


class StagedTraffic:
    """Implements :class:`sim.fleet.traffic.Traffic`. ``make`` builds the n-th call of a stage."""

    def __init__(
        self,
        stages: Sequence[Stage],
        make: Callable[[Stage, int], Call],
        rng: random.Random,
        *,
        pause: float = 1.0,
        drain: bool = True,
    ) -> None:
        """Without ``drain`` each stage follows the one before at once."""
        self._stages = list(stages)
        self._make = make
        self._rng = rng
        self._pause = pause
        self._drain = drain
        self._under_way = 0

    def start(self) -> Iterable[Arrival]:
        arrivals = self._next(0.0)
        while self._stages and not self._drain:
            arrivals += self._next(arrivals[-1][0])
        return arrivals

    def ended(self, call: Call, at: float) -> Iterable[Arrival]:
        self._under_way -= 1
        return () if self._under_way else self._next(at + self._pause)

    def _next(self, begins: float) -> list[Arrival]:
        if not self._stages:
            return []
        stage = self._stages.pop(0)
        self._under_way += stage.requests
        arrivals: list[Arrival] = []
        at = begins
        for number in range(stage.requests):
            at += self._rng.expovariate(stage.rate)
            arrivals.append((at, self._make(stage, number)))
        return arrivals
