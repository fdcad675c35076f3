"""The requests of one priority that wait for one pool."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from extproc.picking.admission.fairness import Turns
from extproc.picking.admission.flow import Flow
from extproc.picking.admission.rate import Rate
from extproc.picking.admission.settings import BandSettings, Fairness
from extproc.picking.admission.ticket import Ticket

CREDIT_IN_FLIGHT = 2.0
"""What a flow may have left to others and claim back: so many times what the band has in flight,
which takes as many times as long as one request;"""
CREDIT_SECONDS = 5.0
"""but at most what the band is served in so many seconds. For so long, those who have had their
share may have to wait for one who comes back, or is new."""
REMEMBERED = 30.0
"""Seconds that it is remembered what a flow was served which does nothing any more."""
MAX_IDLE_FLOWS = 10_000
"""How many such flows are remembered at most."""


class Band:
    """Flows, and whose turn it is. Names of flows come from clients: those that are idle are soon
    forgotten."""

    __slots__ = (
        "_flows",
        "_idle",
        "_in_flight",
        "_rate",
        "_tokens_in_flight",
        "_turns",
        "priority",
        "requests",
        "settings",
        "size",
    )

    def __init__(self, priority: int, settings: BandSettings) -> None:
        self.priority = priority
        self.settings = settings
        self._turns = Turns()
        self._flows: dict[str, Flow] = {}
        self._idle: OrderedDict[Flow, None] = OrderedDict()
        """Those of them that do not wait and have nothing in flight, the longest idle first."""
        self._in_flight = 0
        """Requests that were dispatched and have not ended."""
        self._tokens_in_flight = 0.0
        """Theirs, as expected."""
        self._rate = Rate()
        """Of what flows are served."""
        self.requests = 0
        """How many wait."""
        self.size = 0
        """Bytes of their bodies."""

    @property
    def flows(self) -> Iterable[Flow]:
        """All that are remembered."""
        return self._flows.values()

    def use(self, settings: BandSettings) -> None:
        """Whoever waits keeps its place, as far as the new order within flows allows."""
        before, self.settings = self.settings, settings
        for flow in self._flows.values():
            flow.use(settings.order)
        if settings.fairness is not before.fairness:
            # What was served is counted in another unit now; all begin anew.
            self._turns, self._rate = Turns(), Rate()
            for flow in self._flows.values():
                flow.served, flow.place = 0.0, None
                if flow:
                    self._turns.join(flow, 0.0)

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
            self._turns.join(flow, self._credit(ticket.arrived))
        flow.add(ticket)
        ticket.queued = True
        self.requests += 1
        self.size += ticket.size

    def remove(self, ticket: Ticket, now: float) -> None:
        """It waits no longer, and is not served either."""
        flow = self._flows[ticket.flow]
        self._take(flow, ticket)
        self._forget(flow, now)

    def next(self) -> Ticket | None:
        """Whose turn it is."""
        flow = self._turns.next()
        return flow.first() if flow is not None else None

    def dispatch(self, ticket: Ticket, now: float) -> Flow:
        """It is served now. Returns its flow, to be told of the end by :meth:`ended`."""
        flow = self._flows[ticket.flow]
        cost = ticket.tokens if self.settings.fairness is Fairness.TOKENS else 1.0
        if len(flow) > 1:
            self._turns.serve(flow, cost)
        else:
            flow.served += cost  # it has no further turn for now
        self._take(flow, ticket)
        self._rate.add(now, cost)
        flow.in_flight += 1
        self._in_flight += 1
        self._tokens_in_flight += ticket.tokens
        return flow

    def ended(self, flow: Flow, tokens: float, correction: float, now: float) -> None:
        """A dispatched request is over, of which so many tokens were expected; it cost so many
        more (or less)."""
        flow.in_flight -= 1
        self._in_flight -= 1
        self._tokens_in_flight = self._tokens_in_flight - tokens if self._in_flight else 0.0
        if correction and self.settings.fairness is Fairness.TOKENS:
            self._turns.serve(flow, correction)
        self._forget(flow, now)

    def newest_of_longest(self) -> Iterator[Ticket]:
        """Of the flow that has most waiting, the request that came last; once that is removed, the
        next."""
        longest = [(-len(flow), n, flow) for n, flow in enumerate(self._flows.values()) if flow]
        heapq.heapify(longest)
        while longest:
            size, n, flow = longest[0]
            yield flow.newest()
            if flow:
                heapq.heapreplace(longest, (size + 1, n, flow))
            else:
                heapq.heappop(longest)

    def _credit(self, now: float) -> float:
        in_flight: float = self._in_flight
        if self.settings.fairness is Fairness.TOKENS:
            in_flight = self._tokens_in_flight
        return min(CREDIT_IN_FLIGHT * in_flight, CREDIT_SECONDS * self._rate.per_second(now))

    def _take(self, flow: Flow, ticket: Ticket) -> None:
        flow.remove(ticket)
        ticket.queued = False
        if not flow:
            self._turns.leave(flow)
        self.requests -= 1
        self.size -= ticket.size

    def _forget(self, flow: Flow, now: float) -> None:
        if flow or flow.in_flight:
            return
        idle = self._idle
        flow.idle_since = now
        idle[flow] = None
        # Two at a time: they cannot come faster than they go.
        for _ in range(2):
            oldest = next(iter(idle), None)
            if oldest is None or (
                len(idle) <= MAX_IDLE_FLOWS and now - oldest.idle_since < REMEMBERED
            ):
                break
            del idle[oldest]
            del self._flows[oldest.name]
