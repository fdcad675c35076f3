"""Filters that keep a request where its state is: its prefix, its adapter, its session.

Each keeps only the endpoints that have that state, until these are so much busier than the others
that moving costs less than waiting. So the state is not copied to every endpoint at the first small
imbalance, which would evict it everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from extproc.scheduling.candidate import Candidate
from extproc.scheduling.load import PREFILL_RATE
from extproc.scheduling.profile import Filter, SchedulingRequest

PREFIX_THRESHOLD = 0.8
MULTIMODAL_THRESHOLD = 0.6
MAX_PREFIX_PENALTY = 18.0
MAX_ADAPTER_PENALTY = 2.0
MAX_ADAPTER_GAP = 16


def prefix_affinity(
    threshold: float = PREFIX_THRESHOLD,
    multimodal_threshold: float = MULTIMODAL_THRESHOLD,
    max_penalty: float = MAX_PREFIX_PENALTY,
    prefill_rate: float = PREFILL_RATE,
    exploration: float = 0.0,
) -> Filter:
    """Endpoints that have at least ``threshold`` of the prompt cached, until they are saturated.

    Saturated: the prompts that wait at the best of them take over ``max_penalty`` seconds longer to
    prefill than those at the best of the others, at ``prefill_rate`` tokens a second. With the
    chance ``exploration`` all endpoints are kept.
    """
    limit = max_penalty * prefill_rate

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        prefix = request.prefix
        needed = request.prompt_tokens * (multimodal_threshold if request.multimodal else threshold)
        if not prefix.longest or prefix.longest < needed:
            return candidates
        sticky = prefix.with_at_least(needed, candidates)
        if not sticky or len(sticky) == len(candidates):
            return candidates
        if exploration and request.rng.random() < exploration:
            return candidates
        backlog = min([c.prefill_tokens for c in sticky])
        if backlog > limit and backlog - _least_elsewhere(sticky, candidates, _prefill) > limit:
            return candidates
        return sticky

    return Filter(
        "prefix-cache-affinity-filter",
        apply,
        uses_prefix=True,
        because=f"less than {threshold:.0%} of the prompt is cached there",
    )


def adapter_affinity(
    max_penalty: float = MAX_ADAPTER_PENALTY,
    max_gap: int = MAX_ADAPTER_GAP,
    prefill_rate: float = PREFILL_RATE,
) -> Filter:
    """Endpoints that have the request's LoRA adapter loaded, until they are saturated; else those
    with room for one more.

    Loaded: reported as running or waiting, or sent there from here lately. Saturated: the best of
    them has prompts waiting that take over ``max_penalty`` seconds longer than elsewhere, or over
    ``max_gap`` more requests in flight. Requests for anything but a known adapter pass.
    """
    limit = max_penalty * prefill_rate

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        model = request.model
        if not candidates or model not in candidates[0].known_adapters:
            return candidates
        loaded = [c for c in candidates if model in c.adapters]
        if len(loaded) == len(candidates):
            return candidates
        if loaded:
            backlog = min([c.prefill_tokens for c in loaded])
            requests = min([c.in_flight for c in loaded])
            if (
                requests <= max_gap
                or requests - _least_elsewhere(loaded, candidates, _in_flight) <= max_gap
            ) and (
                backlog <= limit
                or backlog - _least_elsewhere(loaded, candidates, _prefill) <= limit
            ):
                return loaded
        room = [c for c in candidates if len(c.adapters) < c.adapter_capacity]
        return [*loaded, *[c for c in room if model not in c.adapters]] if room else candidates

    return Filter("adapter-affinity-filter", apply, because="the adapter is not loaded there")


def _prefill(candidate: Candidate) -> int:
    return candidate.prefill_tokens


def _in_flight(candidate: Candidate) -> int:
    return candidate.in_flight


def _least_elsewhere(
    kept: Sequence[Candidate],
    candidates: Sequence[Candidate],
    value: Callable[[Candidate], int],
) -> int:
    here = set(kept)
    return min([value(c) for c in candidates if c not in here])
