"""The profiles that can be asked for by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from extproc.picking.scheduling import affinity, filters, pickers, scorers
from extproc.picking.scheduling.filter_tree import Drop, Node, filter_tree, then
from extproc.picking.scheduling.profile import Filter, Profile

QUEUE_THRESHOLD = 5
"""A sheddable request needs an endpoint with a backlog of at most this."""
KV_USAGE_THRESHOLD = 0.8
"""... and at most this share of the KV cache in use."""
ADAPTER_QUEUE_THRESHOLD = 50
"""Adapters are kept together as long as queues are shorter than this."""
STICKY_SHARE = 0.3
"""In ``default`` a prompt stays where so much of it is cached. Lower than the filter's own 0.8: in
a chat, what the next turn brings is often as long as all before it, and what it costs to leave is
weighed anyway. Of less than this nearly all is new wherever it goes."""


def classic_filter_tree(
    queue_threshold: int = QUEUE_THRESHOLD,
    kv_usage_threshold: float = KV_USAGE_THRESHOLD,
    adapter_queue_threshold: int = ADAPTER_QUEUE_THRESHOLD,
) -> Profile:
    """The decision tree of the first inference gateways.

    ::

        not sheddable?
        ├─ yes: queue < 50?
        │   ├─ some: adapter active? ── yes: least queue, least KV usage
        │   │                        └─ no:  room for an adapter (else all), least queue, least KV
        │   └─ none: least queue, low adapter cost (else all), least KV usage
        └─ no: backlog <= 5 and KV usage <= 0.8?
            ├─ some: least queue, low adapter cost (else all), least KV usage
            └─ none: shed

    Whatever is left at the end is equally good: one at random.
    """
    least_loaded = then(filters.least_queue(), then(filters.least_kv_usage()))
    cheapest_adapter = then(
        filters.least_queue(),
        then(filters.low_adapter_cost(), then(filters.least_kv_usage())),
    )
    keep_adapters_together = Node(
        filters.adapter_active(),
        on_success=least_loaded,
        on_failure=then(filters.adapter_room(), least_loaded),
    )
    root = Node(
        filters.not_sheddable(),
        on_success=Node(
            filters.queue_below(adapter_queue_threshold),
            on_success=keep_adapters_together,
            on_failure=cheapest_adapter,
        ),
        on_failure=Node(
            filters.capacity(queue_threshold, kv_usage_threshold),
            on_success=cheapest_adapter,
            on_failure=Drop(),
        ),
    )
    return Profile("filter-tree", (filter_tree("filter-tree", root),), pickers.uniform())


def shed_when_full(
    queue_threshold: int = QUEUE_THRESHOLD, kv_usage_threshold: float = KV_USAGE_THRESHOLD
) -> Filter:
    """A sheddable request needs an endpoint with room."""
    return filters.sheddable_capacity(queue_threshold, kv_usage_threshold)


def sticky_until_saturated() -> Profile:
    """Where the adapter and the prefix are, until that costs more than it saves; what is new evenly
    over the caches; else the least work."""
    return Profile(
        "default",
        (
            shed_when_full(),
            affinity.adapter_affinity(),
            affinity.prefix_affinity(
                STICKY_SHARE, STICKY_SHARE, recompute_factor=affinity.RECOMPUTE_FACTOR
            ),
            affinity.cold_prompt_spread(),
        ),
        pickers.max_score(),
        (scorers.least_work(),),
    )


def weighted() -> Profile:
    """The blend of llm-d and the inference gateways: prefix 3, queue 2, KV cache 2, and cold
    prompts in turn 2."""
    return Profile(
        "weighted",
        (shed_when_full(),),
        pickers.max_score(),
        (
            scorers.prefix_cache(3),
            scorers.queue(2),
            scorers.kv_cache(2),
            scorers.no_hit_lru(2),
        ),
    )


def least_load() -> Profile:
    """The fewest requests in flight, as counted here."""
    return Profile("least-load", (), pickers.max_score(), (scorers.fewest_in_flight(),))


def uniform_random() -> Profile:
    return Profile("random", (), pickers.uniform())


def round_robin() -> Profile:
    return Profile("round-robin", (), pickers.round_robin())


PROFILES: Mapping[str, Callable[[], Profile]] = {
    "default": sticky_until_saturated,
    "filter-tree": classic_filter_tree,
    "least-load": least_load,
    "random": uniform_random,
    "round-robin": round_robin,
    "weighted": weighted,
}
"""By name. Called once for each pool: a profile may keep state."""
