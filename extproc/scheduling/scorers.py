"""The scorers: one number between 0 and 1 for each candidate, higher is better."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.scheduling.candidate import Candidate
from extproc.scheduling.profile import SchedulingRequest, Scorer


def fewest_in_flight(weight: float = 1.0) -> Scorer:
    """``1 / (1 + requests in flight)``, counted here: needs no metrics of the server."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [1.0 / (1 + c.in_flight) for c in candidates]

    return Scorer("fewest-in-flight", apply, weight)
