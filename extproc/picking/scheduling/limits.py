"""Filters that leave out endpoints which are too full."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.profile import Filter, SchedulingRequest


class Measure(enum.StrEnum):
    """What a limit can be set on."""

    ACTIVE_REQUESTS = "active-requests"
    """In flight, as counted here."""
    RUNNING_REQUESTS = "running-requests"
    WAITING_QUEUE = "waiting-queue"
    KV_CACHE_UTILIZATION = "kv-cache-utilization"
    """0 to 1."""


_VALUES: Mapping[Measure, Callable[[Candidate], float]] = {
    Measure.ACTIVE_REQUESTS: lambda c: c.in_flight,
    Measure.RUNNING_REQUESTS: lambda c: c.running,
    Measure.WAITING_QUEUE: lambda c: c.queue,
    Measure.KV_CACHE_UTILIZATION: lambda c: c.kv_usage,
}


def utilization(
    conditions: Sequence[tuple[Measure, float]], fallback_on_empty: bool = False
) -> Filter:
    """Endpoints that are not above any of these maxima. If that leaves nobody: nobody, or all if
    ``fallback_on_empty``."""
    limits = [(_VALUES[load], most) for load, most in conditions]

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        kept = [c for c in candidates if all(value(c) <= most for value, most in limits)]
        return kept or (candidates if fallback_on_empty else ())

    return Filter(
        "utilization-filter",
        apply,
        because=" or ".join(f"{load} over {most:g}" for load, most in conditions),
    )


def utilization_detector(
    queue_depth: float = 5, kv_usage: float = 0.8, headroom: float = 0.0
) -> Filter:
    """Endpoints with fresh numbers below ``limit * (1 + headroom)``; if there is none, all."""
    most_queue, most_kv = queue_depth * (1 + headroom), kv_usage * (1 + headroom)

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        kept = [c for c in candidates if c.fresh and c.queue < most_queue and c.kv_usage < most_kv]
        return kept or candidates

    return Filter(
        "utilization-detector",
        apply,
        because=f"queue of {most_queue:g} or more, KV cache of {most_kv:.0%} or more, or no fresh "
        "numbers",
    )


class Concurrency(enum.StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"
    HYBRID = "hybrid"


def concurrency_detector(
    max_requests: int = 100,
    max_tokens: int = 1_000_000,
    mode: Concurrency = Concurrency.REQUESTS,
    headroom: float = 0.0,
) -> Filter:
    """Endpoints with fewer than ``limit * (1 + headroom)`` requests, prompt tokens, or both in
    flight from here; if none is, all."""
    inf = float("inf")
    requests = inf if mode is Concurrency.TOKENS else max_requests * (1 + headroom)
    tokens = inf if mode is Concurrency.REQUESTS else max_tokens * (1 + headroom)

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        kept = [c for c in candidates if c.in_flight < requests and c.tokens < tokens]
        return kept or candidates

    return Filter("concurrency-detector", apply, because="too much in flight there")
