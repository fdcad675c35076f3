"""Who is let in, who waits, and who is refused."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from extproc.picking.admission.saturation import Saturation
from extproc.picking.admission.settings import (
    AdmissionSettings,
    BandSettings,
    ConcurrencySettings,
    Fairness,
    Order,
    UtilizationSettings,
)
from extproc.picking.scheduling import Candidate, Filter, Profile, SchedulingRequest, pickers
from extproc.request import Completed, Outcome, Refused
from pools.model import ObjectName
from tests.extproc.admission_pool import AdmissionPool, Sent, endpoints

ONE = ConcurrencySettings(1)


def pool_with(capacity: int = 1, pods: int = 1, **settings: object) -> AdmissionPool:
    return AdmissionPool(
        pods,
        settings=replace(AdmissionSettings(ConcurrencySettings(capacity)), **settings),  # type: ignore[arg-type]
    )


def full_pool(capacity: int = 1, **settings: object) -> tuple[AdmissionPool, list[Sent]]:
    pool = pool_with(capacity, **settings)
    return pool, [pool.send() for _ in range(capacity)]


# Saturation


def test_while_there_is_room_nobody_waits() -> None:
    pool = AdmissionPool(pods=2, capacity=3)
    assert all(pool.send().routed for _ in range(6))
    assert pool.waiting == 0


def test_a_full_pool_makes_requests_wait_and_every_end_lets_one_in() -> None:
    pool, (first,) = full_pool()
    second, third = pool.send(), pool.send()
    assert second.waits
    assert third.waits
    pool.end(first)
    assert second.routed
    assert third.waits
    pool.end(second)
    assert third.routed


@pytest.mark.parametrize("objective", ["normal", "batch"])
@pytest.mark.parametrize("subset", [(), ("10.9.9.9",)])
def test_who_may_use_none_of_the_endpoints_does_not_wait_for_them(
    objective: str, subset: tuple[str, ...]
) -> None:
    pool, _ = full_pool()
    refused = pool.send(objective, subset=subset).refused
    assert (refused.status, refused.reason) == (503, "no-endpoint-in-subset")
    assert pool.waiting == 0


def test_a_burst_on_one_snapshot_does_not_overshoot() -> None:
    pool = AdmissionPool(settings=AdmissionSettings(UtilizationSettings(queue_threshold=5)), pods=4)
    sent = [pool.send() for _ in range(200)]
    assert sum(not one.waits for one in sent) == 20
    assert [m.candidate.in_flight for m in pool.director.fleet.members.values()] == [5] * 4


def test_a_scrape_that_shows_empty_queues_lets_as_many_in_as_fit_at_once() -> None:
    pool = AdmissionPool(settings=AdmissionSettings(UtilizationSettings(queue_threshold=5)), pods=4)
    sent = [pool.send() for _ in range(200)]
    pool.scrape()
    assert sum(not one.waits for one in sent) == 40


def test_queues_that_the_servers_report_fill_the_pool() -> None:
    pool = AdmissionPool(settings=AdmissionSettings(), pods=2)
    pool.scrape(waiting=5)
    sent = pool.send()
    assert sent.waits
    pool.scrape(waiting=1)
    assert sent.routed


def test_full_kv_caches_fill_the_pool() -> None:
    pool = AdmissionPool(settings=AdmissionSettings())
    pool.scrape(kv_usage=0.81)
    sent = pool.send()
    assert sent.waits
    pool.scrape(kv_usage=0.5)
    assert sent.routed


def test_one_server_stuck_behind_a_long_queue_does_not_close_the_pool() -> None:
    pool = AdmissionPool(settings=AdmissionSettings(), pods=5)
    pool.scrape(waiting=500, only="10.0.0.0:8000")
    assert pool.send().routed


def test_an_endpoint_that_was_never_scraped_counts_as_full() -> None:
    pool = AdmissionPool(settings=AdmissionSettings(UtilizationSettings(queue_threshold=1)))
    pool.update(*endpoints(0, 1))
    assert pool.send().routed, "the known one has room"
    waits = pool.send()
    assert waits.waits
    pool.scrape(only="10.0.0.1:8000")
    assert waits.routed


def test_old_signals_count_as_full_and_how_old_follows_the_scrape_interval() -> None:
    pool = AdmissionPool(settings=AdmissionSettings(UtilizationSettings(queue_threshold=1)), pods=2)
    pool.send(), pool.send()
    pool.scrape()
    stale, fresh = pool.director.fleet.members
    pool.now += 2.5
    pool.scrape(only=fresh)
    pool.picker.scrape_failed(stale, "no answer", alive=True, now=pool.now)
    pool.send()
    [state] = pool.picker.states()
    assert state.saturation == pytest.approx(1.0)
    assert pool.send().waits


def test_an_outage_of_all_metrics_is_none_of_the_pool() -> None:
    pool = AdmissionPool(settings=AdmissionSettings())
    pool.now += 60
    for key in pool.director.fleet.members:
        pool.picker.scrape_failed(key, "no answer", alive=True, now=pool.now)
    sent = [pool.send() for _ in range(101)]
    assert sum(not one.waits for one in sent) == 100
    [state] = pool.picker.states()
    assert state.measured_by == "concurrency (no fresh metrics)"


def test_draining_endpoints_give_no_capacity() -> None:
    pool = AdmissionPool(capacity=1)
    pool.update(*endpoints(0), *endpoints(1, draining=True))
    assert pool.send().routed
    assert pool.send().waits


def test_headroom_lets_in_more_than_the_thresholds_say() -> None:
    pool = pool_with(10, headroom=0.2)
    sent = [pool.send() for _ in range(20)]
    assert sum(not one.waits for one in sent) == 12


def test_a_new_endpoint_lets_requests_in() -> None:
    pool, _ = full_pool()
    waits = pool.send()
    pool.update(*endpoints(0, 1))
    assert waits.routed.endpoints[0] == "10.0.0.1:8000"


def test_an_endpoint_of_two_pools_is_full_for_both() -> None:
    pool = AdmissionPool()
    other = ObjectName("default", "other")
    pool.update(*endpoints(0), pools=(ObjectName("default", "llm"), other))
    first = pool.send()
    waits = pool.send(pool=other)
    assert waits.waits
    pool.end(first)
    assert waits.routed


@pytest.mark.parametrize("saturation", [UtilizationSettings(), ConcurrencySettings(3)])
def test_what_is_counted_step_by_step_is_what_counting_all_gives(
    saturation: UtilizationSettings | ConcurrencySettings,
) -> None:
    pool = AdmissionPool(5, settings=AdmissionSettings(saturation))
    rng = random.Random(1)
    under_way: list[Sent] = []
    keys = list(pool.director.fleet.members)
    for _ in range(500):
        choice = rng.random()
        if choice < 0.5:
            under_way.append(pool.send())
        elif choice < 0.8:
            ended = [one for one in under_way if not one.waits]
            if ended:
                under_way.remove(ended[0])
                pool.end(ended[0])
        else:
            pool.scrape(rng.randrange(8), rng.random(), only=rng.choice(keys))
        [state] = pool.picker.states()
        [view] = pool.director.fleet.pools.values()
        assert state.saturation == pytest.approx(Saturation(saturation, view).level(pool.now))


# Priority


def test_sheddable_requests_are_refused_when_the_pool_is_full() -> None:
    pool, _ = full_pool()
    refused = pool.send("batch").refused
    assert (refused.status, refused.reason) == (429, "shed")
    assert refused.retry_after is not None


def test_sheddable_requests_are_served_while_there_is_room() -> None:
    assert AdmissionPool().send("batch").routed


def test_the_higher_priority_goes_first() -> None:
    pool, (first,) = full_pool()
    normal, low, urgent = pool.send("normal"), pool.send("low"), pool.send("urgent")
    pool.end(first)
    assert [urgent.waits, low.waits, normal.waits] == [False, True, True]
    pool.end(urgent)
    assert [low.waits, normal.waits] == [False, True]


def test_room_is_held_back_for_those_above() -> None:
    bands = {10: BandSettings(), 0: BandSettings(ceiling=0.8)}
    pool = pool_with(10, bands=bands)
    normal = [pool.send("normal") for _ in range(9)]
    assert [one.waits for one in normal] == [False] * 8 + [True]
    urgent = [pool.send("urgent") for _ in range(3)]
    assert [one.waits for one in urgent] == [False, False, True]
    pool.end(normal[0])
    assert not urgent[2].waits
    assert normal[8].waits


def test_ceilings_that_rise_as_priorities_fall_are_an_error() -> None:
    with pytest.raises(ValueError, match="must not rise as priorities fall"):
        AdmissionSettings(bands={1: BandSettings(ceiling=0.5), 0: BandSettings(ceiling=0.9)})


# Fairness


def order_of_service(pool: AdmissionPool, running: Sent, waiting: dict[str, list[Sent]]) -> str:
    """The names of flows in the order in which their requests are let in, one at a time."""
    order = ""
    while True:
        pool.end(running, prompt_tokens=100, completion_tokens=0)
        for name, sents in waiting.items():
            if sents and not sents[0].waits:
                running = sents.pop(0)
                order += name
                break
        else:
            return order


def test_flows_take_turns_however_much_one_sends() -> None:
    pool, (first,) = full_pool()
    waiting = {
        "a": [pool.send(flow="a") for _ in range(6)],
        "b": [pool.send(flow="b") for _ in range(2)],
    }
    assert order_of_service(pool, first, waiting) == "ababaaaa"


def test_by_tokens_a_flow_of_long_prompts_gets_as_many_tokens_not_as_many_requests() -> None:
    pool, (first,) = full_pool(default_band=BandSettings(fairness=Fairness.TOKENS))
    waiting = {
        "a": [pool.send(flow="a", prompt_bytes=1200, max_tokens=1) for _ in range(4)],
        "b": [pool.send(flow="b", prompt_bytes=400, max_tokens=1) for _ in range(12)],
    }
    order = ""
    running = first
    for _ in range(12):
        pool.end(running)
        name = next(name for name, sents in waiting.items() if sents and not sents[0].waits)
        running = waiting[name].pop(0)
        order += name
    assert order.count("b") == 3 * order.count("a")


def test_what_a_flow_really_got_counts_not_what_was_expected() -> None:
    pool, (first,) = full_pool(default_band=BandSettings(fairness=Fairness.TOKENS))
    a = [pool.send(flow="a") for _ in range(3)]
    b = [pool.send(flow="b") for _ in range(3)]
    pool.end(first)
    pool.end(a[0], prompt_tokens=100, completion_tokens=5000)
    pool.end(b[0], prompt_tokens=100, completion_tokens=10)
    assert not b[1].waits, "a had far more than b"
    pool.end(b[1], prompt_tokens=100, completion_tokens=10)
    assert not b[2].waits
    assert a[1].waits


def test_a_flow_that_was_idle_has_not_saved_up_credit() -> None:
    pool, (running,) = full_pool(default_band=BandSettings(fairness=Fairness.TOKENS))
    busy = [pool.send(flow="busy") for _ in range(60)]
    served = iter(busy)
    for _ in range(50):
        pool.end(running)
        running = next(served)
    idle = [pool.send(flow="idle") for _ in range(10)]
    for _ in range(10):
        pool.end(running)
        running = next(one for one in busy + idle if not one.waits and is_open(pool, one))
    assert 4 <= sum(not one.waits for one in idle) <= 6


def is_open(pool: AdmissionPool, sent: Sent) -> bool:
    record = pool.director.decisions.get(sent.routed.pick_id)
    return record is not None and record.completed is None


def test_a_flow_does_not_get_rid_of_a_debt_by_leaving() -> None:
    pool, (running,) = full_pool(default_band=BandSettings(fairness=Fairness.TOKENS))
    a, b = pool.send(flow="a"), [pool.send(flow="b") for _ in range(4)]
    pool.end(running)
    pool.end(a, prompt_tokens=100, completion_tokens=5000)
    again = pool.send(flow="a")
    for one in b[:3]:
        pool.end(one)
    assert again.waits
    assert not b[3].waits


def test_flows_that_nobody_hears_of_any_more_are_forgotten() -> None:
    for fairness in Fairness:
        pool, (running,) = full_pool(default_band=BandSettings(fairness=fairness))
        for number in range(500):
            waits = pool.send(flow=f"tenant-{number}")
            pool.now += 1.0
            pool.end(running)
            running = waits
        pool.end(running)
        [state] = pool.picker.states()
        assert sum(len(list(band.flows)) for band in state.bands) <= 32, "those of half a minute"


def test_names_without_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.picking.admission.band.MAX_IDLE_FLOWS", 10)
    pool, (running,) = full_pool()
    for number in range(500):
        waits = pool.send(flow=f"tenant-{number}")
        pool.end(running)
        running = waits
    [state] = pool.picker.states()
    assert sum(len(list(band.flows)) for band in state.bands) <= 12


def test_within_a_flow_who_came_first_goes_first() -> None:
    pool, (first,) = full_pool()
    late, soon = pool.send(timeout="20"), pool.send(timeout="1")
    pool.end(first)
    assert not late.waits
    assert soon.waits


def test_within_a_flow_the_earliest_deadline_goes_first_where_that_is_set() -> None:
    pool, (first,) = full_pool(default_band=BandSettings(order=Order.EARLIEST_DEADLINE))
    late, soon = pool.send(timeout="20"), pool.send(timeout="1")
    pool.end(first)
    assert late.waits
    assert not soon.waits


# Limits


def test_a_full_queue_refuses() -> None:
    pool, _ = full_pool(default_band=BandSettings(max_requests=2))
    assert pool.send().waits
    assert pool.send().waits
    refused = pool.send().refused
    assert (refused.status, refused.reason) == (429, "queue-full")


def test_the_limit_of_one_band_is_not_that_of_another() -> None:
    pool, _ = full_pool(bands={0: BandSettings(max_requests=0)})
    assert pool.send("normal").refused.reason == "queue-full"
    assert pool.send("urgent").waits


def test_bytes_that_wait_are_limited() -> None:
    pool, _ = full_pool(default_band=BandSettings(max_bytes=1000))
    assert pool.send(body=600).waits
    assert pool.send(body=600).refused.reason == "queue-full"
    assert pool.send(body=400).waits


def test_when_all_is_full_a_higher_priority_takes_the_place_of_a_lower_one() -> None:
    pool, _ = full_pool(max_requests=3)
    kept = pool.send("normal", flow="small")
    pushed = [pool.send("normal", flow="large") for _ in range(2)]
    urgent = pool.send("urgent")
    assert urgent.waits
    assert pushed[1].refused.reason == "queue-full"
    assert pushed[0].waits
    assert kept.waits
    assert pool.send("normal").refused.reason == "queue-full"


def test_a_large_request_that_pushes_out_thousands_keeps_nobody_waiting() -> None:
    pool, _ = full_pool(max_bytes=3_000_000)
    small = [pool.send(flow=f"tenant-{n}", body=1000) for n in range(3000)]
    began = time.process_time()
    assert pool.send("urgent", body=2_500_000).waits
    assert time.process_time() - began < 0.5
    assert sum(one.waits for one in small) == 500
    assert pool.picker.usage.size == 3_000_000


def test_the_longest_flow_gives_up_its_latest_until_it_is_no_longer_than_the_others() -> None:
    pool, _ = full_pool(max_bytes=600)
    long = [pool.send(flow="long", body=100) for _ in range(4)]
    short = [pool.send(flow="short", body=100) for _ in range(2)]
    assert pool.send("urgent", body=300).waits
    assert [one.waits for one in long] == [True, False, False, False]
    assert [one.waits for one in short] == [True, True], "of equally long ones who was first"


def test_nobody_is_pushed_out_for_a_request_that_does_not_fit_even_so() -> None:
    pool, _ = full_pool(max_bytes=1000)
    kept = pool.send("normal", body=500)
    assert pool.send("urgent", body=400).waits
    assert pool.send("urgent", body=700).refused.reason == "queue-full"
    assert kept.waits


# Time


def test_who_waits_too_long_is_told_so_and_when_to_come_back() -> None:
    pool, _ = full_pool(default_band=BandSettings(ttl=2))
    sent = pool.send()
    pool.wait(1.9)
    assert sent.waits
    pool.wait(0.2)
    assert (sent.refused.status, sent.refused.reason) == (429, "queue-timeout")
    assert sent.refused.retry_after is not None
    assert pool.waiting == 0


def test_a_request_can_ask_for_less_or_more_time_up_to_the_cap() -> None:
    pool, _ = full_pool(default_band=BandSettings(ttl=5), max_ttl=10)
    short, long = pool.send(timeout="0.5"), pool.send(timeout="1000")
    pool.wait(0.6)
    assert short.refused.reason == "queue-timeout"
    pool.wait(9)
    assert long.waits
    pool.wait(0.6)
    assert long.refused.reason == "queue-timeout"


@pytest.mark.parametrize("nonsense", ["soon", "", "-1", "nan", "inf", "1s"])
def test_a_timeout_that_is_no_number_of_seconds_does_not_count(nonsense: str) -> None:
    pool, _ = full_pool(default_band=BandSettings(ttl=5))
    sent = pool.send(timeout=nonsense)
    pool.wait(4.9)
    assert sent.waits
    pool.wait(0.2)
    assert sent.refused.reason == "queue-timeout"


def test_a_request_that_will_not_wait_is_refused_at_once() -> None:
    pool, (first,) = full_pool()
    assert pool.send(timeout="0").refused.reason == "queue-timeout"
    pool.end(first)
    assert pool.send(timeout="0").routed


def test_retry_after_follows_the_rate_at_which_requests_end() -> None:
    pool, (running,) = full_pool(default_band=BandSettings(max_requests=40))
    for _ in range(100):
        pool.now += 0.5
        pool.end(running)
        running = pool.send()
    for _ in range(40):
        pool.send()
    refused = pool.send().refused
    assert refused.reason == "queue-full"
    assert refused.retry_after == pytest.approx(41 / 2, rel=0.1)


def test_a_pool_without_endpoints_is_waited_for_but_not_for_long() -> None:
    pool = pool_with(no_endpoints_ttl=3)
    pool.update()
    lucky, unlucky = pool.send(timeout="2.5"), pool.send()
    pool.wait(2)
    assert lucky.waits
    pool.update(*endpoints(7))
    assert lucky.routed
    assert unlucky.waits
    pool.update()
    pool.wait(2.9)
    assert unlucky.waits, "the time counts since the pool became empty"
    pool.wait(0.2)
    assert (unlucky.refused.status, unlucky.refused.reason) == (503, "no-ready-endpoints")


def test_sheddable_requests_do_not_wait_for_a_pool_without_endpoints() -> None:
    pool = AdmissionPool(pods=0)
    assert pool.send("batch").refused.reason == "no-ready-endpoints"


# Leaving


def test_a_client_that_hangs_up_leaves_the_queue_at_once() -> None:
    pool, (first,) = full_pool()
    gone, stays = pool.send(), pool.send()
    gone.withdraw()
    assert pool.waiting == 1
    pool.end(first)
    assert stays.routed
    assert gone.waits, "nobody is told anything"
    gone.withdraw()
    stays.withdraw()
    assert pool.in_flight == 1


def test_a_pool_that_is_deleted_refuses_those_who_wait() -> None:
    pool, _ = full_pool()
    sent = pool.send()
    pool.update(pools=())
    assert sent.refused.reason == "unknown-pool"
    assert pool.waiting == 0


def test_at_the_end_all_who_wait_are_refused_and_nobody_waits_any_more() -> None:
    pool, _ = full_pool()
    sent = pool.send()
    pool.picker.close()
    assert (sent.refused.status, sent.refused.reason) == (503, "shutting-down")
    assert pool.send().refused.reason == "shutting-down"


def test_an_answer_that_fails_does_not_keep_the_others_waiting() -> None:
    pool, (first,) = full_pool()

    def broken(outcome: Outcome) -> None:
        raise RuntimeError("the stream is gone")

    broken_one = pool.send()
    broken_one.withdraw()
    pool.picker.pick(broken_one.request, broken)
    next_one = pool.send()
    pool.end(first)
    pool.picker.expire()
    assert next_one.waits
    pool.now += 901
    pool.picker.expire()
    assert next_one.routed


def test_a_request_that_cannot_be_decided_does_not_keep_the_others_waiting() -> None:
    pool, (first,) = full_pool()

    def broken_for_one(
        request: SchedulingRequest, candidates: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        assert request.request is not None
        if "x-broken" in request.request.headers:
            raise TypeError("a step that does not understand this request")
        return candidates

    profile = Profile("p", (Filter("f", broken_for_one),), pickers.max_score())
    pool.director.fleet.use(lambda pool: profile)
    broken_one = pool.send(headers={"x-broken": "yes"})
    next_one = pool.send()
    pool.end(first)
    assert next_one.routed, "whoever tells of the end knows nothing of the trouble"
    assert broken_one.refused.status == 503
    pool.end(next_one)
    assert (pool.waiting, pool.in_flight, pool.picker.dispatched) == (0, 0, 0)


def test_a_request_that_ends_while_it_is_answered_lets_the_next_one_in() -> None:
    pool, (first,) = full_pool()
    answers: list[Outcome] = []

    def duplicate(outcome: Outcome) -> None:
        answers.append(outcome)
        assert not isinstance(outcome, Refused)
        pool.picker.settle(Completed(outcome.pick_id))

    pool.picker.pick(first.request, duplicate)
    next_one = pool.send()
    pool.end(first)
    assert len(answers) == 1
    assert next_one.routed


# What can be read back


def test_decisions_tell_how_long_the_request_waited() -> None:
    pool, (first,) = full_pool(default_band=BandSettings(ttl=5))
    served, refused = pool.send(), pool.send()
    pool.wait(1.5)
    pool.end(first)
    record = pool.director.decisions.get(served.routed.pick_id)
    assert record is not None
    assert record.summary()["queued_ms"] == pytest.approx(1500)
    pool.wait(4)
    latest = next(pool.director.decisions.latest())
    assert latest.summary()["outcome"] == refused.refused.reason == "queue-timeout"
    assert latest.summary()["queued_ms"] == pytest.approx(5000, abs=51)


def test_every_way_out_is_counted() -> None:
    pool, (first,) = full_pool(default_band=BandSettings(ttl=1, max_requests=3))
    pool.send(), pool.send().withdraw(), pool.send(), pool.send("batch"), pool.send()
    pool.send()
    pool.end(first)
    pool.wait(2)
    label = "default/llm"
    assert dict(pool.telemetry.admission_metrics.outcomes) == {
        (label, 0, "admitted"): 1,
        (label, 0, "dispatched"): 1,
        (label, 0, "withdrawn"): 1,
        (label, 0, "queue-full"): 1,
        (label, 0, "queue-timeout"): 2,
        (label, -1, "shed"): 1,
    }
