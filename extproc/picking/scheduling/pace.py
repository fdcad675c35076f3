"""How slow each endpoint is, next to its peers: other hardware, a hot GPU, a noisy neighbour.

What servers report as the time to first token is compared with that of the middle endpoint, in two
ways: as it is, and divided by what was to be prefilled (the prompts ahead and the uncached part of
the prompt, in seconds at the profile's rate). The smaller counts::

    slowness = min(reported / middle reported,
                   reported / ahead / (middle of reported / ahead))

Equal servers take ``a + b * ahead``, and how much of it is ``a`` (a step of the batch, the way) and
how large ``b`` is (how wrong the rate) is not known. But whoever had more ahead than the middle is
not slow by the second, and whoever had less is not by the first, whatever ``a`` and ``b`` are.
"""

from __future__ import annotations

from collections.abc import Container

from extproc.picking.scheduling.candidate import Candidate

LEAST_AHEAD = 0.001
"""Seconds: something is always to be prefilled."""
WEIGHT = 0.05
"""What one request weighs in the means."""
EQUAL = 2.0
"""Who is less slow than this counts as equal: so far apart are equal servers, too, when all are
overloaded."""
SLOWEST = 10.0
INTERVAL = 1.0
"""Seconds after which the middle is found anew."""
FORGET_AFTER = 30.0
"""Seconds without a first token, after which a slow endpoint gets another chance."""


class Pace:
    """Of one endpoint, in seconds from sending a request to its first token."""

    __slots__ = ("ahead", "reported", "reported_at")

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead
        self.reported = 0.0
        self.reported_at: float | None = None
        """When it gave a first token for the last time; None: not lately."""


class Paces:
    """Of all endpoints of a fleet. ``now`` must not go backwards."""

    def __init__(self) -> None:
        self._paces: dict[Candidate, Pace] = {}
        self._middle_reported = self._middle_ratio = 1.0
        self._middle_until = 0.0

    def expect(self, candidate: Candidate, seconds: float) -> None:
        """A request was sent there whose prompt should be prefilled in so many seconds."""
        ahead = seconds if seconds > LEAST_AHEAD else LEAST_AHEAD
        pace = self._paces.get(candidate)
        if pace is None:
            self._paces[candidate] = Pace(ahead)
        else:
            pace.ahead += WEIGHT * (ahead - pace.ahead)

    def observed(self, candidate: Candidate, now: float) -> None:
        """The endpoint was scraped."""
        pace = self._paces.get(candidate)
        if pace is None:
            return
        tokens = candidate.first_tokens
        if tokens:
            mean = candidate.first_token_seconds / tokens
            if pace.reported_at is None:
                pace.reported = mean
            else:
                pace.reported += (1.0 - (1.0 - WEIGHT) ** tokens) * (mean - pace.reported)
            pace.reported_at = now
        elif pace.reported_at is not None and now - pace.reported_at > FORGET_AFTER:
            pace.reported_at = None
        if pace.reported_at is None:
            candidate.slowness = 1.0
            return
        if now >= self._middle_until:
            self._find_middle(now)
        slowness = min(
            pace.reported / self._middle_reported, pace.reported / pace.ahead / self._middle_ratio
        )
        candidate.slowness = 1.0 if slowness < EQUAL else min(slowness, SLOWEST)

    def keep(self, candidates: Container[Candidate]) -> None:
        """Forget all other endpoints."""
        for candidate in [c for c in self._paces if c not in candidates]:
            del self._paces[candidate]

    def _find_middle(self, now: float) -> None:
        told = [pace for pace in self._paces.values() if pace.reported_at is not None]
        self._middle_reported = _middle([pace.reported for pace in told])
        self._middle_ratio = _middle([pace.reported / pace.ahead for pace in told])
        self._middle_until = now + INTERVAL


def _middle(values: list[float]) -> float:
    """Of two in the middle, the lower."""
    values.sort()
    return max(values[(len(values) - 1) // 2], 1e-6)
