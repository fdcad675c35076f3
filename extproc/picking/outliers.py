"""An endpoint whose answers differ from its peers'.

A pod that answers 404, 401 or 429 at once (a model renamed in a rollout, another key) is always
idle, so whoever looks at load sends it more and more. Yet such an answer is mostly the client's
doing. What tells them apart is the comparison: a share that all endpoints of a pool have is the
clients', one that a single endpoint has is its own. The same holds for answers that do not come
within a route's time-out.

Pure: time is passed in.
"""

from __future__ import annotations

import math
from typing import Final

MEMORY: Final = 30.0
"""Seconds after which an answer counts for a third (1/e) of a new one."""
CERTAINTY: Final = 5.0
"""Standard errors between two shares that are no coincidence, however often one looks."""
LEAST_DIFFERENCE: Final = 0.1
"""Of the shares: less would not be worth taking out an endpoint for."""
USUAL: Final = 0.2
"""A share of odd answers up to which one more is not to be expected of an endpoint."""


class Tally:
    """Answers, and how many of them were odd, the newer the weightier."""

    __slots__ = ("_at", "answers", "odd")

    def __init__(self) -> None:
        self.answers = 0.0
        self.odd = 0.0
        self._at = 0.0

    def add(self, odd: bool, now: float) -> None:
        self.fade(now)
        self.answers += 1.0
        if odd:
            self.odd += 1.0

    def fade(self, now: float) -> None:
        """Bring it up to date."""
        passed = now - self._at
        if passed > 0.0:
            weight = math.exp(-passed / MEMORY)
            self.answers *= weight
            self.odd *= weight
            self._at = now

    def put_into(self, other: Tally, now: float) -> None:
        """Empty this one into another."""
        self.fade(now)
        other.fade(now)
        other.answers += self.answers
        other.odd += self.odd
        self.answers = self.odd = 0.0


class Answers:
    """What an endpoint answered."""

    __slots__ = ("before", "current")

    def __init__(self) -> None:
        self.current = Tally()
        """Since it last was taken out for them."""
        self.before = Tally()
        """Until then. No longer held against it, but nor are they its peers'."""

    def add(self, odd: bool, now: float) -> None:
        self.current.add(odd, now)

    def begin_anew(self, now: float) -> None:
        self.current.put_into(self.before, now)


def differs(answers: Answers, of_all: Tally, now: float) -> bool:
    """Whether an endpoint's share of odd answers is far above that of its peers.

    ``of_all``: those of the whole pool. The difference is measured in standard errors of two shares
    of one population (a two-proportion z-test).
    """
    own = answers.current
    own.fade(now)
    peers_answers, peers_odd = _of_peers(answers, of_all, now)
    if own.answers < 1.0 or peers_answers < 1.0:
        return False
    share, usual = own.odd / own.answers, peers_odd / peers_answers
    if share - usual < LEAST_DIFFERENCE:
        return False
    together = (own.odd + peers_odd) / (own.answers + peers_answers)
    variance = together * (1.0 - together) * (1.0 / own.answers + 1.0 / peers_answers)
    return (share - usual) ** 2 > CERTAINTY**2 * variance


def unusual(answers: Answers, of_all: Tally, now: float) -> bool:
    """Whether a single odd answer speaks against an endpoint that is on probation: its peers hardly
    give any."""
    peers_answers, peers_odd = _of_peers(answers, of_all, now)
    return peers_answers >= 1.0 and peers_odd < USUAL * peers_answers


def _of_peers(answers: Answers, of_all: Tally, now: float) -> tuple[float, float]:
    own, before = answers.current, answers.before
    own.fade(now)
    before.fade(now)
    of_all.fade(now)
    return (
        of_all.answers - own.answers - before.answers,
        max(0.0, of_all.odd - own.odd - before.odd),
    )
