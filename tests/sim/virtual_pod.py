"""An engine on a virtual clock: time jumps from event to event."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from sim.cost import CostModel
from sim.engine import Engine, EngineConfig
from sim.events import Decoded, Event, Finished, FirstToken, Preempted, Request

# Numbers that are easy to reckon with; what real hardware takes is calibrated elsewhere.
COST = CostModel(
    prefill_tokens_per_second=20_480.0,
    decode_base_seconds=0.006,
    decode_per_sequence_seconds=0.00035,
    adapter_load_seconds=0.2,
)


class VirtualPod:
    """A pod that takes as long as :data:`COST` says."""

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.engine = Engine(replace(config or EngineConfig(), cost=COST))
        self.now = 0.0
        self.events: list[Event] = []

    def submit(self, *requests: Request) -> None:
        for request in requests:
            self.engine.submit(request, self.now)

    def run(self, until: float = math.inf) -> None:
        """Work until a time, or until there is nothing left to do."""
        while (due := self.engine.next_event_time()) <= until and due < math.inf:
            self._advance(due)
        if until < math.inf:
            self._advance(until)

    def replay(self, arrivals: Iterable[tuple[float, Request]]) -> None:
        """Submit each request at its time, then run dry."""
        for at, request in arrivals:
            self.run(until=at)
            self.submit(request)
        self.run()

    def _advance(self, now: float) -> None:
        self.now = max(self.now, now)
        self.events += self.engine.advance(self.now)

    @property
    def finished(self) -> dict[str, Finished]:
        return {e.request_id: e for e in self.events if isinstance(e, Finished)}

    @property
    def first_tokens(self) -> dict[str, FirstToken]:
        return {e.request_id: e for e in self.events if isinstance(e, FirstToken)}

    @property
    def preempted(self) -> list[str]:
        return [e.request_id for e in self.events if isinstance(e, Preempted)]

    @property
    def tokens_out(self) -> int:
        return len(self.first_tokens) + sum(e.tokens for e in self.events if isinstance(e, Decoded))
