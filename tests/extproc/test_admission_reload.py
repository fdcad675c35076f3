"""Settings that change while requests wait."""

from __future__ import annotations

from dataclasses import replace

from extproc.picking.admission.settings import (
    AdmissionSettings,
    BandSettings,
    ConcurrencySettings,
    Fairness,
    Order,
    UtilizationSettings,
)
from tests.extproc.admission_pool import AdmissionPool, Sent

ONE = AdmissionSettings(ConcurrencySettings(1))


def full_pool(settings: AdmissionSettings = ONE) -> tuple[AdmissionPool, Sent]:
    pool = AdmissionPool(settings=settings)
    return pool, pool.send()


def test_more_room_lets_in_those_who_wait_at_once_and_less_sends_nobody_away() -> None:
    pool, first = full_pool()
    waiting = [pool.send() for _ in range(4)]
    pool.use(AdmissionSettings(ConcurrencySettings(3)))
    assert [one.waits for one in waiting] == [False, False, True, True]
    pool.use(ONE)
    pool.end(first)
    pool.end(waiting[0])
    assert waiting[2].waits, "one is still under way"
    pool.end(waiting[1])
    assert waiting[2].routed
    assert waiting[3].waits


def test_the_pool_may_be_measured_in_another_way() -> None:
    pool, _ = full_pool()
    waits = pool.send()
    pool.use(AdmissionSettings(UtilizationSettings(queue_threshold=5)))
    assert waits.routed
    pool.scrape(waiting=5)
    assert pool.send().waits


def test_turned_off_all_who_wait_are_sent_on_the_most_urgent_first() -> None:
    pool, first = full_pool()
    told: list[str] = []
    for objective in ("normal", "urgent", "low"):
        pool.send(objective, on_answer=lambda sent: told.append(sent.request.objective))
    pool.use(None)
    assert told == ["urgent", "low", "normal"]
    assert pool.waiting == pool.picker.usage.size == pool.picker.dispatched == 0
    assert pool.in_flight == 4
    assert pool.send().routed
    pool.end(first)
    assert list(pool.picker.states()) == []


def test_turned_on_what_is_under_way_counts() -> None:
    pool, first = full_pool()
    pool.use(None)
    second = pool.send()
    pool.use(ONE)
    waits = pool.send()
    pool.end(first)
    assert waits.waits
    pool.end(second)
    assert waits.routed
    pool.end(waits)
    assert pool.in_flight == pool.picker.dispatched == 0


def test_who_waited_when_it_was_turned_off_and_on_again_ends_as_any_other() -> None:
    pool, first = full_pool()
    waited = pool.send()
    pool.end(first)
    late = pool.send()
    pool.use(None)
    pool.use(ONE)
    next_one = pool.send()
    late.withdraw()
    pool.end(waited)
    pool.end(late)
    assert next_one.routed
    pool.end(next_one)
    assert pool.in_flight == pool.waiting == pool.picker.dispatched == 0


def test_whoever_waits_may_wait_for_as_long_as_is_allowed_now() -> None:
    pool, _ = full_pool()
    short, own = pool.send(), pool.send(timeout="6")
    pool.wait(2)
    pool.use(replace(ONE, default_band=BandSettings(ttl=5), max_ttl=50))
    pool.wait(2.9)
    assert short.waits
    pool.wait(0.2)
    assert short.refused.reason == "queue-timeout"
    assert own.waits, "it said so itself"
    pool.wait(1)
    assert own.refused.reason == "queue-timeout"


def test_who_has_a_place_keeps_it_though_there_are_fewer_now() -> None:
    pool, first = full_pool()
    waiting = [pool.send() for _ in range(3)]
    pool.use(replace(ONE, default_band=BandSettings(max_requests=2)))
    assert all(one.waits for one in waiting)
    assert pool.send().refused.reason == "queue-full"
    pool.end(first)
    pool.end(waiting[0])
    assert pool.send().waits


def test_another_order_and_another_fairness_hold_for_those_who_wait_already() -> None:
    pool, running = full_pool()
    late, soon = pool.send(flow="a", timeout="20"), pool.send(flow="a", timeout="10")
    other = pool.send(flow="b", prompt_bytes=400_000)
    band = BandSettings(order=Order.EARLIEST_DEADLINE, fairness=Fairness.TOKENS)
    pool.use(replace(ONE, default_band=band))
    pool.end(running)
    assert soon.routed
    pool.end(soon)
    assert other.routed
    pool.end(other)
    assert late.routed


def test_a_new_ceiling_holds_for_those_who_wait() -> None:
    pool = AdmissionPool(settings=AdmissionSettings(ConcurrencySettings(4)))
    for _ in range(4):
        pool.send()
    waits = pool.send()
    held_back = AdmissionSettings(ConcurrencySettings(8), bands={0: BandSettings(ceiling=0.5)})
    pool.use(held_back)
    assert waits.waits
    pool.use(replace(held_back, bands={}))
    assert waits.routed


def test_after_it_has_closed_no_edit_opens_it_again() -> None:
    pool, _ = full_pool()
    pool.picker.close()
    pool.use(replace(ONE, max_requests=5))
    assert pool.send().refused.reason == "shutting-down"
