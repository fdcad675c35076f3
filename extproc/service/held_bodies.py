"""All request bodies that are held at the same time, and what happens when they are too many."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

H = TypeVar("H", bound=Hashable)

GIVE_BACK: Final = 64 << 20
"""Bytes let go after which memory is given back to the system."""


class HeldBodies(Generic[H]):
    """Bytes by holder, and a limit for all of them together.

    What goes beyond it is paid for by the largest holder: so clients that send much and then stall
    lose their own requests, and small requests are served all the while.
    """

    __slots__ = ("_give_back", "_let_go", "_sizes", "limit", "total")

    def __init__(self, limit: int, give_back: Callable[[], None]) -> None:
        self.limit = limit
        """Bytes."""
        self.total = 0
        self._give_back = give_back
        self._let_go = 0
        self._sizes: dict[H, int] = {}

    def holds(self, holder: H, size: int) -> None:
        """``holder`` now holds ``size`` bytes."""
        before = self._sizes.get(holder, 0)
        self.total += size - before
        if size:
            self._sizes[holder] = size
        elif before:
            del self._sizes[holder]
        if size < before:
            self._let_go += before - size
            if self._let_go >= GIVE_BACK:
                self._let_go = 0
                self._give_back()

    def too_many(self) -> H | None:
        """Who has to let go of what it holds; None while all is within the limit."""
        if self.total <= self.limit:
            return None
        return max(self._sizes, key=self._sizes.__getitem__)
