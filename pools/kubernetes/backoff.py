"""How long to wait before something that failed is tried again."""

from __future__ import annotations

FIRST = 0.2
"""Seconds after the first failure."""


def delay(failures: int, longest: float, chance: float, retry_after: float = 0.0) -> float:
    """Seconds to wait after so many failures in a row.

    They double from ``FIRST`` to ``longest``; ``chance`` (from 0 to 1) takes away up to a half, so
    that not all clients of a server that comes back ask at once. Never shorter than the server
    demands (``Retry-After``).
    """
    doubled = min(longest, FIRST * 2.0 ** min(max(failures - 1, 0), 30))
    return max(doubled * (1.0 - chance / 2), retry_after)
