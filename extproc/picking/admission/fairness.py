"""Whose turn it is between the flows of a band.

Fair queueing by virtual time: every request adds what it costs (1, or its tokens) to what its flow
was served, and the flow that was served least is next. This is round robin where requests cost 1,
and the Virtual Token Counter (Sheng et al., OSDI 2024) where they cost tokens.

Both of those forget: they lift a flow that begins to wait to the level of the others, so that who
needs less than its share on the whole, but not in every moment, has each of its bursts served at
the rate of its share. Here it keeps a credit of what it left to others, as far as the band allows
it: it then goes first until that is used up. So its queue time is at most what it would be if its
share of the pool were its own.
"""

from __future__ import annotations

from extproc.picking.admission.flow import Flow
from extproc.picking.admission.heap import Heap


class Turns:
    """Holds the flows that have requests waiting."""

    __slots__ = ("_level", "_waiting")

    def __init__(self) -> None:
        self._waiting: Heap[Flow] = Heap()
        self._level = 0.0
        """Virtual time: what a flow had been served that got neither more nor less than its share.
        It never goes back."""

    def join(self, flow: Flow, credit: float) -> None:
        """Its first request waits. It may be behind the others by so much."""
        level = self._level
        first = self._waiting.first()
        if first is not None and first[0] > level:
            level = first[0]
        # Who was served more than its share keeps that as a debt.
        flow.served = max(flow.served, level - credit)
        flow.place = self._waiting.add(flow.served, flow)

    def leave(self, flow: Flow) -> None:
        """None of its requests waits any more."""
        if flow.place is not None:
            self._waiting.remove(flow.place)
            flow.place = None
        if not self._waiting:
            # Nobody had to wait for what it got last, so it owes that to nobody.
            self._level = max(self._level, flow.served)

    def next(self) -> Flow | None:
        """Who may send a request now."""
        first = self._waiting.first()
        if first is None:
            return None
        self._level = max(self._level, first[0])
        return first[1]

    def serve(self, flow: Flow, cost: float) -> None:
        """It gets so much, or has got so much more than was said before."""
        flow.served += cost
        if flow.place is not None:
            self._waiting.move(flow.place, flow.served)
