"""The live state of endpoints, and which of them may be picked."""

from __future__ import annotations

import random

import pytest

from extproc.picking.endpoint_health import Fault, HealthPolicy, Judgement
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


class Ejections(Unobserved):
    def __init__(self) -> None:
        self.told: list[tuple[str, Fault]] = []

    def ejected(self, endpoint: str, fault: Fault) -> None:
        self.told.append((endpoint, fault))


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


@pytest.mark.parametrize("out", [1, 7, 9])
def test_only_the_healthy_are_eligible_however_few_they_are(out: int) -> None:
    pods = fleet(*(endpoint(n) for n in range(10)))
    take_out(pods, *range(out))
    assert eligible(pods)[0] == [key(n) for n in range(out, 10)]


def test_the_ill_stand_behind_as_fallbacks_the_least_bad_first() -> None:
    pods = fleet(endpoint(1), endpoint(2), endpoint(3))
    take_out(pods, 1, 2)
    take_out(pods, 1, now=2.5)
    assert eligible(pods, 2.6)[0][0] == key(3)
    fallbacks = pods.pools[POOL].fallbacks(2, 2.6)
    assert [candidate.key for candidate in fallbacks] == [key(2), key(1)][-len(fallbacks) :]


def test_if_all_are_ill_all_are_used() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    take_out(pods, 1, 2)
    assert eligible(pods)[0] == [key(1), key(2)]


def test_if_nobody_is_well_those_whose_cool_down_is_over_are_tried() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    take_out(pods, 1, 2)
    take_out(pods, 1, now=2.5)
    assert eligible(pods, 2.6)[0] == [key(2)]


def probes(pods: Fleet, picks: int, now: float, well: bool) -> int:
    """Of so many picks, those that tried out an endpoint, which did well or not."""
    view, tried = pods.pools[POOL], 0
    rng = random.Random(7)
    for _ in range(picks):
        chosen = view.eligible(None, now, rng, [])
        unproven = [c for c in chosen if pods.members[c.key].health.unproven(now)]
        assert len(unproven) <= 1
        if unproven:
            tried += 1
            view.picked(unproven[0], now)
            if well:
                pods.judged(Judgement(well=unproven[0].key), now, now)
            else:
                pods.failed(unproven[0].key, Fault.CONNECT, now)
    return tried


def test_half_of_a_fleet_that_is_dead_is_tried_out_by_few_picks() -> None:
    pods = fleet(*(endpoint(n) for n in range(200)))
    take_out(pods, *range(197))
    assert 3 <= probes(pods, 1000, 2.5, well=False) <= 40


def test_probes_that_do_well_bring_a_fleet_back_that_was_misjudged() -> None:
    pods = fleet(*(endpoint(n) for n in range(50)))
    take_out(pods, *range(47))
    assert probes(pods, 1000, 2.5, well=True) == 47


def test_an_endpoint_is_not_tried_twice_at_once() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    take_out(pods, 1)
    view, rng = pods.pools[POOL], random.Random(1)
    view.eligible(None, 2.5, rng, [])
    view.picked(pods.members[key(1)].candidate, 2.5)
    assert all(len(view.eligible(None, 2.6, rng, [])) == 1 for _ in range(500))


# Who answers otherwise than its peers.


def answer(pods: Fleet, number: int, odd: bool, now: float, times: int = 1) -> None:
    for _ in range(times):
        pods.judged(Judgement(odd=key(number)) if odd else Judgement(well=key(number)), now, now)


def standings(pods: Fleet, now: float) -> list[str]:
    return [member.health.standing(now).value for member in pods.members.values()]


def test_one_that_answers_4xx_where_its_peers_do_not_is_taken_out() -> None:
    pods = fleet(*(endpoint(n) for n in range(4)))
    for now in range(10):
        for number in range(4):
            answer(pods, number, number == 2, float(now))
    assert standings(pods, 9.0)[2] == "out"
    assert standings(pods, 9.0).count("in") == 3
    assert pods.members[key(2)].health.fault is Fault.OUTLIER


def test_errors_that_all_give_alike_are_the_clients() -> None:
    pods = fleet(*(endpoint(n) for n in range(4)))
    rng = random.Random(3)
    for step in range(4000):
        answer(pods, rng.randrange(4), rng.random() < 0.3, step * 0.05)
    assert standings(pods, 200.0) == ["in"] * 4


def test_a_client_whose_errors_move_on_with_it_takes_out_one_endpoint_and_no_more() -> None:
    pods = fleet(*(endpoint(n) for n in range(4)))
    for step in range(30):
        for number in range(4):
            answer(pods, number, False, step * 0.1)
        answer(pods, 0, True, step * 0.1)
    assert standings(pods, 3.0)[0] == "out"
    for step in range(30, 60):
        for number in range(1, 4):
            answer(pods, number, False, step * 0.1)
        answer(pods, 1, True, step * 0.1)
    assert standings(pods, 6.0)[1:] == ["in"] * 3


def test_an_odd_answer_on_probation_counts_at_once() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    take_out(pods, 1)
    answer(pods, 2, False, 2.4, times=5)
    answer(pods, 1, True, 2.5)
    assert standings(pods, 2.5) == ["out", "in"]


def test_the_only_endpoint_of_a_pool_has_nobody_to_be_compared_with() -> None:
    pods = fleet(endpoint(1))
    answer(pods, 1, True, 0.0, times=100)
    assert standings(pods, 0.0) == ["in"]


# Who is full.


def test_one_that_says_no_while_it_is_at_work_is_full_and_not_ill() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    busy = pods.members[key(1)]
    for _ in range(4):
        busy.candidate.charge()
    for fault in (Fault.UNAVAILABLE, Fault.BUSY) * 10:
        assert not pods.failed(key(1), fault, 1.0, 0.5)
    assert standings(pods, 1.0) == ["in", "in"]
    keys, trace = eligible(pods, 1.0)
    assert keys == [key(2)]
    assert [name for name, _ in trace] == ["not-full"]
    assert key(1) in eligible(pods, 7.0)[0]


def test_if_all_are_full_all_are_asked() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    for number in (1, 2):
        pods.members[key(number)].candidate.charge()
        pods.failed(key(number), Fault.BUSY, 1.0, 0.5)
    assert eligible(pods, 1.0)[0] == [key(1), key(2)]


def test_one_that_says_no_with_nothing_to_do_is_broken() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    assert [pods.failed(key(1), Fault.UNAVAILABLE, 1.0, 0.5) for _ in range(5)][-1]


def test_one_that_was_passed_over_and_is_alive_has_said_no() -> None:
    pods = fleet(endpoint(1), endpoint(2))
    scrape(pods, 1, Signals(running=4, waiting=0), 1.2)
    for _ in range(5):
        assert not pods.failed(key(1), Fault.PASSED_OVER, 1.3, 1.0)
    # Nothing was heard of it since this one was picked for.
    pods.failed(key(1), Fault.PASSED_OVER, 2.0, 1.9)
    assert pods.failed(key(1), Fault.PASSED_OVER, 2.0, 1.9)


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
    pods = fleet(endpoint(1), endpoint(2))
    pods.observer = ejections = Ejections()
    take_out(pods, 1)
    scrape(pods, 2, Signals(waiting=0), 0.0)
    for _ in range(3):
        pods.scrape_failed(key(2), "refused", False, 0.5)
    assert ejections.told == [(key(1), Fault.CONNECT), (key(2), Fault.SCRAPE)]


def test_news_of_an_endpoint_that_is_gone_is_ignored() -> None:
    pods = fleet(endpoint(1))
    scrape(pods, 9, Signals(waiting=1), 0.0)
    pods.scrape_failed(key(9), "refused", False, 0.0)
    pods.judged(Judgement(well=key(9)), 0.0, 0.0)
    assert not pods.failed(key(9), Fault.CONNECT, 0.0)


def test_one_that_sleeps_gets_no_picks_however_few_are_awake_until_it_is_woken_up() -> None:
    pods = fleet(*(endpoint(n) for n in range(4)))
    pods.observer = ejections = Ejections()
    for n in range(3):
        pods.scraped(key(n), Signals(waiting=0, kv_usage=0.0, asleep=True), 1.0)
        pods.scraped(key(n), Signals(waiting=0, kv_usage=0.0, asleep=True), 1.2)
    keys, trace = eligible(pods, 1.3)
    assert keys == [key(3)]
    assert [name for name, _ in trace] == ["awake"]
    assert ejections.told == [(key(n), Fault.ASLEEP) for n in range(3)]
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
    pods.judged(Judgement(well=key(2)), 8.0, 8.0)
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
