"""Which of several replicas writes: the one that holds a Lease (``coordination.k8s.io/v1``).

The rules are those of client-go's leader election. No clock is compared with another machine's: a
lease has expired when its record did not change for its duration, as seen from here. A holder that
could not renew in time stops before anybody else may begin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

DURATION = 15.0
"""Seconds without a renewal after which others may take the lease."""
RENEW = 5.0
"""Seconds between two renewals."""
RENEW_DEADLINE = 10.0
"""Seconds after its last renewal began until a holder no longer acts."""
RETRY = 2.0
"""Seconds between two looks at somebody else's lease, or two tries after a failure."""


@dataclass(frozen=True, slots=True)
class Record:
    """The ``spec`` of a Lease."""

    holder: str
    """Empty: it was given back."""
    duration: float
    acquired: str
    """RFC 3339 with microseconds; for people, like ``renewed``."""
    renewed: str
    transitions: int = 0

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Record:
        """Of whatever is there."""
        duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
        return cls(
            str(spec.get("holderIdentity") or ""),
            float(duration) if isinstance(duration, int) else DURATION,
            str(spec.get("acquireTime") or ""),
            str(spec.get("renewTime") or ""),
            transitions if isinstance(transitions, int) else 0,
        )

    def spec(self) -> dict[str, Any]:
        return {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": max(1, round(self.duration)),
            "acquireTime": self.acquired,
            "renewTime": self.renewed,
            "leaseTransitions": self.transitions,
        }


class Election:
    """One replica's view of a lease. ``identity`` must be unique in every life of a process."""

    def __init__(self, identity: str, duration: float = DURATION) -> None:
        self.identity = identity
        self._duration = duration
        self._seen: tuple[Record, str] | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None

    def leads(self, now: float) -> bool:
        """Whether this replica may act."""
        renewed = self._renewed_at
        return renewed is not None and now < renewed + self._duration * RENEW_DEADLINE / DURATION

    def claim(self, found: Record | None, version: str, now: float, time: str) -> Record | None:
        """What to write, after the lease was read as ``found`` (None: there is none) at resource
        version ``version``; None: it is somebody else's.

        ``time``: the time of day, for the record.
        """
        if found is None:
            return Record(self.identity, self._duration, time, time)
        if self._seen != (found, version):
            self._seen, self._seen_at = (found, version), now
        if found.holder == self.identity:
            return replace(found, duration=self._duration, renewed=time)
        self._renewed_at = None
        if found.holder and now < self._seen_at + found.duration:
            return None
        return Record(self.identity, self._duration, time, time, found.transitions + 1)

    def won(self, began: float) -> None:
        """The claim was written; ``began``: when the lease was asked for."""
        self._renewed_at = began

    def lost(self) -> None:
        """Somebody else wrote first. What failed otherwise may still have been written, and says
        nothing: the deadline of the last renewal holds."""
        self._renewed_at = None

    def release(self, found: Record, time: str) -> Record | None:
        """What to write to give the lease back; None if there is nothing to give."""
        self._renewed_at = None
        if found.holder != self.identity:
            return None
        return replace(found, holder="", duration=1.0, renewed=time)

    def pause(self, now: float, *, failed: bool = False) -> float:
        """Seconds until the lease is to be looked at again. ``failed``: the last look did not
        succeed, so that there is time for more of them before the deadline."""
        if self.leads(now) and not failed:
            return self._duration * RENEW / DURATION
        return self._duration * RETRY / DURATION
