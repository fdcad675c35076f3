"""Filters that keep a request where its state is: its prefix, its adapter, its session.

Each keeps only the endpoints that have that state, until these are so much busier than the others
that moving costs less than waiting. So the state is not copied to every endpoint at the first small
imbalance, which would evict it everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.load import PREFILL_RATE
from extproc.picking.scheduling.profile import Filter, SchedulingRequest
from extproc.picking.scheduling.work import (
    ANSWER_TOKENS,
    LASTING_DECODE_TOKENS,
    MEMORY_TOKENS,
    STEP_TOKENS,
    work_at,
    work_of,
    work_with,
)

PREFIX_THRESHOLD = 0.8
MULTIMODAL_THRESHOLD = 0.6
MAX_PREFIX_PENALTY = 18.0
RECOMPUTE_FACTOR = 3.0
"""A prefix that is computed again delays all who decode there, and pushes as much out of a cache:
so it counts for more than its own time. In ``default``; elsewhere it has to be asked for."""
SPREAD_SLACK = 0.5
MAX_SLACK_TOKENS = 8192.0
"""Nobody waits longer than this for the sake of an even load: 0.5 s of prefill."""
SAME_ANSWERS = 1.3
""""About the fewest answers" are at most so many times the fewest, and one. With a smaller margin
too few are left to choose from for the sake of even caches: at 1.25 times without the one, one pod
in eight of w1 can get more prefixes than it holds, for good."""
SAME_COLD_TOKENS = 1024
"""Endpoints that had about as many tokens of new prompts as the one with the fewest take turns."""
ADAPTER_TOKENS = 4096.0
"""What it costs to load an adapter, which takes a slot from others: 0.25 s of prefill, or 16
requests in flight."""


def prefix_affinity(
    threshold: float = PREFIX_THRESHOLD,
    multimodal_threshold: float = MULTIMODAL_THRESHOLD,
    max_penalty: float = MAX_PREFIX_PENALTY,
    prefill_rate: float = PREFILL_RATE,
    exploration: float = 0.0,
    recompute_factor: float = 0.0,
) -> Filter:
    """Endpoints that have at least ``threshold`` of the prompt cached, until they are saturated.

    Saturated: the prompts that wait at the best of them take over ``max_penalty`` seconds longer to
    prefill than those at the best of the others, at ``prefill_rate`` tokens a second: then all
    endpoints are kept, and so they are with the chance ``exploration``.

    With a ``recompute_factor`` the prompt moves before that, to those that would be done earlier
    even if what they have to compute again counted so many times::

        work here + uncached here > work there + recompute_factor * uncached there
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
        if recompute_factor:
            return _where_recomputing_pays(request, sticky, candidates, recompute_factor) or sticky
        return sticky

    return Filter(
        "prefix-cache-affinity-filter",
        apply,
        uses_prefix=True,
        because=f"less than {threshold:.0%} of the prompt is cached there"
        + (", or it is so busy that to compute it again costs less" if recompute_factor else ""),
    )


def _where_recomputing_pays(
    request: SchedulingRequest,
    sticky: Sequence[Candidate],
    candidates: Sequence[Candidate],
    factor: float,
) -> list[Candidate]:
    # What is short of memory is left out of this: a copy elsewhere would take more of it.
    missing = request.uncached_of_each(sticky)
    here = min(work_with(missing, sticky, LASTING_DECODE_TOKENS, 0.0))
    # Nobody has less than no work, nor more cached than these: mostly that settles it.
    if here <= factor * min(missing):
        return []
    kept = set(sticky)
    others = [c for c in candidates if c not in kept]
    missing = [factor * tokens for tokens in request.uncached_of_each(others)]
    there = work_with(missing, others, LASTING_DECODE_TOKENS, 0.0)
    return [c for w, c in zip(there, others, strict=True) if w < here]


def cold_prompt_spread(
    slack: float = SPREAD_SLACK,
    decode_tokens: float = STEP_TOKENS,
    answer_tokens: float = ANSWER_TOKENS,
    memory_tokens: float = MEMORY_TOKENS,
) -> Filter:
    """Spreads what is new: the answers over the servers, and the prompts over their caches.

    1. Those where the first token comes about as early as anywhere: with this prompt they have at
       most ``slack`` times its uncached part (and 8,192 tokens) more work than the least. So a
       prompt that is cached has hardly a choice, and a long new one waits for half its like.
    2. Of these, those with about the fewest answers to give: each request in flight counted as
       ``answer_tokens``, at most 1.3 times the least work and one request. The first token is as
       early with a hundred answers more, but these last, and fill the KV cache of one server while
       others have room.
    3. Of these, the one that had about the fewest tokens of prompts that were new to it, and the
       last of them longest ago.
    """

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        if len(candidates) == 1:
            return candidates
        missing = request.uncached_of_each(candidates)
        work = work_with(missing, candidates, decode_tokens, memory_tokens)
        least = min(work)
        limit = least + min(MAX_SLACK_TOKENS, slack * missing[work.index(least)])
        near = [c for w, c in zip(work, candidates, strict=True) if w <= limit]
        if len(near) == 1:
            return near
        work = work_of(near, answer_tokens, memory_tokens)
        limit = SAME_ANSWERS * min(work) + answer_tokens
        near = [c for w, c in zip(work, near, strict=True) if w <= limit]
        if len(near) == 1:
            return near
        fewest = min([c.cold_tokens for c in near]) + SAME_COLD_TOKENS
        near = [c for c in near if c.cold_tokens <= fewest]
        if len(near) == 1:
            return near
        longest_ago = min([c.cold_order for c in near])
        return [c for c in near if c.cold_order == longest_ago]

    return Filter(
        "cold-prompt-spread-filter",
        apply,
        uses_prefix=True,
        because="more work or more answers there, or more of what was new went there",
    )


def adapter_affinity(adapter_tokens: float = ADAPTER_TOKENS) -> Filter:
    """Endpoints that have the request's LoRA adapter in a slot, and with them those that have a
    slot to spare and so much less work that loading it costs less than waiting::

        work here > work there + adapter_tokens

    Where every slot is in use, a request for another adapter waits until all requests of one of
    them have ended, while the server lets others pass: that may be for ever. So it goes there only
    if no endpoint has a slot to spare. And an endpoint where somebody waits for a slot gets no
    more requests for an adapter that is loaded elsewhere too, so that one will be free.

    Requests for anything but a known adapter pass.
    """

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        model = request.model
        if not candidates or model not in candidates[0].known_adapters:
            return candidates
        loaded = [c for c in candidates if model in c.adapters and c.adapter_slots_left >= 0]
        if not loaded:
            loaded = [c for c in candidates if model in c.adapters]
            if not loaded:
                return _to_load_it(model, candidates)
        for one in loaded:  # mostly one of the first settles it
            if work_at(one) <= adapter_tokens:
                return loaded
        spare = [c for c in candidates if c.adapter_slots_left > 0 and model not in c.adapters]
        if spare and min(work_of(loaded)) > min(work_of(spare)) + adapter_tokens:
            return loaded + spare
        return loaded

    return Filter("adapter-affinity-filter", apply, because="the adapter is not loaded there")


def _to_load_it(model: str, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Where an adapter should go that is in no slot: into an empty one; into one that nobody uses
    now; where it waits already; where the fewest others wait."""
    spare = [c for c in candidates if c.adapter_slots_left > 0]
    if spare:
        return [c for c in spare if len(c.adapters) < c.adapter_capacity] or spare
    waits = [c for c in candidates if model in c.adapter_requests or model in c.waiting_adapters]
    if waits:
        return waits
    most = max([c.adapter_slots_left for c in candidates])
    return [c for c in candidates if c.adapter_slots_left == most]


def _prefill(candidate: Candidate) -> int:
    return candidate.prefill_tokens


def _least_elsewhere(
    kept: Sequence[Candidate],
    candidates: Sequence[Candidate],
    value: Callable[[Candidate], int],
) -> int:
    here = set(kept)
    return min([value(c) for c in candidates if c not in here])
