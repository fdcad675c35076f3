"""The filters. Each returns what it keeps, in the order given; none changes its input."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.profile import Filter, SchedulingRequest, Verdict


def not_sheddable() -> Filter:
    """All or nothing: whether this request must be served."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return candidates if request.priority >= 0 else ()

    return Filter("not-sheddable", apply, because="the request is sheddable")


def queue_below(limit: int) -> Filter:
    """``queue < limit``."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return [c for c in candidates if c.queue < limit]

    return Filter(f"queue-below-{limit}", apply, because=f"queue of {limit} or more")


def capacity(max_backlog: int, max_kv_usage: float) -> Filter:
    """Room for more: a backlog and a KV cache not above these."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return [c for c in candidates if c.backlog <= max_backlog and c.kv_usage <= max_kv_usage]

    return Filter(
        "capacity",
        apply,
        because=f"backlog over {max_backlog} or KV cache over {max_kv_usage:.0%}",
    )


def sheddable_capacity(max_backlog: int, max_kv_usage: float) -> Filter:
    """For sheddable requests only: endpoints with room (see :func:`capacity`), or else the request
    is shed."""
    room = capacity(max_backlog, max_kv_usage)

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return candidates if request.priority >= 0 else room.apply(request, candidates)

    return Filter("sheddable-capacity-filter", apply, Verdict.SHED, because=room.because)


def least_queue() -> Filter:
    """The shortest queues: those within ``min + (max - min) // n`` of ``n`` candidates.

    A band, not the strict minimum, so that the next steps have something to choose from.
    """

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        if not candidates:
            return candidates
        queues = [c.queue for c in candidates]
        low, high = min(queues), max(queues)
        if low == high:
            return candidates
        limit = low + (high - low) // len(queues)
        return [c for c in candidates if c.queue <= limit]

    return Filter("least-queue", apply, because="others have shorter queues")


def least_kv_usage() -> Filter:
    """The emptiest KV caches: within ``min + (max - min) / n`` of ``n`` candidates."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        if not candidates:
            return candidates
        usages = [c.kv_usage for c in candidates]
        low, high = min(usages), max(usages)
        if low == high:
            return candidates
        limit = low + (high - low) / len(usages)
        return [c for c in candidates if c.kv_usage <= limit]

    return Filter("least-kv-usage", apply, because="others have emptier KV caches")


def adapter_active() -> Filter:
    """Servers that are running the requested adapter."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        model = request.model
        return [c for c in candidates if model in c.active_adapters]

    return Filter("adapter-active", apply, because="the adapter is not active there")


def adapter_room() -> Filter:
    """Servers that can load one more adapter."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return [c for c in candidates if len(c.active_adapters) < c.adapter_capacity]

    return Filter("adapter-room", apply, because="no room for one more adapter")


def low_adapter_cost() -> Filter:
    """Servers that are running the requested adapter, or can load one more."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        model = request.model
        return [
            c
            for c in candidates
            if len(c.active_adapters) < c.adapter_capacity or model in c.active_adapters
        ]

    return Filter(
        "low-adapter-cost", apply, because="the adapter is not active there, and there is no room"
    )
