"""What became of the requests of one run."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field

from extproc.reasons import Reason
from sim.fleet.traffic import Call


class Outcome(enum.StrEnum):
    OK = "ok"
    REFUSED = "refused"
    """The picker said no: shed, or it found no place in the queue or waited there for too long."""
    CUT = "cut"
    """Its pod died when the answer had begun: no retry can save that."""
    LOST = "lost"
    """No pod that was tried took it."""
    ABORTED = "aborted"
    """The client hung up."""
    TOO_LONG = "too-long"
    """No pod's KV cache could ever hold it."""


class Record:
    """One request, from its arrival on. Times are seconds of the run."""

    __slots__ = (
        "arrived",
        "cached",
        "call",
        "ended",
        "first_token",
        "outcome",
        "pod",
        "refused",
        "tries",
    )

    def __init__(self, call: Call, arrived: float) -> None:
        self.call = call
        self.arrived = arrived
        self.first_token: float | None = None
        self.ended: float | None = None
        self.cached = 0
        """Prompt tokens that were not computed."""
        self.pod = -1
        """Who served it last."""
        self.tries = 0
        self.outcome: Outcome | None = None
        self.refused: Reason | None = None
        """Why the picker said no, if it did."""


@dataclass(slots=True)
class PodTotals:
    """One pod over the measured part of a run."""

    requests: int = 0
    in_flight_seconds: float = 0.0
    """The sum over its requests of the time each was there."""
    adapter_loads: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class Trace:
    """One run."""

    records: list[Record] = field(default_factory=list)
    pods: list[PodTotals] = field(default_factory=list)
    intervals: Counter[float] = field(default_factory=Counter)
    """Decoded tokens by the seconds since the token before, in measured time."""
    left_in_flight: int = 0
    """What the counters of the picker still held when all was over; anything but 0 is a leak."""
