"""The scorers: one number between 0 and 1 for each candidate, higher is better.

Names and formulas are llm-d's where it has the scorer, so that weights mean the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.profile import SchedulingRequest, Scorer
from extproc.picking.scheduling.work import DECODE_TOKENS, MEMORY_TOKENS, work_with

LOAD_THRESHOLD = 128
TOKEN_LOAD_LIMIT = 4_194_304
MATCH_SCALE_TOKENS = 8192


def fewest_in_flight(weight: float = 1.0) -> Scorer:
    """``1 / (1 + requests in flight)``, counted here: needs no metrics of the server."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [1.0 / (1 + c.in_flight) for c in candidates]

    return Scorer("fewest-in-flight", apply, weight)


def least_work(
    weight: float = 1.0,
    decode_tokens: float = DECODE_TOKENS,
    memory_tokens: float = MEMORY_TOKENS,
) -> Scorer:
    """The least :mod:`work <extproc.picking.scheduling.work>` before and with this request, with
    the uncached part of its prompt: from the least (1) to the most (0)."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        if len(candidates) == 1:
            return [1.0]
        missing = request.uncached_of_each(candidates)
        return _lower_is_better(work_with(missing, candidates, decode_tokens, memory_tokens))

    return Scorer("least-work-scorer", apply, weight, uses_prefix=True)


def queue(weight: float = 1.0) -> Scorer:
    """``(max - queue) / (max - min)``; all equal: 1."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        return _lower_is_better([c.queue for c in candidates])

    return Scorer("queue-scorer", apply, weight)


def running(weight: float = 1.0) -> Scorer:
    """As :func:`queue`, of the requests in the batch."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        return _lower_is_better([c.running for c in candidates])

    return Scorer("running-requests-size-scorer", apply, weight)


def kv_cache(weight: float = 1.0) -> Scorer:
    """``1 - usage``."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [1.0 - c.kv_usage for c in candidates]

    return Scorer("kv-cache-utilization-scorer", apply, weight)


def lora_affinity(weight: float = 1.0) -> Scorer:
    """The adapter runs there: 1; there is room for one more: 0.8; it waits there: 0.6; else 0."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        model = request.model
        return [
            1.0
            if model in c.active_adapters
            else 0.8
            if len(c.active_adapters) + len(c.waiting_adapters) < c.adapter_capacity
            else 0.6
            if model in c.waiting_adapters
            else 0.0
            for c in candidates
        ]

    return Scorer("lora-affinity-scorer", apply, weight)


def prefix_cache(
    weight: float = 1.0, length_weight: float = 0.0, scale_tokens: int = MATCH_SCALE_TOKENS
) -> Scorer:
    """The cached share of the prompt. With ``w = length_weight``, a long match counts more:

    ``w * min(1, cached / scale_tokens) ** 2 + (1 - w) * cached / prompt``
    """

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        if not request.prefix.longest:
            return [0.0] * len(candidates)
        cached = request.prefix.held().get
        prompt = request.prompt_tokens
        if not length_weight:
            return [min(1.0, cached(c, 0) / prompt) for c in candidates]
        return [
            length_weight * min(1.0, cached(c, 0) / scale_tokens) ** 2
            + (1 - length_weight) * min(1.0, cached(c, 0) / prompt)
            for c in candidates
        ]

    return Scorer("prefix-cache-scorer", apply, weight, uses_prefix=True)


def load_aware(weight: float = 1.0, threshold: int = LOAD_THRESHOLD) -> Scorer:
    """``0.5 * (1 - min(queue, threshold) / threshold)``."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [0.5 * (1 - min(c.queue, threshold) / threshold) for c in candidates]

    return Scorer("load-aware-scorer", apply, weight)


def token_load(weight: float = 1.0, limit: int = TOKEN_LOAD_LIMIT) -> Scorer:
    """``1 - min(tokens, limit) / limit``; tokens: those to prefill there, with this request's."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        prompt = request.prompt_tokens
        cached = request.prefix.held().get
        return [
            1 - min(c.prefill_tokens + max(1, prompt - cached(c, 0)), limit) / limit
            for c in candidates
        ]

    return Scorer("token-load-scorer", apply, weight, uses_prefix=True)


def active_requests(
    weight: float = 1.0, idle_threshold: int = 0, max_busy_score: float = 1.0
) -> Scorer:
    """``in flight <= idle_threshold``: 1; else ``(max - in flight) / max * max_busy_score``."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        most = max([c.in_flight for c in candidates])
        return [
            1.0 if c.in_flight <= idle_threshold else (most - c.in_flight) / most * max_busy_score
            for c in candidates
        ]

    return Scorer("active-request-scorer", apply, weight)


def no_hit_lru(weight: float = 1.0) -> Scorer:
    """Spreads prompts that nobody has cached, so that caches grow evenly.

    A prompt of which anybody has anything: 0.5 for all. Else 1 for endpoints that never had such a
    prompt, and for the others by how long ago: the latest 0.
    """

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        if request.prefix.longest:
            return [0.5] * len(candidates)
        turns = sorted([c.cold_turn for c in candidates if c.cold_turn])
        if len(candidates) == 1 or not turns:
            return [1.0] * len(candidates)
        never = len(candidates) - len(turns)
        place = {turn: never + n for n, turn in enumerate(turns)}
        last = len(candidates) - 1
        return [1.0 - place[c.cold_turn] / last if c.cold_turn else 1.0 for c in candidates]

    return Scorer("no-hit-lru-scorer", apply, weight, uses_prefix=True)


def observed_latency(weight: float = 1.0) -> Scorer:
    """The mean time to first token that the server reports, from the least (1) to the most (0).

    One that does not tell is taken for as good as the middle of the others.
    """

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        known = sorted([t for c in candidates if (t := c.time_to_first_token) is not None])
        if not known:
            return [1.0] * len(candidates)
        middle = known[len(known) // 2]
        return _lower_is_better(
            [middle if (t := c.time_to_first_token) is None else t for c in candidates]
        )

    return Scorer("observed-latency-scorer", apply, weight)


def error_rate(weight: float = 1.0) -> Scorer:
    """``1 - share of failures`` among the latest answers."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [1.0 - c.error_rate for c in candidates]

    return Scorer("error-rate-scorer", apply, weight)


def _lower_is_better(values: Sequence[float]) -> Sequence[float]:
    low, high = min(values), max(values)
    if low == high:
        return [1.0] * len(values)
    per_unit = 1.0 / (high - low)
    return [(high - value) * per_unit for value in values]
