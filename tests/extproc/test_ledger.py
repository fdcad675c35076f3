"""Which requests are under way."""

from __future__ import annotations

import random

import pytest

from extproc.picking.decisions import DecisionRecord
from extproc.picking.ledger import Ledger
from extproc.picking.scheduling import Candidate, SchedulingRequest
from extproc.picking.scheduling.load import Load
from extproc.reasons import Reason
from extproc.request import Refused
from pools.model import Endpoint


def record(pick_id: str) -> DecisionRecord:
    return DecisionRecord(pick_id, 0.0, "", None, "", "", "", "", 0, Refused(Reason.SHED, ""))


class Books:
    """A ledger, and one endpoint that all its requests go to."""

    def __init__(self, limit: int = 100) -> None:
        self.load = Load()
        self.ledger = Ledger(self.load, 60.0, limit)
        self.pod = Candidate(Endpoint("10.0.0.1", 8000, "pod"))

    def send(self, pick_id: str, tokens: int, now: float) -> None:
        asked = SchedulingRequest("m", 0, random.Random(1), prompt_tokens=tokens)
        self.ledger.open(record(pick_id), (self.load.charge(asked, self.pod, now),))


def test_a_charge_is_seen_at_once_and_settled_once() -> None:
    books = Books()
    ledger, pod = books.ledger, books.pod
    books.send("a", 100, now=0.0)
    books.send("b", 50, now=0.0)
    assert (pod.in_flight, pod.tokens, pod.queue, len(ledger)) == (2, 150, 2, 2)
    ended = ledger.settle("a")
    assert ended is not None
    assert ended.id == "a"
    assert ledger.settle("a") is None
    assert (pod.in_flight, pod.tokens, len(ledger)) == (1, 50, 1)


def test_old_charges_expire_and_young_ones_stay() -> None:
    books = Books()
    for number in range(5):
        books.send(str(number), 10, now=number * 10.0)
    assert [one.id for one in books.ledger.expire(now=80.0)] == ["0", "1", "2"]
    assert (books.pod.in_flight, books.pod.tokens) == (2, 20)
    assert books.ledger.settle("0") is None


def test_beyond_the_limit_the_oldest_expire_early() -> None:
    books = Books(limit=3)
    for number in range(5):
        books.send(str(number), 10, now=float(number))
    assert [one.id for one in books.ledger.expire(now=5.0)] == ["0", "1"]
    assert (books.pod.in_flight, len(books.ledger)) == (3, 3)
    assert books.ledger.expire(now=6.0) == []


def test_an_expiry_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expiry"):
        Ledger(Load(), 0)
