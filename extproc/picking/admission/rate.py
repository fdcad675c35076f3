"""How much there was of something in a second, lately."""

from __future__ import annotations

import math

_SECONDS = 10.0


class Rate:
    """Per second, over about the last ten."""

    __slots__ = ("_at", "_began", "_sum")

    def __init__(self) -> None:
        self._sum = 0.0
        self._at = 0.0
        self._began: float | None = None

    def add(self, now: float, amount: float = 1.0) -> None:
        if self._began is None:
            self._began = self._at = now
        if now > self._at:
            self._sum *= math.exp((self._at - now) / _SECONDS)
            self._at = now
        self._sum += amount

    def per_second(self, now: float) -> float:
        if self._began is None:
            return 0.0
        # Young sums have not seen a whole window; a second is the least to judge by.
        seen = _SECONDS * (1 - math.exp(-max(1.0, now - self._began) / _SECONDS))
        return self._sum * math.exp((self._at - now) / _SECONDS) / seen
