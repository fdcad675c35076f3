"""Which requests try out endpoints whose cool-down is over.

Somebody has to be the first to go to an endpoint that failed. Where many are unproven (half of a
fleet died), that must not be most of the requests: an idle endpoint looks best to every policy. So
at most one unproven endpoint stands among the candidates of a pick, and only of a share of picks,
which halves with each probe that fails and doubles with each that succeeds.

Pure: time is passed in.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final, TypeVar

MOST: Final = 0.1
"""The largest share of a pool's picks that may be probes."""
LEAST: Final = 0.01
AT_LEAST_EVERY: Final = 10.0
"""Seconds without a probe after which the next pick may be one, however few picks there are."""
PATIENCE: Final = 30.0
"""Seconds for which an endpoint is not tried again while its probe has no result."""

Probed = TypeVar("Probed")


class Probing:
    """Of one pool."""

    __slots__ = ("_allowed_at", "share")

    def __init__(self) -> None:
        self.share = MOST
        """Of picks that may be probes."""
        self._allowed_at = -math.inf

    def choose(self, unproven: Sequence[Probed], now: float, rng: random.Random) -> Probed | None:
        """Who may be tried with this pick; None: nobody."""
        if now - self._allowed_at < AT_LEAST_EVERY and rng.random() >= self.share:
            return None
        self._allowed_at = now
        return unproven[rng.randrange(len(unproven))]

    def succeeded(self) -> None:
        self.share = min(MOST, 2.0 * self.share)

    def failed(self) -> None:
        self.share = max(LEAST, 0.5 * self.share)
