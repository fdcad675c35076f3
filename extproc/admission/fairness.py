"""Whose turn it is between the flows of a band."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from extproc.admission.flow import Flow
from extproc.admission.heap import Heap


class Turns(Protocol):
    """Holds the flows that have requests waiting."""

    def join(self, flow: Flow) -> None:
        """Its first request waits."""

    def leave(self, flow: Flow) -> None:
        """None of its requests waits any more."""

    def next(self) -> Flow | None:
        """Who may send a request now."""

    def served(self, flow: Flow, tokens: float) -> None:
        """One of its requests was dispatched, and will cost so much."""

    def corrected(self, flow: Flow, tokens: float) -> None:
        """So much more (or less, if negative) than was said before."""

    def forgettable(self, flow: Flow) -> bool:
        """Whether nothing is lost if the flow, now idle, is forgotten."""


class RoundRobin:
    """One request of each flow in turn. A flow that begins to wait comes last."""

    __slots__ = ("_ring",)

    def __init__(self) -> None:
        self._ring: OrderedDict[Flow, None] = OrderedDict()

    def join(self, flow: Flow) -> None:
        self._ring[flow] = None

    def leave(self, flow: Flow) -> None:
        del self._ring[flow]

    def next(self) -> Flow | None:
        return next(iter(self._ring), None)

    def served(self, flow: Flow, tokens: float) -> None:
        self._ring.move_to_end(flow)

    def corrected(self, flow: Flow, tokens: float) -> None:
        pass

    def forgettable(self, flow: Flow) -> bool:
        return True


class LeastTokens:
    """The flow that was served the fewest tokens (the Virtual Token Counter: Sheng et al., OSDI
    2024).

    Each dispatch adds the request's tokens to its flow, expected at first and corrected when the
    server has told them. A flow that begins to wait is lifted to the least of those that do, so
    that nobody saves up credit by being idle; what it had beyond that stays, so nobody gets rid of
    a debt either.
    """

    __slots__ = ("_floor", "_waiting")

    def __init__(self) -> None:
        self._waiting: Heap[Flow] = Heap()
        self._floor = 0.0
        """What the last flow to be served, or to leave, had been served: never goes back."""

    def join(self, flow: Flow) -> None:
        first = self._waiting.first()
        floor = max(self._floor, first[0]) if first is not None else self._floor
        flow.tokens = max(flow.tokens, floor)
        flow.place = self._waiting.add(flow.tokens, flow)

    def leave(self, flow: Flow) -> None:
        if flow.place is not None:
            self._waiting.remove(flow.place)
            flow.place = None
        if not self._waiting:
            # Nobody had to wait for what it got last, so it owes that to nobody.
            self._floor = max(self._floor, flow.tokens)

    def next(self) -> Flow | None:
        first = self._waiting.first()
        if first is None:
            return None
        self._floor = max(self._floor, first[0])
        return first[1]

    def served(self, flow: Flow, tokens: float) -> None:
        self.corrected(flow, tokens)

    def corrected(self, flow: Flow, tokens: float) -> None:
        flow.tokens += tokens
        if flow.place is not None:
            self._waiting.remove(flow.place)
            flow.place = self._waiting.add(flow.tokens, flow)

    def forgettable(self, flow: Flow) -> bool:
        return flow.tokens <= self._floor
