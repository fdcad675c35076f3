"""A request that waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from extproc.admission.heap import Entry
from extproc.request import InferenceRequest, Outcome


@dataclass(slots=True, eq=False)
class Ticket:
    """One request in a queue."""

    request: InferenceRequest
    answer: Callable[[Outcome], None]
    priority: int
    flow: str
    """Whose it is."""
    tokens: float
    """What serving it is expected to cost its flow."""
    arrived: float
    deadline: float
    """When it has waited for too long."""
    queued: bool = False
    expiry: Entry[Ticket] | None = None
    """Its place in the order of deadlines of the pool."""
    turn: Entry[Ticket] | None = None
    """Its place in the flow, where that goes by deadlines."""

    @property
    def size(self) -> int:
        """Bytes that its body keeps in memory."""
        return len(self.request.body)
