"""The live state of endpoints, and which of them may be picked."""

from __future__ import annotations

import random

import pytest

from extproc.picking.endpoint_health import Fault, HealthPolicy
from extproc.picking.fleet import Fleet
from extproc.picking.observer import Unobserved
from extproc.picking.scheduling import PROFILES, Signals, Step
from extproc.picking.scheduling.signals import Adapters, Latency
from pools.model import Endpoint, InferencePool, ObjectName, World

POOL = ObjectName("default", "llama")
OTHER = ObjectName("default", "other")


def endpoint(number: int, draining: bool = False, metrics_port: int | None = None) -> Endpoint:
    return Endpoint(
        f"10.0.0.{number}", 8000, f"pod-{number}", draining=draining, metrics_port=metrics_port
    )


def key(number: int) -> str:
    return f"10.0.0.{number}:8000"


def world(*endpoints: Endpoint, other: tuple[Endpoint, ...] = ()) -> World:
    return World(
        pools={name: InferencePool(name, (8000,)) for name in (POOL, OTHER)},
        endpoints={POOL: endpoints, OTHER: other},
    )


def fleet(*endpoints: Endpoint, policy: HealthPolicy | None = None) -> Fleet:
    fleet = Fleet(lambda pool: PROFILES["round-robin"](), policy, lambda count: 2.0)
    fleet.update(world(*endpoints))
    return fleet


def eligible(fleet: Fleet, now: float = 0.0, seed: int = 1) -> tuple[list[str], list[Step]]:
    trace: list[Step] = []
    candidates = fleet.pools[POOL].eligible(None, now, random.Random(seed), trace)
    return [candidate.key for candidate in candidates], trace


def take_out(fleet: Fleet, *numbers: int, now: float = 0.0) -> None:
    for number in numbers:
        while not fleet.failed(key(number), Fault.CONNECT, now):
            pass


def test_what_leaves_endpoints_out_is_in_the_trace() -> None:
    pods = fleet(endpoint(1), endpoint(2, draining=True), endpoint(3), endpoint(4))
    take_out(pods, 3)
    keys, trace = eligible(pods)
    assert keys == [key(1), key(4)]
    assert [name for name, _ in trace] == ["not-draining", "healthy"]


def test_when_all_is_well_nothing_is_traced() -> None:
    keys, trace = eligible(fleet(endpoint(1), endpoint(2)))
    assert keys == [key(1), key(2)]
    assert trace == []


@pytest.mark.parametrize(("out", "left"), [(1, 9), (7, 3), (8, 3), (10, 3)])
def test_below_the_floor_the_least_bad_are_kept(out: int, left: int) -> None:
    pods = fleet(*(endpoint(n) for n in range(10)), policy=HealthPolicy(floor=0.3))
    take_out(pods, *range(out))
    keys, _ = eligible(pods)
    assert len(keys) == left
    well = {key(n) for n in range(out, 10)}
    assert well <= set(keys)


def test_the_least_bad_are_those_that_failed_least_often() -> None:
    pods = fleet(endpoint(1), endpoint(2), policy=HealthPolicy(floor=0.5))
    take_out(pods, 1, 2)
    take_out(pods, 1, now=2.5)
    assert eligible(pods, 2.6)[0] in ([key(2)],)


def test_a_pool_of_one_ill_endpoint_still_uses_it() -> None:
    pods = fleet(endpoint(1))
    take_out(pods, 1)
    assert eligible(pods)[0] == [key(1)]


def test_a_pool_without_endpoints_has_none_eligible() -> None:
    assert eligible(fleet()) == ([], [])


def test_state_survives_a_new_world_and_profiles_do_too() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    take_out(pods, 1)
    profile = pods.pools[POOL].profile
    pods.update(world(endpoint(1), endpoint(2), endpoint(3)))
    assert eligible(pods)[0] == [key(2), key(3)]
    assert pods.pools[POOL].profile is profile
    assert pods.pools[OTHER].profile is not profile


def test_an_endpoint_that_was_away_starts_anew() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    take_out(pods, 1)
    pods.update(world(endpoint(2)))
    pods.update(world(endpoint(1), endpoint(2)))
    assert eligible(pods)[0] == [key(1), key(2)]


def test_a_world_that_cannot_be_read_changes_nothing() -> None:
    pods = fleet(endpoint(1))
    bad = world(endpoint(2), other=(None,))  # type: ignore[arg-type]  # on purpose
    with pytest.raises(AttributeError):
        pods.update(bad)
    assert list(pods.members) == [key(1)]
    assert eligible(pods)[0] == [key(1)]


def test_an_endpoint_of_two_pools_drains_for_both() -> None:
    pods = fleet()
    pods.update(world(endpoint(1), endpoint(2), other=(endpoint(1, draining=True),)))
    assert eligible(pods)[0] == [key(2)]


def test_metrics_are_read_where_they_are_served() -> None:
    pods = fleet(endpoint(1), endpoint(2, metrics_port=9400))
    assert pods.targets() == {key(1): "10.0.0.1:8000", key(2): "10.0.0.2:9400"}


def scrape(fleet: Fleet, number: int, signals: Signals, now: float) -> None:
    fleet.scrape_started(key(number))
    fleet.scraped(key(number), signals, now)


def test_what_is_assumed_follows_what_is_known() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    new = pods.members[key(2)].candidate
    scrape(pods, 1, Signals(waiting=4, kv_usage=0.5), 0.0)
    assert (new.queue, new.kv_usage) == (4, 0.5)
    scrape(pods, 1, Signals(waiting=9, kv_usage=0.7), 0.2)
    assert (new.queue, new.kv_usage) == (9, 0.7)
    scrape(pods, 2, Signals(waiting=1, kv_usage=0.1), 0.3)
    assert (new.queue, new.kv_usage) == (1, 0.1)
    assert not pods.pools[POOL].assuming


def test_numbers_that_are_not_renewed_are_no_longer_believed() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    scrape(pods, 1, Signals(waiting=8, kv_usage=0.5), 0.0)
    scrape(pods, 2, Signals(waiting=0, kv_usage=0.1), 0.0)
    silent = pods.members[key(2)]
    pods.scrape_failed(key(2), "timeout", True, 1.9)
    assert silent.candidate.fresh
    pods.scrape_failed(key(2), "timeout", True, 2.1)
    assert not silent.candidate.fresh
    assert silent.candidate.queue == 8
    assert silent.scrape_error == "timeout"


def test_whoever_wants_to_know_is_told_when_an_endpoint_goes_out() -> None:
    told: list[tuple[str, Fault]] = []

    class Ejections(Unobserved):
        def ejected(self, endpoint: str, fault: Fault) -> None:
            told.append((endpoint, fault))

    pods = fleet(endpoint(1), endpoint(2))
    pods.observer = Ejections()
    take_out(pods, 1)
    scrape(pods, 2, Signals(waiting=0), 0.0)
    for _ in range(3):
        pods.scrape_failed(key(2), "refused", False, 0.5)
    assert told == [(key(1), Fault.CONNECT), (key(2), Fault.SCRAPE)]


def test_news_of_an_endpoint_that_is_gone_is_ignored() -> None:
    pods = fleet(endpoint(1))
    scrape(pods, 9, Signals(waiting=1), 0.0)
    pods.scrape_failed(key(9), "refused", False, 0.0)
    pods.succeeded(key(9), 0.0)
    assert not pods.failed(key(9), Fault.CONNECT, 0.0)


def test_one_that_sleeps_gets_no_picks_however_few_are_awake_until_it_is_woken_up() -> None:
    pods = fleet(*(endpoint(n) for n in range(4)), policy=HealthPolicy(floor=0.5))
    told: list[tuple[str, Fault]] = []
    pods.on_out = lambda one, fault: told.append((one, fault))
    for n in range(3):
        pods.scraped(key(n), Signals(waiting=0, kv_usage=0.0, asleep=True), 1.0)
        pods.scraped(key(n), Signals(waiting=0, kv_usage=0.0, asleep=True), 1.2)
    keys, trace = eligible(pods, 1.3)
    assert keys == [key(3)]
    assert [name for name, _ in trace] == ["awake"]
    assert told == [(key(n), Fault.ASLEEP) for n in range(3)]
    pods.scraped(key(0), Signals(waiting=0, kv_usage=0.0, asleep=False), 1.4)
    assert eligible(pods, 1.5)[0] == [key(0), key(3)]


def test_one_that_is_paused_or_has_stalled_gets_no_picks_either() -> None:
    pods = fleet(endpoint(1), endpoint(2), endpoint(3))
    pods.paused(key(1), True)
    candidate = pods.members[key(2)].candidate
    candidate.charge()
    for tick in range(40):
        now = tick / 5
        sample = Signals(waiting=0, running=1, kv_usage=0.1, progress=7.0)
        pods.scraped(key(2), sample, now)
    assert eligible(pods, 8.0)[0] == [key(3)]
    pods.paused(key(1), False)
    pods.succeeded(key(2), 8.0)
    assert eligible(pods, 8.0)[0] == [key(1), key(2), key(3)]


def test_a_server_that_had_no_request_yet_is_taken_to_have_as_many_slots_as_its_peers() -> None:
    """vLLM tells nothing of adapters before its first step."""
    pods = fleet(endpoint(1), endpoint(2), endpoint(3))
    told = Signals(0, 0, 0.0, Adapters(frozenset(), frozenset(), 4), latency=Latency(3, 1.0))
    pods.scraped(key(1), told, 0.0)
    pods.scraped(key(2), Signals(0, 0, 0.0, latency=Latency(0, 0.0)), 0.0)
    pods.scraped(key(3), Signals(0, 0, 0.0, latency=Latency(5, 1.0)), 0.0)
    capacities = [one.candidate.adapter_capacity for one in pods.members.values()]
    assert capacities == [4, 4, 0], "the last has had requests, and no adapters"
