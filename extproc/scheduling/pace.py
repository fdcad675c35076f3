"""How slow each endpoint is, next to its peers: other hardware, a hot GPU, a noisy neighbour.

What servers report as the time to first token is compared with what was to be expected there: the
prompts ahead and the uncached part of the prompt at the profile's rate, and a step of the batch. ::

    ratio    = reported / expected
    slowness = ratio / ratio of the middle endpoint

The rate need not be right, since it is the same for all. How much is cached at an endpoint and how
long its queue is are in what was expected of it.
"""

from __future__ import annotations

from collections.abc import Container

from extproc.scheduling.candidate import Candidate

STEP_SECONDS = 0.03
"""A step of the batch, which a prompt takes even if it is cached to the end."""
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

    __slots__ = ("expected", "reported", "reported_at")

    def __init__(self, expected: float) -> None:
        self.expected = expected
        self.reported = 0.0
        self.reported_at: float | None = None
        """When it gave a first token for the last time; None: not lately."""


class Paces:
    """Of all endpoints of a fleet. ``now`` must not go backwards."""

    def __init__(self) -> None:
        self._paces: dict[Candidate, Pace] = {}
        self._middle = 1.0
        self._middle_until = 0.0

    def expect(self, candidate: Candidate, seconds: float) -> None:
        """A request was sent there whose prompt should be prefilled in so many seconds."""
        pace = self._paces.get(candidate)
        if pace is None:
            self._paces[candidate] = Pace(STEP_SECONDS + seconds)
        else:
            pace.expected += WEIGHT * (STEP_SECONDS + seconds - pace.expected)

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
        slowness = pace.reported / pace.expected / self._middle
        candidate.slowness = 1.0 if slowness < EQUAL else min(slowness, SLOWEST)

    def keep(self, candidates: Container[Candidate]) -> None:
        """Forget all other endpoints."""
        for candidate in [c for c in self._paces if c not in candidates]:
            del self._paces[candidate]

    def _find_middle(self, now: float) -> None:
        ratios = [
            p.reported / p.expected for p in self._paces.values() if p.reported_at is not None
        ]
        ratios.sort()
        self._middle = max(ratios[(len(ratios) - 1) // 2], 1e-6)
        self._middle_until = now + INTERVAL
