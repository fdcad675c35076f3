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
        health.succeeded(0.0, 0.0)


def test_failures_of_different_kinds_add_up() -> None:
    health = fresh()
    assert not health.failed(Fault.CONNECT, 0.0)
    assert not health.failed(Fault.RESET, 0.0)
    assert health.failed(Fault.ERROR, 0.0)


def test_once_it_has_done_well_again_its_share_grows_from_a_tenth_to_all() -> None:
    health = fresh()
    take_out(health, 0.0)
    assert health.standing(1.9) is Standing.OUT
    assert health.standing(2.0) is Standing.RETURNING
    health.succeeded(2.0, 2.0)
    assert [round(health.share(now), 2) for now in (2.0, 7.0, 11.0, 12.0)] == [0.1, 0.5, 0.9, 1.0]
    assert health.standing(12.0) is Standing.IN


def test_time_alone_does_not_heal() -> None:
    health = fresh()
    take_out(health, 0.0)
    assert health.unproven(1e6)
    assert health.standing(1e6) is Standing.RETURNING


def test_a_success_of_somebody_nobody_trusted_ends_its_cool_down() -> None:
    health = fresh()
    take_out(health, 10.0)
    health.succeeded(10.5, 9.0)  # picked before it failed
    assert health.standing(10.5) is Standing.OUT
    health.succeeded(11.0, 10.6)
    assert health.standing(11.0) is Standing.RETURNING
    assert not health.unproven(11.0)


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
    health.succeeded(50.0, 49.0)
    take_out(health, 100.0)
    assert health.out_until == 102.0


def test_a_failure_from_before_it_was_taken_out_is_no_news_when_it_has_returned() -> None:
    health = EndpointHealth(HealthPolicy(cool_down=2.0))
    take_out(health, 10.0)
    assert health.standing(12.5) is Standing.RETURNING
    # Of these Envoy tells at their end, seconds after they went on to another endpoint.
    assert not health.failed(Fault.PASSED_OVER, 12.5, began=9.0)
    assert health.standing(12.5) is Standing.RETURNING
    assert health.failed(Fault.PASSED_OVER, 12.5, began=12.1)


def test_the_first_good_scrape_of_a_pod_that_was_away_ends_its_cool_down() -> None:
    health = fresh()
    take_out(health, 0.0)
    health.scrape_failed(0.2)
    health.scrape_succeeded(0.5)
    assert health.standing(0.5) is Standing.RETURNING
    assert not health.unproven(0.5)


def test_metrics_of_another_process_do_not_prove_the_server_well() -> None:
    health = fresh()
    take_out(health, 0.0)
    health.scrape_failed(0.2)
    health.scrape_succeeded(0.5, same_server=False)
    assert health.unproven(0.5)


def test_a_full_endpoint_is_not_ill_and_gets_no_more_than_it_had_for_a_while() -> None:
    health = fresh()
    health.refused(6, 0.0)
    health.refused(4, 0.1)
    assert health.standing(0.1) is Standing.IN
    assert [health.full(n, 1.0) for n in (3, 4, 9)] == [False, True, True]
    assert not health.full(9, 5.2)
    health.refused(7, 6.0)
    assert not health.full(6, 6.0)


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
    health.succeeded(1.1, 1.0)
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


def judged(entry: Completed) -> tuple[tuple[tuple[str, Fault], ...], str, str]:
    judgement = judge(entry, ENDPOINTS)
    return tuple(judgement.faults), judgement.well, judgement.odd


def test_an_answer_is_to_the_credit_of_whoever_gave_it() -> None:
    assert judged(completed(served="a:1")) == ((), "a:1", "")


@pytest.mark.parametrize("code", [400, 401, 404, 422])
def test_whose_fault_an_error_of_the_client_is_one_request_cannot_tell(code: int) -> None:
    assert judged(completed(code, served="a:1")) == ((), "", "a:1")


def test_those_that_envoy_passed_over_have_failed() -> None:
    assert judged(completed(served="c:1", attempts=3)) == (
        (("a:1", Fault.PASSED_OVER), ("b:1", Fault.PASSED_OVER)),
        "c:1",
        "",
    )


def test_one_that_envoy_no_longer_knew_is_not_blamed() -> None:
    assert judged(completed(served="c:1", attempts=1)) == ((), "c:1", "")


def test_an_endpoint_is_not_blamed_twice_over_however_often_envoy_tried() -> None:
    assert judged(completed(served="b:1", attempts=4)) == (
        (("a:1", Fault.PASSED_OVER),),
        "b:1",
        "",
    )


def test_when_all_were_tried_in_vain_all_failed() -> None:
    faults, well, _ = judged(
        completed(503, tried="z:1", attempts=4, flags=frozenset({"UF", "URX"}))
    )
    assert faults == (*((key, Fault.PASSED_OVER) for key in ENDPOINTS), ("z:1", Fault.CONNECT))
    assert well == ""


@pytest.mark.parametrize(
    ("code", "flag", "fault"),
    [
        (503, "UF", Fault.CONNECT),
        (503, "UC", Fault.RESET),
        (502, "UR", Fault.RESET),
        (502, "UPE", Fault.ERROR),
    ],
)
def test_a_flag_says_how_the_last_try_failed(code: int, flag: str, fault: Fault) -> None:
    entry = completed(code, tried="a:1", flags=frozenset({flag}))
    assert judged(entry) == ((("a:1", fault),), "", "")


def test_whose_fault_a_time_out_of_the_route_is_one_request_cannot_tell() -> None:
    assert judged(completed(504, tried="a:1", flags=frozenset({"UT"}))) == ((), "", "a:1")


@pytest.mark.parametrize(
    ("code", "fault"), [(500, Fault.ERROR), (503, Fault.UNAVAILABLE), (429, Fault.BUSY)]
)
def test_an_error_of_the_pod_is_its_own(code: int, fault: Fault) -> None:
    assert judged(completed(code, served="a:1")) == ((("a:1", fault),), "", "")


def test_an_error_of_envoy_is_not_the_pods() -> None:
    for flag in ("UO", "UH", "NR"):
        assert judged(completed(503, tried="a:1", flags=frozenset({flag}))) == ((), "", "")
    assert judged(completed(500)) == ((), "", "")


def test_a_client_that_hung_up_tells_nothing() -> None:
    assert judged(completed(0, tried="a:1", flags=frozenset({"DC"}))) == ((), "", "")
