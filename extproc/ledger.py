"""Which requests are under way, by pick.

A pick charges its endpoint at once, in the same call, so the next pick already sees it. The charge
is settled when Envoy reports how the request ended, or after ``expiry`` seconds if nobody ever
does. Either way it is settled once, so the counts of every endpoint always come back to zero.
"""

from __future__ import annotations

import msgspec

from extproc.decisions import DecisionRecord
from extproc.scheduling.load import Charge, Load


class OpenRequest(msgspec.Struct, eq=False):
    """A request that was sent and has not ended."""

    decision: DecisionRecord
    charges: tuple[Charge, ...]
    """The pick's, and that of the endpoint that prefills for it, if another does."""


class Ledger:
    """All open requests, oldest first.

    At most ``limit`` are kept, about 1 KB each and 8 bytes for each block of the prompt: where
    nobody reports the ends of requests, the oldest expire early rather than fill the memory.
    """

    def __init__(self, load: Load, expiry: float, limit: int = 100_000) -> None:
        if expiry <= 0:
            raise ValueError("the ledger's expiry must be greater than 0 seconds")
        self._load = load
        self._expiry = expiry
        self._limit = limit
        self._open: dict[str, OpenRequest] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, decision: DecisionRecord, *charges: Charge) -> None:
        """Keep the charges until the pick is settled. The first is the pick's. Times of charges
        must not go backwards."""
        self._open[decision.id] = OpenRequest(decision, charges)

    def settle(self, pick_id: str, *, answered: bool = True) -> OpenRequest | None:
        """Count a request out. None if it is not open: unknown, repeated or expired."""
        request = self._open.pop(pick_id, None)
        if request is not None:
            for charge in request.charges:
                self._load.end(charge, answered=answered)
        return request

    def expire(self, now: float) -> list[OpenRequest]:
        """Settle what is older than the expiry, or beyond the limit. To be called now and then."""
        surplus = len(self._open) - self._limit
        expired: list[OpenRequest] = []
        for request in self._open.values():
            if now - request.charges[0].at < self._expiry and len(expired) >= surplus:
                break
            expired.append(request)
        for request in expired:
            self.settle(request.decision.id, answered=False)
        return expired
