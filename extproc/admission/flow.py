"""The requests of one flow (a tenant, told by ``x-gateway-inference-fairness-id``) in one band."""

from __future__ import annotations

from collections import OrderedDict

from extproc.admission.heap import Entry, Heap
from extproc.admission.settings import Order
from extproc.admission.ticket import Ticket


class Flow:
    """Whoever waits, in the order in which they are served."""

    __slots__ = ("_by_deadline", "_tickets", "in_flight", "name", "place", "tokens")

    def __init__(self, name: str, order: Order) -> None:
        self.name = name
        self._tickets: OrderedDict[Ticket, None] = OrderedDict()
        self._by_deadline = Heap[Ticket]() if order is Order.EARLIEST_DEADLINE else None
        self.in_flight = 0
        """Its requests that were dispatched from the queue and have not ended."""
        self.tokens = 0.0
        """Virtual: what it was served, or would have been had it not been idle."""
        self.place: Entry[Flow] | None = None
        """Among the flows of its band, while it waits for its turn by tokens."""

    def __len__(self) -> int:
        return len(self._tickets)

    def add(self, ticket: Ticket) -> None:
        self._tickets[ticket] = None
        if self._by_deadline is not None:
            ticket.turn = self._by_deadline.add(ticket.deadline, ticket)

    def remove(self, ticket: Ticket) -> None:
        del self._tickets[ticket]
        if self._by_deadline is not None and ticket.turn is not None:
            self._by_deadline.remove(ticket.turn)

    def first(self) -> Ticket:
        """Whose turn it is."""
        if self._by_deadline is not None:
            due = self._by_deadline.first()
            if due is not None:
                return due[1]
        return next(iter(self._tickets))

    def oldest(self) -> Ticket:
        """Who came first."""
        return next(iter(self._tickets))

    def newest(self) -> Ticket:
        """Who came last."""
        return next(reversed(self._tickets))
