"""The requests of one priority that wait for one pool."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from extproc.admission.fairness import LeastTokens, RoundRobin, Turns
from extproc.admission.flow import Flow
from extproc.admission.settings import BandSettings, Fairness
from extproc.admission.ticket import Ticket

MAX_IDLE_FLOWS = 10_000
"""Flows that do not wait, of which it is remembered what they were served."""


class Band:
    """Flows, and whose turn it is. Names of flows come from clients: those that neither wait nor
    owe anything are forgotten."""

    __slots__ = ("_flows", "_idle", "_turns", "priority", "requests", "settings", "size")

    def __init__(self, priority: int, settings: BandSettings) -> None:
        self.priority = priority
        self.settings = settings
        self._turns: Turns = LeastTokens() if settings.fairness is Fairness.TOKENS else RoundRobin()
        self._flows: dict[str, Flow] = {}
        self._idle: OrderedDict[Flow, None] = OrderedDict()
        """Those of them that do not wait and have nothing in flight."""
        self.requests = 0
        """How many wait."""
        self.size = 0
        """Bytes of their bodies."""

    @property
    def flows(self) -> Iterable[Flow]:
        """All that are remembered."""
        return self._flows.values()

    def fits(self, ticket: Ticket) -> bool:
        settings = self.settings
        return (
            self.requests < settings.max_requests and self.size + ticket.size <= settings.max_bytes
        )

    def add(self, ticket: Ticket) -> None:
        flow = self._flows.get(ticket.flow)
        if flow is None:
            flow = self._flows[ticket.flow] = Flow(ticket.flow, self.settings.order)
        self._idle.pop(flow, None)
        if not flow:
            self._turns.join(flow)
        flow.add(ticket)
        ticket.queued = True
        self.requests += 1
        self.size += ticket.size

    def remove(self, ticket: Ticket) -> None:
        """It waits no longer, and is not served either."""
        flow = self._flows[ticket.flow]
        self._take(flow, ticket)
        self._forget(flow)

    def next(self) -> Ticket | None:
        """Whose turn it is."""
        flow = self._turns.next()
        return flow.first() if flow is not None else None

    def dispatch(self, ticket: Ticket) -> Flow:
        """It is served now. Returns its flow, to be told of the end by :meth:`ended`."""
        flow = self._flows[ticket.flow]
        self._turns.served(flow, ticket.tokens)
        flow.in_flight += 1
        self._take(flow, ticket)
        return flow

    def ended(self, flow: Flow, correction: float) -> None:
        """A dispatched request is over; it cost so many tokens more (or less) than expected."""
        flow.in_flight -= 1
        if correction:
            self._turns.corrected(flow, correction)
        self._forget(flow)

    def newest_of_longest(self) -> Ticket | None:
        """Of the flow that has most waiting, the request that came last."""
        longest = max(self._flows.values(), key=len, default=None)
        return longest.newest() if longest else None

    def _take(self, flow: Flow, ticket: Ticket) -> None:
        flow.remove(ticket)
        ticket.queued = False
        if not flow:
            self._turns.leave(flow)
        self.requests -= 1
        self.size -= ticket.size

    def _forget(self, flow: Flow) -> None:
        if flow or flow.in_flight:
            return
        idle = self._idle
        idle[flow] = None
        # A few at a time, the longest idle first: each comes to its turn.
        for _ in range(2):
            oldest = next(iter(idle), None)
            if oldest is None:
                break
            idle.move_to_end(oldest)
            if len(idle) > MAX_IDLE_FLOWS or self._turns.forgettable(oldest):
                del idle[oldest]
                del self._flows[oldest.name]
