"""How an endpoint is chosen: filters, then scorers, then a picker.

Each is a named plain function. A profile is a list of them, run in order over the candidates; every
step leaves its name and what it kept in the decision's trace, so that any decision can be read
back. A :class:`~extproc.scheduling.filter_tree.FilterTree` stands wherever a filter can.

Nothing here reads a clock or makes randomness of its own: the caller gives a ``random.Random``.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from extproc.request import InferenceRequest
from extproc.scheduling.candidate import Candidate

Step = tuple[str, Sequence[Candidate]]
"""The name of a step and what it kept. A filter that kept nothing has an empty sequence."""

FALLBACK_WINDOW = 16
"""How many of the candidates are looked at for a fallback."""


class Verdict(enum.StrEnum):
    PICKED = "picked"
    SHED = "shed"
    """Dropped on purpose: there is no room for a request of this priority."""
    NONE_ELIGIBLE = "none-eligible"
    """No endpoint may serve it."""


@dataclass(slots=True)
class SchedulingRequest:
    """What a profile is asked."""

    model: str
    """The model (or adapter) that the server is asked for, after any rewrite."""
    priority: int
    """Higher goes first; negative is sheddable."""
    rng: random.Random
    request: InferenceRequest | None = None
    """The whole request, for steps that look at the prompt or the headers."""
    trace: list[Step] = field(default_factory=list)


Narrow = Callable[[SchedulingRequest, Sequence[Candidate]], Sequence[Candidate]]
Score = Callable[[SchedulingRequest, Sequence[Candidate]], Sequence[float]]
Order = Callable[
    [SchedulingRequest, Sequence[Candidate], Sequence[float] | None, int], list[Candidate]
]


@dataclass(frozen=True, slots=True)
class Filter:
    """Keeps some of the candidates. It must not change what it was given."""

    name: str
    apply: Narrow
    when_empty: Verdict = Verdict.NONE_ELIGIBLE
    """What it means when nothing is kept."""
    traces_itself: bool = False
    """It leaves steps of its own in the trace, so that naming it as well would say nothing."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """Gives every candidate a score between 0 and 1, in their order; higher is better."""

    name: str
    apply: Score
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Picker:
    """Returns up to the asked number of candidates, best first; at least one."""

    name: str
    apply: Order


@dataclass(frozen=True, slots=True)
class Decision:
    """What a profile decided, and how."""

    verdict: Verdict
    endpoints: tuple[Candidate, ...]
    """The pick first, then the fallbacks for retries."""
    trace: list[Step]
    candidates: Sequence[Candidate]
    scores: Sequence[float] | None = None
    """Of what the last step of the trace kept."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A way to choose."""

    name: str
    filters: tuple[Filter, ...]
    picker: Picker
    scorers: tuple[Scorer, ...] = ()

    def decide(
        self, request: SchedulingRequest, candidates: Sequence[Candidate], count: int
    ) -> Decision:
        """Choose up to ``count`` of ``candidates``."""
        trace = request.trace
        if not candidates:
            return Decision(Verdict.NONE_ELIGIBLE, (), trace, candidates)
        kept = candidates
        for step in self.filters:
            kept = step.apply(request, kept)
            if not step.traces_itself:
                trace.append((step.name, kept))
            if not kept:
                return Decision(step.when_empty, (), trace, candidates)
        scores = self._scores(request, kept) if self.scorers else None
        chosen = self.picker.apply(request, kept, scores, count)
        if len(chosen) < count and len(chosen) < len(candidates):
            _add_fallbacks(chosen, trace, candidates, count, request.rng)
        return Decision(Verdict.PICKED, tuple(chosen), trace, candidates, scores)

    def _scores(
        self, request: SchedulingRequest, candidates: Sequence[Candidate]
    ) -> Sequence[float]:
        totals = [0.0] * len(candidates)
        for scorer in self.scorers:
            weight = scorer.weight
            scores = scorer.apply(request, candidates)
            totals = [total + weight * score for total, score in zip(totals, scores, strict=True)]
        return totals


def _add_fallbacks(
    chosen: list[Candidate],
    trace: Sequence[Step],
    candidates: Sequence[Candidate],
    count: int,
    rng: random.Random,
) -> None:
    """Fill up with the next best: what the later filters kept before what only the earlier did,
    and of those the shorter queues. Among many only a random window is looked at, which also keeps
    the retries for a dead pod from falling on one other pod."""
    for kept in (*(kept for _, kept in reversed(trace)), candidates):
        if len(kept) <= len(chosen):
            continue
        start = int(rng.random() * len(kept))
        window = [*kept[start : start + FALLBACK_WINDOW]]
        if len(window) < FALLBACK_WINDOW:
            window += kept[: min(start, FALLBACK_WINDOW - len(window))]
        more = [candidate for candidate in window if candidate not in chosen]
        more.sort(key=_queue)
        chosen += more[: count - len(chosen)]
        if len(chosen) >= count:
            return


def _queue(candidate: Candidate) -> int:
    return candidate.queue
