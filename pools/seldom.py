"""Problems that are logged by rate: a flood of faults must not become one of log lines."""

from __future__ import annotations

from typing import Final

EVERY: Final = 10.0
"""Seconds between two lines about problems of one kind."""


class Seldom:
    """Says of each problem whether it is to be told. Kinds must be few: they are remembered."""

    __slots__ = ("_every", "_told_at", "_untold")

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._told_at: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def details(self, kind: str, now: float) -> dict[str, int] | None:
        """What belongs into the line about it beside the rest: how many of its kind were not told.
        None: one was told just now, and this one is not."""
        if now - self._told_at.get(kind, float("-inf")) < self._every:
            self._untold[kind] = self._untold.get(kind, 0) + 1
            return None
        self._told_at[kind] = now
        untold = self._untold.pop(kind, 0)
        return {"not_logged_before": untold} if untold else {}
