"""Which requests are under way, by pick.

A pick charges its endpoint at once, in the same call, so the next pick already sees it. The charge
is settled when Envoy reports how the request ended, or after ``expiry`` seconds if nobody ever
does. Either way it is settled once, so the counts of every endpoint always come back to zero.
"""

from __future__ import annotations

from extproc.picking.decisions import DecisionRecord
from extproc.picking.scheduling.load import Charge, Load


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
        self._open: dict[str, DecisionRecord] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, record: DecisionRecord, charges: tuple[Charge, ...]) -> None:
        """Keep the charges until the pick is settled. The first is the pick's. Times of charges
        must not go backwards."""
        record.charges = charges
        self._open[record.id] = record

    def settle(self, pick_id: str, *, answered: bool = True) -> DecisionRecord | None:
        """Count a request out. None if it is not open: unknown, repeated or expired."""
        record = self._open.pop(pick_id, None)
        if record is not None:
            for charge in record.charges:
                self._load.end(charge, answered=answered)
        return record

    def expire(self, now: float) -> list[DecisionRecord]:
        """Settle what is older than the expiry, or beyond the limit. To be called now and then."""
        surplus = len(self._open) - self._limit
        expired: list[DecisionRecord] = []
        for record in self._open.values():
            if now - record.charges[0].at < self._expiry and len(expired) >= surplus:
                break
            expired.append(record)
        for record in expired:
            self.settle(record.id, answered=False)
        return expired
