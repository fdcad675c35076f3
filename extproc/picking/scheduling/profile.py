"""How an endpoint is chosen: filters, then scorers, then a picker.

Each is a named plain function. A profile is a list of them, run in order over the candidates; every
step leaves its name and what it kept in the decision's trace, so that any decision can be read
back. A :class:`~extproc.picking.scheduling.filter_tree.FilterTree` stands wherever a filter can.

Nothing here reads a clock or makes randomness of its own: the caller gives a ``random.Random``.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.prefix.match import NO_MATCH, PrefixMatch
from extproc.request import InferenceRequest

Step = tuple[str, Sequence[Candidate]]
"""The name of a step and what it kept. A filter that kept nothing has an empty sequence."""

_QUEUE = attrgetter("queue")
FALLBACK_WINDOW: Final = 16
"""How many of the candidates are looked at for a fallback."""


class Verdict(enum.StrEnum):
    PICKED = "picked"
    SHED = "shed"
    """Dropped on purpose: there is no room for a request of this priority."""
    NONE_ELIGIBLE = "none-eligible"
    """No endpoint may serve it."""


class SchedulingRequest:
    """What a profile is asked."""

    __slots__ = (
        "model",
        "multimodal",
        "now",
        "output_tokens",
        "prefix",
        "priority",
        "prompt_tokens",
        "request",
        "rng",
        "trace",
    )

    def __init__(
        self,
        model: str,
        priority: int,
        rng: random.Random,
        request: InferenceRequest | None = None,
        *,
        now: float = 0.0,
        prompt_tokens: int = 1,
        output_tokens: int = 0,
        prefix: PrefixMatch = NO_MATCH,
        multimodal: bool = False,
    ) -> None:
        self.model = model
        """The model (or adapter) that the server is asked for, after any rewrite."""
        self.priority = priority
        """Higher goes first; negative is sheddable."""
        self.rng = rng
        self.request = request
        """The whole request, for steps that look at the headers."""
        self.trace: list[Step] = []
        self.now = now
        """Seconds, on the caller's clock."""
        self.prompt_tokens = prompt_tokens
        """Estimated."""
        self.output_tokens = output_tokens
        """Expected."""
        self.prefix = prefix
        """Which endpoint has how much of the prompt in its cache."""
        self.multimodal = multimodal
        """The prompt has parts that are not text."""

    def anew(self) -> SchedulingRequest:
        """The same, for another profile: with a trace of its own."""
        return SchedulingRequest(
            self.model,
            self.priority,
            self.rng,
            self.request,
            now=self.now,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            prefix=self.prefix,
            multimodal=self.multimodal,
        )

    def uncached(self, candidate: Candidate) -> int:
        """Prompt tokens that this endpoint would have to prefill; at least one."""
        prefix = self.prefix
        if not prefix.longest:
            return self.prompt_tokens
        uncached = self.prompt_tokens - prefix.tokens_of(candidate)
        return uncached if uncached > 0 else 1

    def uncached_of_each(self, candidates: Sequence[Candidate]) -> list[float]:
        """The same of each of ``candidates``, in their order."""
        prompt = self.prompt_tokens
        if not self.prefix.longest:
            return [float(prompt)] * len(candidates)
        return [
            float(prompt - cached) if cached < prompt else 1.0
            for cached in self.prefix.tokens_of_each(candidates)
        ]


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
    uses_prefix: bool = False
    """It looks at the prompt's prefix, so that somebody has to look that up."""
    because: str = ""
    """Why what it left out was left out, for people."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """The same for the steps that it leaves in the trace itself."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """Gives every candidate a score between 0 and 1, in their order; higher is better."""

    name: str
    apply: Score
    weight: float = 1.0
    uses_prefix: bool = False


ScoredBy = tuple[str, float, Sequence[float]]
"""A scorer's name, its weight, and what it gave to each candidate that was left."""


@dataclass(frozen=True, slots=True)
class Picker:
    """Returns up to the asked number of candidates, best first; at least one."""

    name: str
    apply: Order


class Decision:
    """What a profile decided, and how."""

    __slots__ = (
        "candidates",
        "endpoints",
        "headers",
        "prefill",
        "profile",
        "scored",
        "scored_by",
        "scores",
        "trace",
        "verdict",
    )

    def __init__(
        self,
        verdict: Verdict,
        endpoints: tuple[Candidate, ...],
        trace: list[Step],
        candidates: Sequence[Candidate],
        profile: Profile,
        *,
        scores: Sequence[float] | None = None,
        scored: Sequence[Candidate] = (),
        scored_by: Sequence[ScoredBy] = (),
        prefill: Candidate | None = None,
    ) -> None:
        self.verdict = verdict
        self.endpoints = endpoints
        """The pick first, then the fallbacks for retries."""
        self.trace = trace
        self.candidates = candidates
        self.profile = profile
        """What decided."""
        self.scores = scores
        """Of ``scored``, in all: the weighted sum."""
        self.scored = scored
        """What the filters left."""
        self.scored_by = scored_by
        self.prefill = prefill
        """Who prefills the prompt, where that is another endpoint than the pick."""
        self.headers: tuple[tuple[str, str], ...] = (
            ((PREFILL_HEADER, prefill.key),) if prefill is not None else ()
        )
        """Further request headers for the pick."""

    @property
    def reasons(self) -> dict[str, str]:
        """Why steps of the trace left out what they left out, by the step's name."""
        return self.profile.reasons


PREFILL_HEADER: Final = "x-prefiller-host-port"
"""Tells the sidecar of the pick who prefills for it (llm-d's name)."""


@dataclass(frozen=True, slots=True)
class PrefillStage:
    """Lets another endpoint prefill the prompt, where the pick would have much to do itself."""

    profile: Profile
    min_uncached_tokens: int
    """Shorter work is not worth the transfer of the KV cache."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A way to choose."""

    name: str
    filters: tuple[Filter, ...]
    picker: Picker
    scorers: tuple[Scorer, ...] = ()
    prefill: PrefillStage | None = None

    @property
    def uses_prefix(self) -> bool:
        """Whether any step looks at the prompt's prefix: else nobody has to look it up."""
        return (
            self.prefill is not None
            or any(f.uses_prefix for f in self.filters)
            or any(s.uses_prefix for s in self.scorers)
        )

    @property
    def reasons(self) -> dict[str, str]:
        """See :attr:`Decision.reasons`."""
        reasons: dict[str, str] = {}
        for step in self.filters:
            reasons.update({step.name: step.because, **step.reasons})
        if self.prefill is not None:
            stage = self.prefill.profile
            reasons.update({f"{stage.name}: {name}": why for name, why in stage.reasons.items()})
        return reasons

    def decide(
        self, request: SchedulingRequest, candidates: Sequence[Candidate], count: int
    ) -> Decision:
        """Choose up to ``count`` of ``candidates``."""
        trace = request.trace
        if not candidates:
            return Decision(Verdict.NONE_ELIGIBLE, (), trace, candidates, self)
        kept = candidates
        for step in self.filters:
            kept = step.apply(request, kept)
            if not step.traces_itself:
                trace.append((step.name, kept))
            if not kept:
                return Decision(step.when_empty, (), trace, candidates, self)
        scores: Sequence[float] | None = None
        scored_by: list[ScoredBy] = []
        for scorer in self.scorers:
            weight, given = scorer.weight, scorer.apply(request, kept)
            scored_by.append((scorer.name, weight, given))
            if scores is not None:
                scores = [a + weight * b for a, b in zip(scores, given, strict=True)]
            else:
                scores = given if weight == 1.0 else [weight * b for b in given]
        chosen = self.picker.apply(request, kept, scores, count)
        if len(chosen) < count and len(chosen) < len(candidates):
            _add_fallbacks(chosen, trace, candidates, count, request.rng)
        prefill: Candidate | None = None
        if self.prefill is not None:
            prefill = _prefiller(self.prefill, request, candidates, chosen[0])
        return Decision(
            Verdict.PICKED,
            tuple(chosen),
            trace,
            candidates,
            self,
            scores=scores,
            scored=kept,
            scored_by=scored_by,
            prefill=prefill,
        )


def _prefiller(
    stage: PrefillStage,
    request: SchedulingRequest,
    candidates: Sequence[Candidate],
    pick: Candidate,
) -> Candidate | None:
    """Who prefills for the pick; None: the pick itself, as nobody else can or need not."""
    if request.uncached(pick) < stage.min_uncached_tokens:
        return None
    asked = request.anew()
    chosen = stage.profile.decide(asked, candidates, 1).endpoints
    request.trace.extend((f"{stage.profile.name}: {name}", kept) for name, kept in asked.trace)
    if not chosen or chosen[0] is pick:
        return None
    return chosen[0]


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
    for _, kept in (*reversed(trace), ("", candidates)):
        if len(kept) <= len(chosen):
            continue
        start = int(rng.random() * len(kept))
        window = [*kept[start : start + FALLBACK_WINDOW]]
        if len(window) < FALLBACK_WINDOW:
            window += kept[: min(start, FALLBACK_WINDOW - len(window))]
        more = [candidate for candidate in window if candidate not in chosen]
        more.sort(key=_QUEUE)
        chosen += more[: count - len(chosen)]
        if len(chosen) >= count:
            return
