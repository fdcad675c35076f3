"""How fast requests may follow one another."""

from __future__ import annotations


class Pace:
    """A token bucket: ``burst`` at once, then ``rate`` a second."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._free_at = 0.0
        """When the next one would be due if none were let through early."""

    def wait(self, now: float) -> float:
        """Seconds until one more may go; it is taken to go then."""
        self._free_at = max(self._free_at, now - self._burst / self._rate) + 1 / self._rate
        return max(0.0, self._free_at - now)
