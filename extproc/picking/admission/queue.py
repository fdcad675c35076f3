"""All requests that wait for one pool, and which of them is next.

Bands are served in strict priority: the next request is of the highest band in which anybody waits,
and if that band has to wait for room, so do all below it.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from extproc.picking.admission.band import Band
from extproc.picking.admission.flow import Flow
from extproc.picking.admission.heap import Heap
from extproc.picking.admission.rate import Rate
from extproc.picking.admission.settings import AdmissionSettings
from extproc.picking.admission.ticket import Ticket

LEAST_RETRY, MOST_RETRY, UNKNOWN_RETRY = 1.0, 60.0, 5.0
"""Seconds in Retry-After: the bounds, and where nothing has ended yet to tell the rate from."""


@dataclass(slots=True)
class Usage:
    """What waits in all pools together."""

    requests: int = 0
    size: int = 0
    """Bytes of bodies."""


class PoolQueue:
    """Adding and taking is O(log n) in the requests that wait; withdrawing O(1)."""

    def __init__(self, settings: AdmissionSettings, usage: Usage) -> None:
        """``usage`` is shared by the queues of all pools."""
        self._settings = settings
        self._usage = usage
        self._bands: dict[int, Band] = {}
        self._priorities: list[int] = []
        """Of the bands, negated, so that the highest comes first."""
        self._arrived: OrderedDict[Ticket, None] = OrderedDict()
        self._deadlines: Heap[Ticket] = Heap()
        self.ends = Rate()
        """Of requests, however they began."""

    def __len__(self) -> int:
        return len(self._arrived)

    @property
    def size(self) -> int:
        """Bytes of bodies that wait."""
        return sum(band.size for band in self._bands.values())

    def bands(self) -> Iterator[Band]:
        """Highest first."""
        for negated in self._priorities:
            yield self._bands[-negated]

    def limit(self, priority: int) -> float:
        """The saturation at which requests of this priority have to wait."""
        return self._settings.band(priority).ceiling * (1 + self._settings.headroom)

    def waiting_before(self, priority: int) -> int:
        """How many are served before a request of this priority that comes now."""
        return sum(band.requests for band in self.bands() if band.priority >= priority)

    def use(self, settings: AdmissionSettings) -> None:
        """Limits are for those who come from now on. Whoever waits keeps its place, and may wait
        for as long as is allowed now."""
        self._settings = settings
        self._deadlines = Heap()
        for ticket in self._arrived:
            ticket.deadline = settings.deadline(ticket.priority, ticket.arrived, ticket.asked)
            ticket.expiry = self._deadlines.add(ticket.deadline, ticket)
        for band in self.bands():
            band.use(settings.band(band.priority))

    # In

    def make_room(self, ticket: Ticket, now: float) -> list[Ticket]:
        """Where the limits on everything are reached, take out requests of lower bands until this
        one fits: the lowest band first, of its longest flow whoever came last. None if that is not
        enough. They are to be refused."""
        band = self._band(ticket.priority)
        if not band.fits(ticket) or self._fits(ticket):
            return []
        below = [b for b in self.bands() if b.priority < ticket.priority]
        usage, settings = self._usage, self._settings
        surplus = usage.requests + 1 - settings.max_requests
        bytes_surplus = usage.size + ticket.size - settings.max_bytes
        if sum(b.requests for b in below) < surplus or sum(b.size for b in below) < bytes_surplus:
            return []
        out: list[Ticket] = []
        for lowest in reversed(below):
            for victim in lowest.newest_of_longest():
                if self._fits(ticket):
                    return out
                self.remove(victim, now)
                out.append(victim)
        return out

    def add(self, ticket: Ticket) -> bool:
        """False: there is no room for it."""
        band = self._band(ticket.priority)
        if not band.fits(ticket) or not self._fits(ticket):
            return False
        band.add(ticket)
        self._arrived[ticket] = None
        ticket.expiry = self._deadlines.add(ticket.deadline, ticket)
        self._usage.requests += 1
        self._usage.size += ticket.size
        return True

    # Out

    def next(self, saturation: float) -> Ticket | None:
        """Whose turn it is, if there is room for it."""
        for band in self.bands():
            if band.requests:
                return band.next() if saturation < self.limit(band.priority) else None
        return None

    def dispatch(self, ticket: Ticket, now: float) -> tuple[Band, Flow]:
        """It is served now. Returns who is to be told of its end."""
        band = self._bands[ticket.priority]
        flow = band.dispatch(ticket, now)
        self._left(ticket)
        return band, flow

    def remove(self, ticket: Ticket, now: float) -> None:
        """It waits no longer, and is not served."""
        self._bands[ticket.priority].remove(ticket, now)
        self._left(ticket)

    def pop_late(self, now: float) -> list[Ticket]:
        """Those that have waited for too long, in the order of their deadlines."""
        late: list[Ticket] = []
        while (first := self._deadlines.first()) is not None and first[0] <= now:
            self.remove(first[1], now)
            late.append(first[1])
        return late

    def pop_arrived_before(self, moment: float, now: float) -> list[Ticket]:
        """Those that arrived at this moment or earlier, in that order."""
        popped: list[Ticket] = []
        while (first := next(iter(self._arrived), None)) is not None and first.arrived <= moment:
            self.remove(first, now)
            popped.append(first)
        return popped

    def pop_all(self, now: float) -> list[Ticket]:
        return self.pop_arrived_before(math.inf, now)

    def retry_after(self, ahead: int, now: float) -> float:
        """Seconds until so many requests will have ended, at the present rate."""
        rate = self.ends.per_second(now)
        if rate * MOST_RETRY < 1:
            return UNKNOWN_RETRY
        return min(MOST_RETRY, max(LEAST_RETRY, ahead / rate))

    def _fits(self, ticket: Ticket) -> bool:
        usage, settings = self._usage, self._settings
        return (
            usage.requests < settings.max_requests
            and usage.size + ticket.size <= settings.max_bytes
        )

    def _band(self, priority: int) -> Band:
        band = self._bands.get(priority)
        if band is None:
            band = self._bands[priority] = Band(priority, self._settings.band(priority))
            insort(self._priorities, -priority)
        return band

    def _left(self, ticket: Ticket) -> None:
        del self._arrived[ticket]
        if ticket.expiry is not None:
            self._deadlines.remove(ticket.expiry)
        self._usage.requests -= 1
        self._usage.size -= ticket.size
