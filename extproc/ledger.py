"""Which requests are under way, and on which endpoint.

A pick charges its endpoint at once, in the same call, so the next pick already sees it. The charge
is settled when Envoy reports how the request ended, or after ``expiry`` seconds if nobody ever
does. Either way it is settled once, so the counts of every endpoint always come back to zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from extproc.decisions import DecisionRecord
from extproc.scheduling.candidate import Candidate


@dataclass(frozen=True, slots=True)
class Charge:
    """One open request."""

    decision: DecisionRecord
    candidate: Candidate
    """The first endpoint of the pick, which is the one that was charged."""
    epoch: int
    tokens: int
    at: float


class Ledger:
    """All open charges, oldest first.

    At most ``limit`` are kept, about 1 KB each: where nobody reports the ends of requests, the
    oldest expire early rather than fill the memory.
    """

    def __init__(self, expiry: float, limit: int = 100_000) -> None:
        if expiry <= 0:
            raise ValueError("the ledger's expiry must be greater than 0 seconds")
        self._expiry = expiry
        self._limit = limit
        self._open: dict[str, Charge] = {}

    def __len__(self) -> int:
        return len(self._open)

    def charge(
        self, decision: DecisionRecord, candidate: Candidate, tokens: int, now: float
    ) -> None:
        """Count a request in. ``now`` must not go backwards."""
        epoch = candidate.charge(tokens)
        self._open[decision.id] = Charge(decision, candidate, epoch, tokens, now)

    def settle(self, pick_id: str) -> Charge | None:
        """Count a request out. None if it is not open: unknown, repeated or expired."""
        charge = self._open.pop(pick_id, None)
        if charge is not None:
            charge.candidate.release(charge.epoch, charge.tokens)
        return charge

    def expire(self, now: float) -> list[Charge]:
        """Settle what is older than the expiry, or beyond the limit. To be called now and then."""
        surplus = len(self._open) - self._limit
        expired: list[Charge] = []
        for charge in self._open.values():
            if now - charge.at < self._expiry and len(expired) >= surplus:
                break
            expired.append(charge)
        for charge in expired:
            self.settle(charge.decision.id)
        return expired
