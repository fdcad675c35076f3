"""Keeping the requests of one session on one endpoint, without a table of sessions.

The endpoint is the one that has the largest hash together with the session's id (rendezvous
hashing). So replicas and restarts agree on it, nothing has to be remembered, and when an endpoint
goes only its own sessions move.
"""

from __future__ import annotations

from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.profile import Filter, SchedulingRequest, Scorer

SESSION_HEADER = "x-session-id"


def session_affinity_filter(header: str = SESSION_HEADER) -> Filter:
    """The session's endpoint; all for a request without a session."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        home = _home(request, candidates, header)
        return candidates if home is None else [candidates[home]]

    return Filter("session-affinity-filter", apply, because=f"the session ({header}) is elsewhere")


def session_affinity(weight: float = 1.0, header: str = SESSION_HEADER) -> Scorer:
    """1 for the session's endpoint, 0 for the others; without a session 0 for all."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        scores = [0.0] * len(candidates)
        home = _home(request, candidates, header)
        if home is not None:
            scores[home] = 1.0
        return scores

    return Scorer("session-affinity-scorer", apply, weight)


def _home(request: SchedulingRequest, candidates: Sequence[Candidate], header: str) -> int | None:
    session = request.request.headers.get(header) if request.request is not None else None
    if not session:
        return None
    seed = xxh3_64_intdigest(session.encode("utf-8", "surrogatepass"))
    weights = [xxh3_64_intdigest(c.key.encode(), seed) for c in candidates]
    return weights.index(max(weights))
