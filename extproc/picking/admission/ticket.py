"""A request that waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from extproc.picking.admission.heap import Entry
from extproc.request import InferenceRequest, Outcome


@dataclass(slots=True, eq=False)
class Ticket:
    """One request in a queue, and then under way."""

    request: InferenceRequest
    answer: Callable[[Outcome], None]
    priority: int
    flow: str
    """Whose it is."""
    input_tokens: float
    output_tokens: float
    """Expected, both."""
    tokens: float
    """What serving it is expected to cost its flow, where tokens count."""
    arrived: float
    asked: float | None
    """Seconds that the client is ready to wait, if it says so."""
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
