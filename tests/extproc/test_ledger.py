"""Which requests are under way."""

from __future__ import annotations

import pytest

from extproc.decisions import DecisionRecord
from extproc.ledger import Ledger
from extproc.request import Refused
from extproc.scheduling import Candidate
from pools.model import Endpoint


def record(pick_id: str) -> DecisionRecord:
    return DecisionRecord(pick_id, 0.0, "", None, "", "", "", 0, Refused(500, "", ""))


def candidate() -> Candidate:
    return Candidate(Endpoint("10.0.0.1", 8000, "pod"))


def test_a_charge_is_seen_at_once_and_settled_once() -> None:
    ledger, pod = Ledger(60.0), candidate()
    ledger.charge(record("a"), pod, 100, now=0.0)
    ledger.charge(record("b"), pod, 50, now=0.0)
    assert (pod.in_flight, pod.tokens, pod.queue, len(ledger)) == (2, 150, 2, 2)
    charge = ledger.settle("a")
    assert charge is not None
    assert charge.decision.id == "a"
    assert ledger.settle("a") is None
    assert (pod.in_flight, pod.tokens, len(ledger)) == (1, 50, 1)


def test_old_charges_expire_and_young_ones_stay() -> None:
    ledger, pod = Ledger(60.0), candidate()
    for number in range(5):
        ledger.charge(record(str(number)), pod, 10, now=number * 10.0)
    assert [charge.decision.id for charge in ledger.expire(now=80.0)] == ["0", "1", "2"]
    assert (pod.in_flight, pod.tokens) == (2, 20)
    assert ledger.settle("0") is None


def test_beyond_the_limit_the_oldest_expire_early() -> None:
    ledger, pod = Ledger(60.0, limit=3), candidate()
    for number in range(5):
        ledger.charge(record(str(number)), pod, 10, now=float(number))
    assert [charge.decision.id for charge in ledger.expire(now=5.0)] == ["0", "1"]
    assert (pod.in_flight, len(ledger)) == (3, 3)
    assert ledger.expire(now=6.0) == []


def test_an_expiry_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expiry"):
        Ledger(0)
