"""What tenants get of a pool that has more to do than it can, in virtual time.

The pool is :data:`CAPACITY` slots. A request holds one for about :data:`SERVICE` seconds, after
which its end is reported: what remains is the queue, with the code of production.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from extproc.picking.admission.settings import (
    AdmissionSettings,
    BandSettings,
    ConcurrencySettings,
    Fairness,
)
from extproc.request import Refused, Routed
from tests.extproc.admission_pool import AdmissionPool, Sent

CAPACITY = 8
SERVICE = 1.0
RATE = CAPACITY / SERVICE
"""Requests that the pool serves in a second."""


@dataclass
class Simulation:
    """Arrivals and ends in the order of their times."""

    settings: AdmissionSettings
    seed: int = 1
    tokens: dict[str, int] = field(default_factory=dict)
    """Of a request and its answer together, by flow, where not 100. It takes the slot for as many
    times longer."""
    one_flow: bool = False
    """Nobody says whose a request is."""
    queued: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds in the queue of every request that was served, by flow or objective."""
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.pool = AdmissionPool(settings=self.settings)
        self.rng = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._start = self.pool.now

    def at(self, time: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), do))

    def run(self, seconds: float) -> None:
        for step in range(int(seconds / 0.05)):
            self.at(self._start + step * 0.05, self.pool.picker.tick)
        while self._events and self._events[0][0] <= self._start + seconds:
            self.pool.now, _, do = heapq.heappop(self._events)
            do()

    def request(self, name: str, objective: str, then: Callable[[], None] | None = None) -> None:
        """``then``: what its client does when it is over."""

        def answered(sent: Sent) -> None:
            [outcome] = sent.answers
            if isinstance(outcome, Refused):
                self.refused[name, outcome.reason] += 1
                return
            assert isinstance(outcome, Routed)
            self.queued[name].append(self.pool.now - sent.sent_at)

            def over() -> None:
                self.pool.end(sent)
                if then is not None:
                    then()

            held = SERVICE * tokens / 100 * self.rng.uniform(0.8, 1.2)
            self.at(self.pool.now + held, over)

        tokens = self.tokens.get(name, 100)
        self.pool.send(
            objective,
            "" if self.one_flow else name,
            prompt_bytes=4 * tokens,
            max_tokens=1,
            on_answer=answered,
        )

    def clients(self, name: str, count: int) -> None:
        """So many clients, each of which sends its next request when the last is answered."""

        def send() -> None:
            self.request(name, "normal", send)

        for _ in range(count):
            self.at(self._start + self.rng.uniform(0, SERVICE), send)

    def arrivals(self, name: str, objective: str, rate: float, seconds: float) -> None:
        """A Poisson stream."""
        time = self._start
        while (time := time + self.rng.expovariate(rate)) < self._start + seconds:
            self.at(time, lambda: self.request(name, objective))

    def bursts(self, name: str, size: int, every: float, seconds: float) -> None:
        """So many requests at once, again and again."""
        time = self._start + self.rng.random()
        while time < self._start + seconds:
            for _ in range(size):
                self.at(time, lambda: self.request(name, "normal"))
            time += every * self.rng.uniform(0.8, 1.2)

    def p90(self, name: str) -> float:
        waits = sorted(self.queued[name])
        assert len(waits) > 50
        return waits[len(waits) * 9 // 10]


def contended(
    fairness: Fairness = Fairness.ROUND_ROBIN, noisy: int = 0, *, one_flow: bool = False
) -> Simulation:
    """Three tenants with as many clients each as the pool has slots, and a noisy one."""
    band = BandSettings(fairness=fairness, ttl=60)
    simulation = Simulation(
        AdmissionSettings(ConcurrencySettings(CAPACITY), default_band=band), one_flow=one_flow
    )
    for tenant in ("a", "b", "c"):
        simulation.clients(tenant, CAPACITY)
    if noisy:
        simulation.clients("noisy", noisy)
    simulation.run(120)
    return simulation


@pytest.mark.parametrize("fairness", list(Fairness))
def test_who_sends_ten_times_more_does_not_double_the_queue_time_of_others(
    fairness: Fairness,
) -> None:
    without = contended(fairness)
    with_noise = contended(fairness, noisy=10 * CAPACITY)
    for tenant in ("a", "b", "c"):
        assert with_noise.p90(tenant) <= 2 * without.p90(tenant)
        assert with_noise.p90("noisy") > 5 * with_noise.p90(tenant)


def test_without_telling_flows_apart_it_would() -> None:
    assert contended(one_flow=True, noisy=10 * CAPACITY).p90("a") > 4 * contended(
        one_flow=True
    ).p90("a")


# What is promised to a flow, however many times more another one sends: as short a queue time as if
# its share of the pool were a pool of its own. Here there are two, so half of the slots.

SEEDS = (1, 2, 3)
SECONDS = 150.0
Traffic = Callable[[Simulation], None]


def steady(share: float) -> Traffic:
    """Poisson, of so large a part of what the whole pool can serve."""
    return lambda simulation: simulation.arrivals("small", "normal", share * RATE, SECONDS)


def in_bursts(pools: int) -> Traffic:
    """As many requests at once as so many whole pools take, in all half of its share."""
    return lambda simulation: simulation.bursts(
        "small", pools * CAPACITY, 4 * pools * SERVICE, SECONDS
    )


def without_end(simulation: Simulation) -> None:
    """More than all of the pool."""
    simulation.clients("small", 2 * CAPACITY)


def queue_time(
    traffic: Traffic, fairness: Fairness, seed: int, *, slots: int = CAPACITY, flood: int = 0
) -> float:
    """``flood``: tokens of each request of the other one; 0: there is none."""
    band = BandSettings(fairness=fairness, ttl=60)
    simulation = Simulation(
        AdmissionSettings(ConcurrencySettings(slots), default_band=band),
        seed,
        {"flood": flood},
    )
    traffic(simulation)
    if flood:
        simulation.clients("flood", 20 * CAPACITY)
    simulation.run(SECONDS)
    return simulation.p90("small")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fairness", list(Fairness))
@pytest.mark.parametrize(
    "traffic",
    [steady(0.25), steady(0.4), in_bursts(1), in_bursts(2), in_bursts(3), without_end],
    ids=["steady 1/4", "steady 2/5", "bursts of 1", "bursts of 2", "bursts of 3", "without end"],
)
def test_beside_a_flood_the_queue_is_no_longer_than_alone_with_ones_share_of_the_pool(
    traffic: Traffic, fairness: Fairness, seed: int
) -> None:
    own_half = queue_time(traffic, fairness, seed, slots=CAPACITY // 2)
    beside = queue_time(traffic, fairness, seed, flood=100)
    # Its own half would mostly have a slot free; here it waits until one is.
    assert beside <= 1.1 * own_half + 4 * SERVICE / CAPACITY


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fairness", list(Fairness))
@pytest.mark.parametrize("pools", [2, 3])
def test_bursts_within_ones_share_wait_less_than_twice_as_long_as_with_the_whole_pool_alone(
    pools: int, fairness: Fairness, seed: int
) -> None:
    alone = queue_time(in_bursts(pools), fairness, seed)
    assert alone > SERVICE
    assert queue_time(in_bursts(pools), fairness, seed, flood=100) <= 2 * alone


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("traffic", [steady(0.25), steady(0.4), in_bursts(2), without_end])
def test_by_tokens_it_does_not_matter_that_the_requests_of_the_flood_are_longer(
    traffic: Traffic, seed: int
) -> None:
    own_half = queue_time(traffic, Fairness.TOKENS, seed, slots=CAPACITY // 2)
    beside = queue_time(traffic, Fairness.TOKENS, seed, flood=300)
    # Whatever is under way is not interrupted, and takes three times as long now.
    assert beside <= 1.1 * own_half + 3 * SERVICE
    if traffic is without_end:
        assert queue_time(traffic, Fairness.ROUND_ROBIN, seed, flood=300) > 1.5 * own_half


@pytest.mark.parametrize("fairness", list(Fairness))
def test_who_wants_all_of_the_pool_and_gets_half_takes_twice_as_long_in_all(
    fairness: Fairness,
) -> None:
    """From arrival to end, that is. Its service takes no longer than before, so its time in the
    queue is more than doubled, whoever shares a pool in halves."""
    alone = queue_time(without_end, fairness, 1) + SERVICE
    beside = queue_time(without_end, fairness, 1, flood=100) + SERVICE
    assert beside <= 2.1 * alone


@pytest.mark.parametrize("fairness", list(Fairness))
def test_who_comes_back_claims_only_so_much_of_what_it_left_to_others(fairness: Fairness) -> None:
    band = BandSettings(fairness=fairness, ttl=60)
    simulation = Simulation(AdmissionSettings(ConcurrencySettings(CAPACITY), default_band=band))
    simulation.clients("busy", 2 * CAPACITY)
    simulation.bursts("back", 20 * CAPACITY, 100, 50)
    simulation.run(30)
    # Two pools' worth first, then in turn.
    assert max(simulation.queued["busy"]) < 6 * SERVICE
    assert len(simulation.queued["busy"]) > 0.35 * RATE * 30


@pytest.mark.parametrize("fairness", list(Fairness))
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_who_needs_less_than_a_fair_share_hardly_waits_beside_one_who_floods(
    fairness: Fairness, share: float
) -> None:
    band = BandSettings(fairness=fairness, ttl=60)
    simulation = Simulation(AdmissionSettings(ConcurrencySettings(CAPACITY), default_band=band))
    simulation.arrivals("small", "normal", share * RATE, 200)
    simulation.clients("flood", 20 * CAPACITY)
    simulation.run(200)
    assert simulation.p90("small") < SERVICE, "a slot comes free every eighth of that"
    assert simulation.p90("flood") > 10 * SERVICE


def test_two_flows_that_both_want_everything_get_half_each() -> None:
    for fairness in Fairness:
        band = BandSettings(fairness=fairness, ttl=60)
        simulation = Simulation(AdmissionSettings(ConcurrencySettings(CAPACITY), default_band=band))
        simulation.clients("a", 2 * CAPACITY)
        simulation.clients("b", 20 * CAPACITY)
        simulation.run(100)
        served = {name: len(waits) for name, waits in simulation.queued.items()}
        assert 0.95 < served["a"] / served["b"] < 1.05


def overloaded(factor: float) -> Simulation:
    """``factor`` times what the pool can serve: half a load urgent, the rest normal and batch."""
    simulation = Simulation(AdmissionSettings(ConcurrencySettings(CAPACITY)))
    seconds = 200
    simulation.arrivals("urgent", "urgent", 0.5 * RATE, seconds)
    if factor > 0.5:
        simulation.arrivals("normal", "normal", (factor - 0.5) / 2 * RATE, seconds)
        simulation.arrivals("batch", "batch", (factor - 0.5) / 2 * RATE, seconds)
    simulation.run(seconds)
    return simulation


def test_at_twice_the_load_high_priority_keeps_its_latency_and_sheddable_gets_429() -> None:
    alone, double = overloaded(0.5), overloaded(2.0)
    # All slots are taken by others now, so it waits for one to come free: an eighth of the time
    # that one request takes, and no longer than a few of those.
    assert double.p90("urgent") <= alone.p90("urgent") + 3 * SERVICE / CAPACITY
    assert not [key for key in double.refused if key[0] == "urgent"]
    sent = double.refused["batch", "shed"] + len(double.queued["batch"])
    assert double.refused["batch", "shed"] > 0.9 * sent
    served = sum(len(waits) for waits in double.queued.values())
    assert served > 0.95 * RATE * 200, "the pool is never idle"
