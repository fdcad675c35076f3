"""Failures as people write them."""

from __future__ import annotations

import pytest

from sim.failures import Failure, Orders, parse_failure


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("status=503", Failure(status=503)),
        ("429", Failure(status=429)),
        ("reset", Failure(reset=True)),
        ("hang", Failure(hang=True)),
        ("delay=2s", Failure(delay=2.0)),
        ("delay=0.5", Failure(delay=0.5)),
        ("delay=150ms", Failure(delay=0.15)),
        ("reset-after=3", Failure(reset_after=3)),
        ("delay=1s, status=500", Failure(delay=1.0, status=500)),
    ],
)
def test_a_failure_can_be_written(text, failure):
    assert parse_failure(text) == failure


@pytest.mark.parametrize(
    "text",
    ["", "status=200", "status=x", "600", "reset=1", "delay=-1s", "delay=nan", "reset-after=-1"],
)
def test_what_is_no_failure_is_refused_with_what_would_be_one(text):
    with pytest.raises(ValueError, match="known: status=503"):
        parse_failure(text)


def test_a_rate_is_kept_over_many_requests_and_the_seed_decides_which():
    def fates(seed: int) -> list[bool]:
        orders = Orders(seed)
        orders.place("inference", "reset", rate=0.25)
        return [orders.take("inference").reset for _ in range(2000)]

    assert sum(fates(1)) == pytest.approx(500, abs=75)
    assert fates(1) == fates(1) != fates(2)


def test_an_order_concerns_its_kind_of_request_only():
    orders = Orders(0)
    orders.place("metrics", "hang")
    assert orders.take("inference") == Failure()
    assert orders.take("metrics").hang
    orders.withdraw("metrics")
    assert orders.take("metrics") == Failure()
    assert not orders
