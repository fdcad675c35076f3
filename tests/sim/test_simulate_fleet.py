"""A fleet on a virtual clock: requests are served, counted, retried and lost as they would be."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from extproc.picking.admission.settings import (
    AdmissionSettings,
    BandSettings,
    ConcurrencySettings,
)
from extproc.picking.endpoint_health import HealthPolicy
from extproc.picking.scheduling import Picker, Profile
from extproc.picking.scheduling.load import LoadSettings
from extproc.picking.scraping import ScrapeSettings
from extproc.reasons import Reason
from sim.engine import EngineConfig
from sim.fleet.fleet import Fleet, FleetConfig
from sim.fleet.measure import measure, quantile
from sim.fleet.policies import POLICIES
from sim.fleet.prompt import Segment
from sim.fleet.record import Outcome, Trace
from sim.fleet.traffic import WARM_UP, AbortStorm, Arrival, Call, Death, Drain, Incident
from sim.workloads.stages import Stage, StagedTraffic
from tests.sim.virtual_pod import COST

ENGINE = EngineConfig(cost=COST)


class Script:
    """These requests at these times, whatever happens."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self._arrivals = arrivals

    def start(self) -> Iterable[Arrival]:
        return self._arrivals

    def ended(self, call: Call, at: float) -> Iterable[Arrival]:
        return ()


def call(number: int, *, stage: int = 1, own: int = 1000, output: int = 100, **more) -> Call:
    prompt = (Segment(1, 2000), Segment(100 + number, own))
    return Call(
        id=str(number),
        prompt=prompt,
        output_tokens=output,
        output=9000 + number,
        stage=stage,
        **more,
    )


def run(
    arrivals: Sequence[Arrival],
    policy: str = "round-robin",
    pods: int = 4,
    incidents: Sequence[Incident] = (),
    engine: EngineConfig = ENGINE,
    **config,
) -> Trace:
    fleet = Fleet(
        [engine] * pods,
        POLICIES[policy](),
        Script(arrivals),
        random.Random(1),
        FleetConfig(**config),
        incidents,
    )
    return fleet.run()


def poisson(count: int, rate: float, **more) -> list[Arrival]:
    rng, at, arrivals = random.Random(5), 0.0, []
    for number in range(count):
        at += rng.expovariate(rate)
        arrivals.append((at, call(number, **more)))
    return arrivals


def test_one_request_takes_what_its_pod_takes():
    (record,) = run([(1.0, call(0))]).records
    assert record.outcome is Outcome.OK
    first_token = 3000 / COST.prefill_tokens_per_second
    assert record.first_token - record.arrived == pytest.approx(first_token)
    assert record.ended - record.first_token == pytest.approx(99 * COST.step_seconds(0, 1))


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_serves_everything_and_its_counters_return_to_zero(policy):
    trace = run(poisson(400, 30), policy)
    assert {record.outcome for record in trace.records} == {Outcome.OK}
    assert trace.left_in_flight == 0
    assert sum(pod.requests for pod in trace.pods) == 400


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_same_seed_gives_the_same_run(policy):
    first, second = (measure(run(poisson(200, 40), policy)) for _ in range(2))
    assert first == second


def test_a_pod_that_dies_cuts_what_it_served_and_later_requests_go_elsewhere():
    trace = run(poisson(1200, 30), incidents=[Death(5.0, 2, away=4.0)])
    cut = [record for record in trace.records if record.outcome is Outcome.CUT]
    assert cut
    assert {record.pod for record in cut} == {2}
    assert all(record.arrived <= 5.0 == record.ended for record in cut)
    others = [record for record in trace.records if record not in cut]
    assert {record.outcome for record in others} == {Outcome.OK}
    meanwhile = [r for r in others if 5.0 < r.arrived < 9.0]
    assert meanwhile
    assert 2 not in {record.pod for record in meanwhile}
    assert max(record.tries for record in meanwhile) == 2
    assert trace.left_in_flight == 0


def share_of(pod: int, trace: Trace, begin: float, end: float) -> float:
    pods = [record.pod for record in trace.records if begin < record.arrived < end]
    return pods.count(pod) / len(pods)


def test_a_pod_that_is_back_is_found_by_a_scrape_and_gets_its_share_step_by_step():
    # Scrapes of a server that is away come ever less often: this one is found after 11.3 s.
    trace = run(poisson(1200, 30), incidents=[Death(5.0, 2, away=4.0)])
    assert share_of(2, trace, 9.0, 11.0) == 0.0
    assert 0.0 < share_of(2, trace, 11.5, 16.0) < 0.15
    assert share_of(2, trace, 22.0, 40.0) == pytest.approx(0.25, abs=0.03)


def test_how_fast_a_pod_returns_is_the_health_policys():
    def soon(slow_start: float) -> float:
        health = HealthPolicy(slow_start=slow_start)
        trace = run(poisson(600, 30), incidents=[Death(5.0, 2, away=4.0)], health=health)
        return share_of(2, trace, 13.0, 18.0)

    assert soon(1.0) == pytest.approx(0.25, abs=0.05)
    assert soon(100.0) < 0.06


def test_however_many_are_out_requests_go_to_the_one_that_is_well():
    # Envoy tries one endpoint only: what is picked is what is tried.
    deaths = [Death(2.0, pod, away=1e6) for pod in (1, 2, 3)]
    trace = run(poisson(600, 30), incidents=deaths, endpoints_per_pick=1)
    late = [record for record in trace.records if record.arrived > 6.0]
    assert sum(record.outcome is Outcome.OK for record in late) / len(late) > 0.98


ONE_EACH = AdmissionSettings(ConcurrencySettings(1))


def test_where_the_pool_is_full_requests_wait_and_the_urgent_go_first():
    names = ("normal", "normal", "urgent", "batch")
    arrivals = [(1.0 + n / 100, call(n, objective=name)) for n, name in enumerate(names)]
    trace = run(arrivals, pods=1, admission=ONE_EACH)
    first, normal, urgent, batch = trace.records
    assert batch.refused is Reason.SHED
    assert batch.outcome is Outcome.REFUSED
    assert first.first_token < first.ended < urgent.first_token < urgent.ended < normal.first_token
    # The picker hears of the end a little late, and the next one goes.
    prefill = 3000 / COST.prefill_tokens_per_second
    assert urgent.first_token - first.ended == pytest.approx(0.02, abs=prefill)
    assert trace.left_in_flight == 0


def test_a_request_that_waits_for_too_long_is_refused_and_takes_nothing_with_it():
    settings = replace(ONE_EACH, default_band=BandSettings(ttl=0.5))
    trace = run([(1.0, call(0)), (1.1, call(1))], pods=1, admission=settings)
    assert [record.outcome for record in trace.records] == [Outcome.OK, Outcome.REFUSED]
    late = trace.records[1]
    assert late.refused is Reason.QUEUE_TIMEOUT
    assert late.ended - late.arrived == pytest.approx(0.5, abs=0.051)
    assert trace.left_in_flight == 0


def test_clients_hang_up_while_they_wait_too():
    arrivals = [(1.0 + n / 100, call(n)) for n in range(6)]
    storm = [AbortStorm(1.5, share=1.0)]
    trace = run(arrivals, pods=1, admission=ONE_EACH, incidents=storm)
    assert {record.outcome for record in trace.records} == {Outcome.ABORTED}
    assert {record.ended for record in trace.records} == {1.5}
    assert trace.left_in_flight == 0


def test_each_priority_is_measured_on_its_own():
    names = ["urgent", "normal", "batch"] * 40
    arrivals = [(n / 30, call(n, objective=name)) for n, name in enumerate(names)]
    measures = measure(run(arrivals, pods=1, admission=AdmissionSettings(ConcurrencySettings(4))))
    urgent, normal, batch = measures.priorities
    assert [one.priority for one in measures.priorities] == [10, 0, -1]
    assert [one.requests for one in measures.priorities] == [40, 40, 40]
    assert urgent.refused == 0 < batch.refused
    assert urgent.ttft_mean < normal.ttft_mean
    assert measure(run([(0.1, call(0))])).priorities == ()


def test_with_every_pod_dead_requests_are_lost_and_nothing_leaks():
    deaths = [Death(0.5, pod, away=1e6) for pod in range(4)]
    trace = run([(1.0, call(0)), (2.0, call(1))], incidents=deaths)
    assert [record.outcome for record in trace.records] == [Outcome.LOST, Outcome.LOST]
    assert trace.left_in_flight == 0


def test_a_pod_that_drains_ends_what_it_has_takes_nothing_new_and_comes_back_empty():
    trace = run(poisson(600, 30, output=300), incidents=[Drain(5.0, 1)])
    assert {record.outcome for record in trace.records} == {Outcome.OK}
    on_it = [record for record in trace.records if record.pod == 1]
    last_end = max(record.ended for record in on_it if record.arrived < 5.0)
    away = [record for record in on_it if 5.0 < record.arrived < last_end]
    assert not away
    back = [record for record in on_it if record.arrived > last_end]
    assert min(back, key=lambda record: record.arrived).cached == 0


def test_clients_that_hang_up_free_their_pods_at_once():
    trace = run(poisson(400, 30), incidents=[AbortStorm(6.0)])
    aborted = [record for record in trace.records if record.outcome is Outcome.ABORTED]
    assert aborted
    assert all(record.ended == 6.0 for record in aborted)
    assert trace.left_in_flight == 0


def test_a_burst_on_one_snapshot_spreads_evenly():
    burst = [(0.5, call(number)) for number in range(200)]
    for policy in ("default", "least-load", "weighted"):
        trace = run(burst, policy, pods=8)
        assert {pod.requests for pod in trace.pods} <= set(range(20, 31)), policy


def test_a_request_that_no_cache_could_hold_is_refused_not_waited_for():
    trace = run([(0.1, call(0, own=400_000))])
    assert [record.outcome for record in trace.records] == [Outcome.TOO_LONG]


def test_requests_of_the_warm_up_are_served_but_not_measured():
    arrivals = [(0.1, call(0, stage=WARM_UP)), (20.0, call(1))]
    trace = run(arrivals, pods=1)
    measures = measure(trace)
    assert measures.requests == 1
    assert trace.pods[0].requests == 1
    assert measures.hit_rate == pytest.approx(2000 / 3000, rel=0.01)
    assert sum(trace.intervals.values()) == 99


def test_least_request_sends_to_the_less_busy_of_two():
    # One pod is held by long answers; P2C finds it busy whenever it draws another one too.
    held = [(0.0, call(number, output=5000)) for number in range(4)]
    trace = run(
        [*held, *((5.0 + n, call(10 + n, output=2)) for n in range(100))], "least-request", 2
    )
    long = {record.pod for record in trace.records[:4]}
    short = [record.pod for record in trace.records[4:]]
    if len(long) == 1:
        assert short.count(*long) < 40
    else:
        assert 20 < short.count(0) < 80


def test_a_stage_begins_when_the_one_before_is_answered():
    stages = [Stage(1, 10.0, 30), Stage(2, 10.0, 30)]
    traffic = StagedTraffic(
        stages,
        lambda stage, n: call(stage.number * 100 + n, stage=stage.number),
        random.Random(1),
        pause=2.0,
    )
    fleet = Fleet([ENGINE], POLICIES["random"](), traffic, random.Random(1))
    records = fleet.run().records
    first = [record for record in records if record.call.stage == 1]
    second = [record for record in records if record.call.stage == 2]
    assert (len(first), len(second)) == (30, 30)
    assert min(r.arrived for r in second) >= max(r.ended for r in first) + 2.0


def test_arrivals_of_a_stage_are_poisson():
    traffic = StagedTraffic([Stage(1, 50.0, 20_000)], lambda s, n: call(n), random.Random(3))
    times = [at for at, _ in traffic.start()]
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.05)


def test_quantiles_lie_between_the_nearest_values():
    assert quantile([0.0, 10.0], 0.5) == 5.0
    assert quantile([1.0], 0.99) == 1.0
    assert quantile(list(range(101)), 0.9) == 90


def test_steady_throughput_leaves_out_what_is_answered_when_nobody_asks_any_more():
    # Ten seconds of arrivals; the one that came last takes as long as all of them.
    arrivals = [(float(n), call(n, output=100)) for n in range(10)]
    trace = run([*arrivals, (10.0, call(10, output=10_000))])
    measures = measure(trace)
    last = trace.records[-1]
    assert last.call.output_tokens == 10_000
    assert last.ended > 60
    assert measures.steady_tokens_per_second == pytest.approx(10 * 100 / 10.0, rel=0.01)
    assert measures.output_tokens_per_second == pytest.approx(11_000 / last.ended, rel=0.01)


def test_without_a_stretch_of_time_there_is_no_steady_throughput():
    assert math.isnan(measure(run([(1.0, call(0)), (1.0, call(1))])).steady_tokens_per_second)


@pytest.mark.parametrize(("rate", "still_there"), [(20_000.0, 3000), (1e9, 0)])
def test_a_policy_goes_by_the_speed_that_it_takes_pods_for(rate, still_there):
    seen = []

    def look(request, candidates, scores, count):
        seen.append(sum(candidate.prefill_tokens for candidate in candidates))
        return list(candidates[:1])

    policy = Profile("look", (), Picker("look", look))
    # The second comes a millisecond later, before anything was scraped.
    script = Script([(0.0, call(0)), (0.001, call(1))])
    config = FleetConfig(
        load=LoadSettings(prefill_rate=rate), scrape=ScrapeSettings(interval=60.0), scrape_delay=1.0
    )
    Fleet([ENGINE], policy, script, random.Random(1), config).run()
    assert seen == [0, still_there]
