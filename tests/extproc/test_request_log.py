"""One log line for a request, when it is over."""

from __future__ import annotations

import random
from typing import Any

import pytest

from extproc.observability import request_log
from extproc.observability.request_log import RequestLog
from extproc.picking.decisions import DecisionRecord
from extproc.request import Completed, Routed
from pools.model import ObjectName

POOL = ObjectName("default", "llama")


class Lines:
    """Stands in for the logger."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.warnings: list[dict[str, Any]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.written.append(fields)

    def warning(self, event: str, **fields: Any) -> None:
        self.warnings.append(fields)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    lines = Lines()
    monkeypatch.setattr(request_log, "log", lines)
    return lines


def ended(number: int) -> DecisionRecord:
    pick_id = f"p-{number}"
    outcome = Routed(("10.0.0.1:8000",), POOL, pick_id)
    record = DecisionRecord(pick_id, 0.0, "r", POOL, str(POOL), "filter-tree", "m", "m", 0, outcome)
    record.completed = Completed(pick_id, 200, 1.5, served="10.0.0.1:8000")
    return record


def test_every_request_gets_a_line_with_how_it_ended(lines: Lines) -> None:
    log = RequestLog(1.0)
    log.start()
    for number in range(100):
        log.ended(ended(number))
    log.stop()
    assert [line["id"] for line in lines.written] == [f"p-{n}" for n in range(100)]
    assert lines.written[0]["completed"]["code"] == 200
    assert lines.written[0]["endpoints"] == ["10.0.0.1:8000"]


def test_of_a_share_only_that_many(lines: Lines) -> None:
    log = RequestLog(0.1, random.Random(1))
    log.start()
    for number in range(2000):
        log.ended(ended(number))
    log.stop()
    assert 150 < len(lines.written) < 250


def test_lines_are_left_out_rather_than_requests_held_up(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "CAPACITY", 10)
    log = RequestLog(1.0)
    for number in range(25):
        log.ended(ended(number))  # nothing is written yet
    log.start()
    log.stop()
    assert len(lines.written) == 10
    assert lines.warnings == [{"left_out": 15}]


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        RequestLog(1.5)
