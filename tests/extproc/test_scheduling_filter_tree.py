"""The filter tree, and the filters that it is made of."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from extproc.picking.scheduling import (
    PROFILES,
    Adapters,
    Candidate,
    Decision,
    Drop,
    Filter,
    Node,
    SchedulingRequest,
    Signals,
    Verdict,
    filter_tree,
    then,
)
from extproc.picking.scheduling import filters as f
from extproc.picking.scheduling.profiles import classic_filter_tree
from pools.model import Endpoint


def pod(
    number: int,
    waiting: int = 0,
    kv: float = 0.0,
    active: str = "",
    room: int = 2,
) -> Candidate:
    """A pod that was just scraped."""
    candidate = Candidate(Endpoint(f"10.0.0.{number}", 8000, f"pod-{number}"))
    adapters = Adapters(frozenset(active.split()), capacity=room)
    candidate.scrape_started()
    candidate.observe(Signals(waiting, 0, kv, adapters), now=0.0, keep_for=1.0)
    return candidate


def ask(model: str = "m", priority: int = 1, seed: int = 0) -> SchedulingRequest:
    return SchedulingRequest(model, priority, random.Random(seed))


def decide(pods: list[Candidate], model: str = "m", priority: int = 1, seed: int = 0) -> Decision:
    return classic_filter_tree().decide(ask(model, priority, seed), pods, 3)


def numbers(candidates: object) -> list[int]:
    assert isinstance(candidates, (list, tuple))
    return [int(candidate.endpoint.name.removeprefix("pod-")) for candidate in candidates]


def apply(filter_: Filter, pods: list[Candidate], model: str = "m", priority: int = 1) -> list[int]:
    return numbers(list(filter_.apply(ask(model, priority), pods)))


# What the first gateways' own tests expect.


def classic_pods() -> list[Candidate]:
    return [
        pod(1, waiting=0, kv=0.2, active="foo bar"),
        pod(2, waiting=3, kv=0.1, active="foo critical"),
        pod(3, waiting=10, kv=0.2, active="foo"),
    ]


def test_a_pod_whose_adapter_is_active_wins_over_one_with_a_shorter_queue() -> None:
    assert numbers(decide(classic_pods(), "critical").endpoints)[0] == 2


def test_a_sheddable_request_goes_where_there_is_capacity() -> None:
    assert numbers(decide(classic_pods(), "sheddable", priority=-1).endpoints)[0] == 1


def test_a_sheddable_request_is_dropped_when_no_pod_has_capacity() -> None:
    pods = [pod(1, 10, 0.9), pod(2, 3, 0.85), pod(3, 10, 0.85)]
    decision = decide(pods, priority=-1)
    assert decision.verdict is Verdict.SHED
    assert decision.endpoints == ()


def test_least_queue_keeps_a_band_by_integer_division() -> None:
    pods = [pod(1, 0), pod(2, 3), pod(3, 10)]
    assert apply(f.least_queue(), pods) == [1, 2]
    # (4 - 0) // 3 is 1, and 2 is beyond it.
    assert apply(f.least_queue(), [pod(1, 0), pod(2, 2), pod(3, 4)]) == [1]


def test_least_kv_usage_keeps_a_band_by_real_division() -> None:
    assert apply(f.least_kv_usage(), [pod(1, kv=0), pod(2, kv=0.3), pod(3, kv=1.0)]) == [1, 2]


@pytest.mark.parametrize("make", [f.least_queue, f.least_kv_usage])
def test_a_band_of_nothing_is_nothing(make: object) -> None:
    assert callable(make)
    assert apply(make(), []) == []


def test_capacity_needs_a_short_queue_and_a_free_cache() -> None:
    pods = [pod(1, 0, 0), pod(2, 1, 0.3), pod(3, 0, 1.0)]
    assert apply(f.capacity(0, 0.8), pods) == [1]


def test_a_low_adapter_cost_is_an_active_adapter_or_room_for_one() -> None:
    pods = [pod(1, active="model"), pod(2, active="another"), pod(3, active="foo bar")]
    assert apply(f.low_adapter_cost(), pods, "model") == [1, 2]


# The thresholds.


def test_queue_50_is_where_adapters_are_no_longer_kept_together() -> None:
    holder, idle = pod(1, waiting=49, active="a"), pod(2, waiting=0, active="x y")
    assert numbers(decide([holder, idle], "a").endpoints)[0] == 1
    holder = pod(1, waiting=50, active="a")
    assert numbers(decide([holder, idle], "a").endpoints)[0] == 2


def test_where_all_queues_are_long_the_shortest_wins_before_the_adapter() -> None:
    pods = [pod(1, waiting=90, active="a"), pod(2, waiting=50, active="x y"), pod(3, 90)]
    assert numbers(decide(pods, "a").endpoints)[0] == 2


def test_an_adapter_nobody_runs_goes_where_it_can_be_loaded() -> None:
    pods = [pod(1, waiting=0, active="x y"), pod(2, waiting=20, active="x")]
    assert numbers(decide(pods, "new").endpoints)[0] == 2


def test_where_no_pod_can_load_it_all_are_considered() -> None:
    pods = [pod(1, waiting=20, active="x y"), pod(2, waiting=0, active="x y")]
    assert numbers(decide(pods, "new").endpoints)[0] == 2


def test_a_backlog_of_5_and_a_cache_at_80_percent_are_still_capacity() -> None:
    assert decide([pod(1, 5, 0.8)], priority=-1).verdict is Verdict.PICKED
    assert decide([pod(1, 6, 0.8)], priority=-1).verdict is Verdict.SHED
    assert decide([pod(1, 5, 0.81)], priority=-1).verdict is Verdict.SHED


@pytest.mark.parametrize("priority", [0, 1, 100])
def test_only_a_negative_priority_can_be_dropped(priority: int) -> None:
    pods = [pod(1, 500, 1.0), pod(2, 400, 1.0)]
    assert numbers(decide(pods, priority=priority).endpoints)[0] == 2


def test_a_request_to_an_empty_pool_is_not_shed_but_has_no_endpoint() -> None:
    for priority in (-1, 0, 1):
        assert decide([], priority=priority).verdict is Verdict.NONE_ELIGIBLE


# The tree itself.


def keep(name: str, *kept: int) -> Filter:
    return Filter(name, lambda _, pods: [p for p in pods if numbers([p])[0] in kept])


def test_success_passes_on_what_was_kept_and_failure_what_was_there() -> None:
    tree = filter_tree(
        "t",
        Node(
            keep("some", 1, 2),
            on_success=Node(
                keep("none"), on_success=Drop(), on_failure=then(keep("not first", 2, 3))
            ),
            on_failure=Drop(),
        ),
    )
    request = ask()
    kept = tree.apply(request, [pod(1), pod(2), pod(3)])
    assert numbers(list(kept)) == [2]
    assert [(name, numbers(list(pods))) for name, pods in request.trace] == [
        ("some", [1, 2]),
        ("none", []),
        ("not first", [2]),
    ]


def test_a_drop_says_so_in_the_trace() -> None:
    request = ask(priority=-1)
    classic_filter_tree().decide(request, [pod(1, 100)], 3)
    assert [name for name, _ in request.trace] == ["not-sheddable", "capacity", "drop"]


# What is equal is treated equally, and what is not known is not taken for idle.


def test_equal_pods_share_evenly() -> None:
    pods = [pod(n) for n in range(1, 6)]
    rng = random.Random(7)
    picked = Counter(
        classic_filter_tree().decide(SchedulingRequest("m", 0, rng), pods, 1).endpoints[0].key
        for _ in range(5000)
    )
    assert len(picked) == 5
    assert max(picked.values()) < 1.15 * min(picked.values())


def test_a_burst_on_one_snapshot_spreads() -> None:
    pods = [pod(n) for n in range(1, 11)]
    rng = random.Random(3)
    for _ in range(200):
        decision = classic_filter_tree().decide(SchedulingRequest("m", 0, rng), pods, 1)
        decision.endpoints[0].charge()
    assert [candidate.in_flight for candidate in pods] == [20] * 10


def test_a_burst_of_sheddable_requests_on_idle_pods_is_served() -> None:
    pods = [pod(n) for n in range(1, 5)]
    profile = classic_filter_tree()
    rng = random.Random(3)
    for _ in range(200):
        decision = profile.decide(SchedulingRequest("m", -1, rng), pods, 1)
        assert decision.verdict is Verdict.PICKED
        decision.endpoints[0].charge()


def test_where_nothing_is_known_nothing_is_shed() -> None:
    pods = [Candidate(Endpoint(f"10.0.0.{n}", 8000, f"pod-{n}")) for n in (1, 2)]
    for _ in range(50):
        decision = decide(pods, priority=-1)
        assert decision.verdict is Verdict.PICKED
        decision.endpoints[0].charge()
    assert [one.in_flight for one in pods] == [25, 25]


def test_behind_a_queue_what_was_sent_since_the_scrape_waits_too() -> None:
    only = pod(1, waiting=4)
    only.charge()
    assert decide([only], priority=-1).verdict is Verdict.PICKED
    only.charge()
    assert decide([only], priority=-1).verdict is Verdict.SHED


# Fallbacks.


def test_fallbacks_are_other_survivors_first_and_then_the_shortest_queues() -> None:
    pods = [
        pod(1, 0, active="a"),
        pod(2, 0, active="a"),
        pod(3, 9, active="x y"),
        pod(4, 2, active="x y"),
    ]
    chosen = numbers(decide(pods, "a").endpoints)
    assert sorted(chosen[:2]) == [1, 2]
    assert chosen[2] == 4


def test_an_endpoint_is_named_once_and_never_more_than_there_are() -> None:
    for size in (1, 2, 3, 50):
        pods = [pod(n, waiting=n % 4, kv=n / 60) for n in range(1, size + 1)]
        for seed in range(20):
            chosen = decide(pods, seed=seed).endpoints
            assert len({c.key for c in chosen}) == len(chosen) == min(3, size)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_picks_an_endpoint_it_was_given(name: str) -> None:
    pods = [pod(n, waiting=n) for n in range(1, 8)]
    profile = PROFILES[name]()
    for seed in range(50):
        chosen = profile.decide(ask(seed=seed), pods, 3).endpoints
        assert len(chosen) == 3
        assert set(chosen) <= set(pods)


def test_least_load_takes_the_fewest_in_flight() -> None:
    pods = [pod(1), pod(2), pod(3)]
    pods[0].charge()
    pods[1].charge()
    pods[1].charge()
    chosen = PROFILES["least-load"]().decide(ask(), pods, 3).endpoints
    assert numbers(chosen) == [3, 1, 2]


def test_the_next_best_scores_are_the_fallbacks_whatever_their_queues() -> None:
    pods = [pod(n) for n in range(1, 5)]
    for one, in_flight in zip(pods, (0, 3, 1, 2), strict=True):
        for _ in range(in_flight):
            one.charge()
        one.scrape_started()
        one.observe(Signals(waiting=10 - in_flight, kv_usage=0.0), 0.0, 1.0)
    chosen = PROFILES["least-load"]().decide(ask(), pods, 3).endpoints
    assert numbers(chosen) == [1, 3, 4]


def test_round_robin_takes_each_in_turn() -> None:
    pods = [pod(1), pod(2), pod(3)]
    profile = PROFILES["round-robin"]()
    assert [numbers(profile.decide(ask(), pods, 1).endpoints)[0] for _ in range(6)] == [
        *(1, 2, 3),
        *(1, 2, 3),
    ]
