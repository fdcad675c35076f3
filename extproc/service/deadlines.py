"""Deadlines that all have the same length."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """When which of many waiting things is too late.

    As all may wait for the same time, they expire in the order in which they began: a dict, which
    keeps that order, does for each request what would else take a timer of the event loop.
    """

    __slots__ = ("_due", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        """Seconds."""
        self._due: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def begin(self, key: K, now: float) -> None:
        self._due.pop(key, None)
        self._due[key] = now + self.timeout

    def end(self, key: K) -> None:
        self._due.pop(key, None)

    def pop_late(self, now: float) -> list[K]:
        """Those whose time is up, oldest first; they are forgotten."""
        late: list[K] = []
        for key, due in self._due.items():
            if due > now:
                break
            late.append(key)
        for key in late:
            del self._due[key]
        return late

    def next_due(self) -> float | None:
        """When to look again; None when nothing waits."""
        return next(iter(self._due.values()), None)
