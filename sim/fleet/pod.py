"""One pod of a simulated fleet."""

from __future__ import annotations

import math

from extproc.picking.scheduling import Adapters, CacheConfig, Signals
from extproc.picking.scheduling.signals import Latency
from pools.model import Endpoint
from sim.engine import Engine, EngineConfig
from sim.fleet.record import PodTotals


class Pod:
    """An engine, where it is reached, and whether it is there at all."""

    def __init__(self, index: int, config: EngineConfig) -> None:
        self.index = index
        self.config = config
        self.totals = PodTotals()
        self._generation = 0
        self._begin()

    def _begin(self) -> None:
        self.engine = Engine(self.config)
        self.alive = True
        self.draining = False
        self.due = math.inf
        """When something next happens in its engine, as far as was foreseen."""
        self._first_tokens = (0, 0.0)
        self._counted = (0, 0)

    @property
    def endpoint(self) -> Endpoint:
        """As the source of Worlds tells of it."""
        index, generation = self.index, self._generation
        return Endpoint(
            f"10.{generation}.{index // 250}.{index % 250 + 1}",
            8000,
            f"pod-{index}-{generation}",
            draining=self.draining,
        )

    def restart(self) -> None:
        """The server starts again, empty, at the same address."""
        self.count()
        self._begin()

    def replace(self) -> None:
        """Another pod takes its place, empty, at another address."""
        self.restart()
        self._generation += 1

    def first_token(self, seconds: float) -> None:
        """A request had to wait so long for its first token."""
        count, total = self._first_tokens
        self._first_tokens = (count + 1, total + seconds)

    def count(self) -> None:
        """Bring the totals up to what the engine has done."""
        loads, preemptions = self.engine.adapters.loads, self.engine.preemptions
        self.totals.adapter_loads += loads - self._counted[0]
        self.totals.preemptions += preemptions - self._counted[1]
        self._counted = (loads, preemptions)

    def signals(self) -> Signals:
        """Its metrics page, now."""
        engine = self.engine
        active = frozenset(engine.adapters.active)
        return Signals(
            waiting=engine.waiting,
            running=engine.running,
            kv_usage=engine.kv_usage,
            adapters=Adapters(
                active, frozenset(engine.waiting_adapters) - active, self.config.max_loras
            ),
            cache=CacheConfig(self.config.block_size, self.config.num_blocks),
            latency=Latency(*self._first_tokens),
        )
