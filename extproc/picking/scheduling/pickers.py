"""The pickers: which of the candidates that are left, and in which order."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from typing import TypeVar

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.profile import Picker, SchedulingRequest

T = TypeVar("T")
_EXACT = 64
"""Among more, the fallbacks are the best of so many, not of all."""


def uniform() -> Picker:
    """Any of them, with equal chances."""

    def apply(
        request: SchedulingRequest,
        candidates: Sequence[Candidate],
        scores: Sequence[float] | None,
        count: int,
    ) -> list[Candidate]:
        if len(candidates) == 1:
            return [candidates[0]]
        return _draw(candidates, count, request.rng)

    return Picker("random", apply)


def max_score() -> Picker:
    """The highest scores; equal ones in random order."""

    def apply(
        request: SchedulingRequest,
        candidates: Sequence[Candidate],
        scores: Sequence[float] | None,
        count: int,
    ) -> list[Candidate]:
        if scores is None:
            return _draw(candidates, count, request.rng)
        best = max(scores)
        if scores.count(best) == 1:
            first = scores.index(best)
            chosen = [candidates[first]]
        else:
            top = [n for n, score in enumerate(scores) if score == best]
            drawn = _draw(top, count, request.rng)
            chosen = [candidates[n] for n in drawn]
        missing = min(count, len(candidates)) - len(chosen)
        if missing > 0:
            # Where a search for equal ones begins is random, and that is enough for fallbacks.
            size = len(scores)
            start = int(request.rng.random() * size)
            places = [*range(start, size), *range(start)][:_EXACT]
            places.sort(key=scores.__getitem__, reverse=True)
            chosen += [candidates[n] for n in places if scores[n] != best][:missing]
        return chosen

    return Picker("max-score", apply)


def weighted_random() -> Picker:
    """Each with a chance in proportion to its score; those of 0 only if all are."""

    def apply(
        request: SchedulingRequest,
        candidates: Sequence[Candidate],
        scores: Sequence[float] | None,
        count: int,
    ) -> list[Candidate]:
        if scores is None or max(scores) <= 0:
            return _draw(candidates, count, request.rng)
        # The largest of u ** (1 / weight): reservoir sampling after Efraimidis and Spirakis.
        random_ = request.rng.random
        keys = [
            (math.log(random_() or 1e-300) / score, n)
            for n, score in enumerate(scores)
            if score > 0
        ]
        return [candidates[n] for _, n in heapq.nlargest(count, keys)]

    return Picker("weighted-random", apply)


def power_of_two(choices: int = 2) -> Picker:
    """The better of two drawn at random: by score, or by requests in flight if nothing is scored.

    Then a burst on one stale view does not fall on one endpoint.
    """

    def apply(
        request: SchedulingRequest,
        candidates: Sequence[Candidate],
        scores: Sequence[float] | None,
        count: int,
    ) -> list[Candidate]:
        size = len(candidates)
        rng = request.rng
        places = rng.sample(range(size), min(size, max(choices, count)))
        if scores is None:
            best = min(places[:choices], key=lambda n: candidates[n].in_flight)
        else:
            best = max(places[:choices], key=scores.__getitem__)
        places.remove(best)
        return [candidates[n] for n in (best, *places)][:count]

    return Picker("power-of-two", apply)


def round_robin() -> Picker:
    """Each in turn. Keeps a count, so every pool needs a picker of its own."""
    turn = -1

    def apply(
        request: SchedulingRequest,
        candidates: Sequence[Candidate],
        scores: Sequence[float] | None,
        count: int,
    ) -> list[Candidate]:
        nonlocal turn
        turn += 1
        first = turn % len(candidates)
        return [*candidates[first:], *candidates[:first]][:count]

    return Picker("round-robin", apply)


def _draw(candidates: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """``count`` different ones in random order (a partial Fisher-Yates shuffle)."""
    drawn = list(candidates)
    size = len(drawn)
    count = min(count, size)
    for place in range(count):
        other = place + int(rng.random() * (size - place))
        drawn[place], drawn[other] = drawn[other], drawn[place]
    return drawn[:count]
