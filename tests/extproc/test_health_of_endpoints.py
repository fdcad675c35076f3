"""When an endpoint is taken out of picks, and how it comes back."""

from __future__ import annotations

import pytest

from extproc.picking.endpoint_health import EndpointHealth, Fault, HealthPolicy, Standing, judge
from extproc.request import Completed

ENDPOINTS = ("a:1", "b:1", "c:1")


def fresh() -> EndpointHealth:
    return EndpointHealth(HealthPolicy())


def take_out(health: EndpointHealth, now: float, fault: Fault = Fault.CONNECT) -> None:
    while not health.failed(fault, now):
        pass


@pytest.mark.parametrize(
    ("fault", "times"),
    [(Fault.CONNECT, 2), (Fault.PASSED_OVER, 2), (Fault.RESET, 3), (Fault.ERROR, 5)],
)
def test_so_many_failures_in_a_row_take_it_out(fault: Fault, times: int) -> None:
    health = fresh()
    assert [health.failed(fault, 0.0) for _ in range(times)] == [False] * (times - 1) + [True]
    assert health.standing(0.0) is Standing.OUT
    assert health.share(0.0) == 0.0


def test_a_success_in_between_starts_the_count_anew() -> None:
    health = fresh()
    for _ in range(10):
        assert not health.failed(Fault.CONNECT, 0.0)
        health.succeeded(0.0)


def test_failures_of_different_kinds_add_up() -> None:
    health = fresh()
    assert not health.failed(Fault.CONNECT, 0.0)
    assert not health.failed(Fault.RESET, 0.0)
    assert health.failed(Fault.ERROR, 0.0)


def test_after_the_cool_down_its_share_grows_from_a_tenth_to_all() -> None:
    health = fresh()
    take_out(health, 0.0)
    assert health.standing(1.9) is Standing.OUT
    assert health.standing(2.0) is Standing.RETURNING
    assert [round(health.share(now), 2) for now in (2.0, 7.0, 11.0, 12.0)] == [0.1, 0.5, 0.9, 1.0]
    assert health.standing(12.0) is Standing.IN


def test_one_failure_on_return_takes_it_out_for_twice_as_long_up_to_a_limit() -> None:
    health = fresh()
    take_out(health, 0.0)
    now, lengths = 0.0, []
    for _ in range(8):
        assert health.out_until is not None
        lengths.append(health.out_until - now)
        now = health.out_until
        assert health.failed(Fault.ERROR, now)
    assert lengths == [2, 4, 8, 16, 32, 60, 60, 60]


def test_once_fully_back_the_past_is_forgotten() -> None:
    health = fresh()
    take_out(health, 0.0)
    assert health.failed(Fault.CONNECT, 2.0)
    take_out(health, 100.0)
    assert health.out_until == 102.0


def test_a_failure_from_before_it_was_taken_out_is_no_news_when_it_has_returned() -> None:
    health = EndpointHealth(HealthPolicy(cool_down=2.0))
    take_out(health, 10.0)
    assert health.standing(12.5) is Standing.RETURNING
    # Of these Envoy tells at their end, seconds after they went on to another endpoint.
    assert not health.failed(Fault.PASSED_OVER, 12.5, sent=9.0)
    assert health.standing(12.5) is Standing.RETURNING
    assert health.failed(Fault.PASSED_OVER, 12.5, sent=12.1)


def test_the_first_good_scrape_of_a_pod_that_was_away_ends_its_cool_down() -> None:
    health = fresh()
    take_out(health, 0.0)
    health.scrape_failed(0.2)
    health.scrape_succeeded(0.5)
    assert health.standing(0.5) is Standing.RETURNING


@pytest.mark.parametrize("fault", [Fault.CONNECT, Fault.RESET, Fault.ERROR])
def test_scrapes_that_were_good_all_along_say_nothing_for_it(fault: Fault) -> None:
    health = fresh()
    take_out(health, 0.0, fault)
    health.scrape_succeeded(0.5)
    assert health.standing(0.5) is Standing.OUT


def test_failing_scrapes_take_out_a_pod_that_could_be_scraped_before() -> None:
    health = fresh()
    health.scrape_succeeded(0.0)
    assert [health.scrape_failed(1.0) for _ in range(3)] == [False, False, True]
    assert health.fault is Fault.SCRAPE
    assert health.standing(3.0) is Standing.RETURNING
    assert health.scrape_failed(3.0)


def test_a_pod_that_was_never_scraped_is_not_taken_out_for_it() -> None:
    health = fresh()
    assert not any(health.scrape_failed(1.0) for _ in range(50))


def test_a_pod_that_serves_is_not_taken_out_for_a_metrics_port_that_is_blocked() -> None:
    health = fresh()
    health.scrape_succeeded(0.0)
    health.scrape_failed(1.0)
    health.succeeded(1.1)
    assert not any(health.scrape_failed(2.0) for _ in range(50))
    health.scrape_succeeded(3.0)
    assert [health.scrape_failed(4.0) for _ in range(3)] == [False, False, True]


# What one finished request says.


def completed(
    code: int = 200,
    served: str = "",
    tried: str = "",
    attempts: int = 1,
    flags: frozenset[str] = frozenset(),
) -> Completed:
    return Completed("p", code, served=served, tried=tried, attempts=attempts, flags=flags)


def test_an_answer_is_to_the_credit_of_whoever_gave_it() -> None:
    assert judge(completed(served="a:1"), ENDPOINTS) == ((), "a:1")
    assert judge(completed(404, served="a:1"), ENDPOINTS) == ((), "a:1")


def test_those_that_envoy_passed_over_have_failed() -> None:
    assert judge(completed(served="c:1", attempts=3), ENDPOINTS) == (
        (("a:1", Fault.PASSED_OVER), ("b:1", Fault.PASSED_OVER)),
        "c:1",
    )


def test_one_that_envoy_no_longer_knew_is_not_blamed() -> None:
    assert judge(completed(served="c:1", attempts=1), ENDPOINTS) == ((), "c:1")


def test_an_endpoint_is_not_blamed_twice_over_however_often_envoy_tried() -> None:
    assert judge(completed(served="b:1", attempts=4), ENDPOINTS) == (
        (("a:1", Fault.PASSED_OVER),),
        "b:1",
    )


def test_when_all_were_tried_in_vain_all_failed() -> None:
    faults, served = judge(
        completed(503, tried="z:1", attempts=4, flags=frozenset({"UF", "URX"})), ENDPOINTS
    )
    assert faults == (*((key, Fault.PASSED_OVER) for key in ENDPOINTS), ("z:1", Fault.CONNECT))
    assert served == ""


@pytest.mark.parametrize(
    ("code", "flag", "fault"),
    [
        (503, "UF", Fault.CONNECT),
        (503, "UC", Fault.RESET),
        (502, "UR", Fault.RESET),
        (504, "UT", Fault.ERROR),
    ],
)
def test_a_flag_says_how_the_last_try_failed(code: int, flag: str, fault: Fault) -> None:
    entry = completed(code, tried="a:1", flags=frozenset({flag}))
    assert judge(entry, ENDPOINTS) == ((("a:1", fault),), "")


def test_a_5xx_of_the_pod_is_its_fault_and_one_of_envoy_is_not() -> None:
    assert judge(completed(500, served="a:1"), ENDPOINTS) == ((("a:1", Fault.ERROR),), "")
    for flag in ("UO", "UH", "NR"):
        assert judge(completed(503, tried="a:1", flags=frozenset({flag})), ENDPOINTS) == ((), "")
    assert judge(completed(500), ENDPOINTS) == ((), "")


def test_a_client_that_hung_up_tells_nothing() -> None:
    assert judge(completed(0, tried="a:1", flags=frozenset({"DC"})), ENDPOINTS) == ((), "")
