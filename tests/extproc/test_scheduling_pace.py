"""How slow an endpoint is next to its peers, by its first tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.picking.scheduling import Candidate, Signals
from extproc.picking.scheduling.pace import Paces
from extproc.picking.scheduling.signals import Latency
from pools.model import Endpoint


class Fleet:
    """Pods that report a first token for each request, this many seconds after it was sent."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)
        self.pods = [
            Candidate(Endpoint(f"10.0.0.{n}", 8000, f"pod-{n}")) for n in range(len(seconds))
        ]
        self.paces = Paces()
        self.told = [(0, 0.0)] * len(seconds)
        self.now = 0.0
        self.scrape()

    def serve(self, pod: int, requests: int = 1, expected: float = 0.07) -> None:
        for _ in range(requests):
            self.paces.expect(self.pods[pod], expected)
        count, total = self.told[pod]
        self.told[pod] = (count + requests, total + requests * self.seconds[pod])

    def scrape(self, after: float = 0.2) -> None:
        self.now += after
        for one, told in zip(self.pods, self.told, strict=True):
            one.scrape_started()
            one.observe(Signals(0, 1, 0.1, latency=Latency(*told)), self.now, 1.0)
            self.paces.observed(one, self.now)

    def settle(self) -> None:
        """Everybody reports, and then the middle of all is known to everybody."""
        self.scrape()
        self.scrape(after=1.0)

    @property
    def slowness(self) -> list[float]:
        return [round(one.slowness, 2) for one in self.pods]


def test_a_pod_whose_first_tokens_take_three_times_as_long_is_three_times_as_slow() -> None:
    fleet = Fleet(0.3, 0.1, 0.1, 0.1)
    assert fleet.slowness == [1, 1, 1, 1]  # nobody served anything yet
    for pod in range(4):
        fleet.serve(pod)
    fleet.settle()
    assert fleet.slowness == [3, 1, 1, 1]


def test_pods_that_are_less_than_twice_as_slow_are_equal_and_so_is_a_faster_one() -> None:
    fleet = Fleet(0.10, 0.19, 0.03)
    for pod in range(3):
        fleet.serve(pod, 5)
    fleet.settle()
    assert fleet.slowness == [1, 1, 1]


def test_a_wait_that_was_to_be_expected_is_not_slowness() -> None:
    fleet = Fleet(1.0, 0.1)
    fleet.serve(0, expected=0.97)  # behind other prompts, and long itself
    fleet.serve(1, expected=0.07)
    fleet.settle()
    assert fleet.slowness == [1, 1]


def test_the_slow_one_of_two_is_measured_by_the_other() -> None:
    fleet = Fleet(0.1, 0.4)
    fleet.serve(0)
    fleet.serve(1)
    fleet.settle()
    assert fleet.slowness == [1, 4]


def test_a_pod_that_recovers_is_equal_again_after_a_while() -> None:
    fleet = Fleet(0.3, 0.1, 0.1)
    for pod in range(3):
        fleet.serve(pod, 10)
    fleet.settle()
    assert fleet.slowness == [3, 1, 1]
    fleet.seconds[0] = 0.1
    fleet.serve(0, 5)
    fleet.scrape()
    assert fleet.slowness[0] == pytest.approx(1 + 2 * 0.95**5, abs=0.01)
    fleet.serve(0, 30)
    fleet.scrape()
    assert fleet.slowness == [1, 1, 1]


def test_a_slow_pod_that_got_nothing_for_long_is_tried_again() -> None:
    fleet = Fleet(0.3, 0.1, 0.1)
    for pod in range(3):
        fleet.serve(pod)
    fleet.settle()
    fleet.scrape(after=28.9)
    assert fleet.slowness == [3, 1, 1]
    fleet.scrape()
    assert fleet.slowness == [1, 1, 1]
    fleet.serve(0)
    fleet.serve(1)
    fleet.settle()
    assert fleet.slowness == [3, 1, 1]


def test_a_server_that_tells_no_first_tokens_is_as_fast_as_the_others() -> None:
    silent = Candidate(Endpoint("10.0.0.1", 8000, "silent"))
    paces = Paces()
    paces.expect(silent, 1.0)
    silent.scrape_started()
    silent.observe(Signals(0, 1, 0.1), 1.0, 1.0)
    paces.observed(silent, 1.0)
    assert silent.slowness == 1.0


def test_an_endpoint_that_is_gone_is_no_measure_for_the_others() -> None:
    fleet = Fleet(0.1, 0.3)
    fleet.serve(0)
    fleet.serve(1)
    fleet.settle()
    assert fleet.slowness == [1, 3]
    fleet.paces.keep(fleet.pods[1:])
    fleet.scrape(after=1.0)
    assert fleet.pods[1].slowness == 1.0


@given(
    st.lists(st.floats(0.001, 20), min_size=2, max_size=9),
    st.floats(0.001, 1),
    st.floats(0.05, 20),
)
def test_equal_pods_are_equal_however_wrong_the_rate_and_however_uneven_their_prompts(
    ahead: list[float], step: float, per_second: float
) -> None:
    fleet = Fleet(*(step + per_second * seconds for seconds in ahead))
    for pod, seconds in enumerate(ahead):
        fleet.serve(pod, 10, expected=seconds)
    fleet.settle()
    assert fleet.slowness == [1] * len(ahead)


@given(st.floats(0.001, 1), st.floats(0.05, 20), st.floats(2.1, 9))
def test_a_slow_pod_is_found_however_wrong_the_rate(
    step: float, per_second: float, times: float
) -> None:
    equal = step + per_second * 0.5
    fleet = Fleet(times * equal, equal, equal)
    for pod in range(3):
        fleet.serve(pod, 10, expected=0.5)
    fleet.settle()
    assert fleet.slowness == [pytest.approx(times, abs=0.01), 1, 1]


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 100), st.floats(0, 100), st.floats(0.01, 60)),
        max_size=40,
    )
)
def test_whatever_is_reported_slowness_is_between_1_and_10_and_somebody_is_not_slow(
    served: list[tuple[int, float, float, float]],
) -> None:
    fleet = Fleet(0.1, 0.1, 0.1)
    for pod, expected, seconds, after in served:
        fleet.seconds[pod] = seconds
        fleet.serve(pod, expected=expected)
        fleet.scrape(after=max(after, 1.0))
        assert all(1.0 <= one.slowness <= 10.0 for one in fleet.pods)
        assert min(fleet.slowness) == 1.0
