"""The requests of one flow (a tenant, told by ``x-gateway-inference-fairness-id``) in one band."""

from __future__ import annotations

from collections import OrderedDict

from extproc.picking.admission.heap import Entry, Heap
from extproc.picking.admission.settings import Order
from extproc.picking.admission.ticket import Ticket


class Flow:
    """Whoever waits, in the order in which they are served."""

    __slots__ = ("_by_deadline", "_tickets", "idle_since", "in_flight", "name", "place", "served")

    def __init__(self, name: str, order: Order) -> None:
        self.name = name
        self._tickets: OrderedDict[Ticket, None] = OrderedDict()
        self._by_deadline: Heap[Ticket] | None = None
        self.in_flight = 0
        """Its requests that were dispatched from the queue and have not ended."""
        self.served = 0.0
        """Virtual: requests or tokens that it got, or would have got had it not been idle."""
        self.place: Entry[Flow] | None = None
        """Among the flows of its band, while it waits for its turn."""
        self.idle_since = 0.0
        """While it neither waits nor has anything in flight."""
        self.use(order)

    def __len__(self) -> int:
        return len(self._tickets)

    def use(self, order: Order) -> None:
        """Serve in this order from now on."""
        if order is not Order.EARLIEST_DEADLINE:
            self._by_deadline = None
            return
        self._by_deadline = Heap()
        for ticket in self._tickets:
            ticket.turn = self._by_deadline.add(ticket.deadline, ticket)

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
