"""Whether an engine works on what it was sent.

A model server may answer its metrics while its engine does nothing: it compiles, hangs, or was
stopped. What it was sent hangs then, and by its numbers it is the idlest of all. Pure: time is
passed in.
"""

from __future__ import annotations

from extproc.picking.scheduling.signals import Signals

STALLED_AFTER = 5.0
"""Seconds without a sign of work, while there is some. A step of an engine takes less than one."""
TRY_AFTER = 10.0
"""Seconds until one that stalled and has nothing left to do may be tried again; doubles with each
time that it is in vain ..."""
TRY_AFTER_AT_MOST = 120.0
"""... up to so many."""


class Progress:
    """Of one endpoint."""

    __slots__ = ("_moved", "_picked", "_seen", "_tries", "_until", "stalled")

    def __init__(self) -> None:
        self._seen: object = None
        """What its numbers were."""
        self._moved: float | None = None
        """When they last changed, or had no reason to."""
        self._picked = 0
        """Requests it had been sent by then."""
        self._tries = 0
        self._until = 0.0
        self.stalled = False

    def observe(self, sample: Signals, in_flight: int, picked: int, now: float) -> bool:
        """The scrape that began at ``now`` gave ``sample``; ``in_flight`` of the ``picked``
        requests that were ever sent there from here are under way. Returns whether it has just
        stalled."""
        seen = (sample.running, sample.waiting, sample.kv_usage, sample.progress)
        if sample.progress is None or seen != self._seen:
            self._seen = seen
            self.worked(picked, now)
            return False
        if not in_flight:
            # It has nothing to show for itself, until it is tried.
            if not self.stalled or now >= self._until:
                self.stalled = False
                self._moved, self._picked = now, picked
            return False
        if self.stalled or self._moved is None or now - self._moved < STALLED_AFTER:
            return False
        if not sample.running and picked <= self._picked:
            # It is done with all of it, and clients are slow to read.
            return False
        self.stalled = True
        self._until = now + min(TRY_AFTER * 2.0**self._tries, TRY_AFTER_AT_MOST)
        self._tries = min(self._tries + 1, 10)
        return True

    def worked(self, picked: int, now: float) -> None:
        """There was a sign of work: a number moved, or a request ended well."""
        self.stalled = False
        self._tries = 0
        self._moved, self._picked = now, picked
