"""Who is told what happens in the picking core: the server hands it to metrics, logs and traces.

The core keeps nothing of this for itself, and needs no clock, log or metrics library for it. Calls
come at once, in the middle of a pick or of its end: they must be quick, and must not call back.
"""

from __future__ import annotations

from typing import Final, Protocol

from extproc.picking.decisions import DecisionRecord
from extproc.picking.endpoint_health import Fault

ADMITTED: Final = "admitted"
"""There was room at once."""
DISPATCHED: Final = "dispatched"
"""It waited, and was served."""
WITHDRAWN: Final = "withdrawn"
"""The client hung up while it waited, or its pick took too long."""


class Observer(Protocol):
    """Is told of decisions and their ends, of endpoints, and of who waits."""

    def decided(self, record: DecisionRecord) -> None:
        """A request is routed, or refused: then it is over with this."""

    def ended(self, record: DecisionRecord) -> None:
        """A routed request is over: ``record.completed`` says how."""

    def expired(self, record: DecisionRecord) -> None:
        """Nobody reported the end of a routed request in time."""

    def ejected(self, endpoint: str, fault: Fault) -> None:
        """An endpoint is taken out of picks."""

    def admission(self, pool: str, priority: int, outcome: str, waited: float | None) -> None:
        """What became of a request where requests may have to wait: one of the above, or the
        reason of its refusal. ``waited``: seconds in the queue; None: it never was there."""

    def failed(self, what: str, pool: str) -> None:
        """Called while the exception is handled: one request of many had this trouble, and the
        others go on."""


class Unobserved:
    """Nobody looks."""

    def decided(self, record: DecisionRecord) -> None: ...

    def ended(self, record: DecisionRecord) -> None: ...

    def expired(self, record: DecisionRecord) -> None: ...

    def ejected(self, endpoint: str, fault: Fault) -> None: ...

    def admission(self, pool: str, priority: int, outcome: str, waited: float | None) -> None: ...

    def failed(self, what: str, pool: str) -> None: ...
