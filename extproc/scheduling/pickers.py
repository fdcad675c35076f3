"""The pickers: which of the candidates that are left, and in which order."""

from __future__ import annotations

import random
from collections.abc import Sequence

from extproc.scheduling.candidate import Candidate
from extproc.scheduling.profile import Picker, SchedulingRequest


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
        top = [c for c, score in zip(candidates, scores, strict=True) if score == best]
        chosen = _draw(top, count, request.rng)
        if len(chosen) < count and len(chosen) < len(candidates):
            random_ = request.rng.random
            rest = sorted(
                (-score, random_(), index) for index, score in enumerate(scores) if score != best
            )
            chosen += [candidates[index] for _, _, index in rest[: count - len(chosen)]]
        return chosen

    return Picker("max-score", apply)


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


def _draw(candidates: Sequence[Candidate], count: int, rng: random.Random) -> list[Candidate]:
    """``count`` different ones in random order (a partial Fisher-Yates shuffle)."""
    drawn = list(candidates)
    size = len(drawn)
    count = min(count, size)
    for place in range(count):
        other = place + int(rng.random() * (size - place))
        drawn[place], drawn[other] = drawn[other], drawn[place]
    return drawn[:count]
