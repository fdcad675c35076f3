"""Engines that do nothing while their server answers."""

from __future__ import annotations

from extproc.picking.progress import STALLED_AFTER, TRY_AFTER, Progress
from extproc.picking.scheduling.signals import Signals

IDLE = Signals(waiting=0, running=0, kv_usage=0.0, progress=100.0)
BUSY = Signals(waiting=0, running=2, kv_usage=0.1, progress=100.0)


def look(
    engine: Progress, sample: Signals, begin: float, end: float, in_flight: int, picked: int
) -> float | None:
    """Scrapes five times a second; when it was found to have stalled."""
    for tick in range(int(begin * 5), int(end * 5)):
        if engine.observe(sample, in_flight, picked, tick / 5):
            return tick / 5
    return None


def test_an_engine_that_runs_requests_and_moves_nothing_has_stalled() -> None:
    engine = Progress()
    assert look(engine, IDLE, 0, 100, 0, 7) is None
    at = look(engine, BUSY, 100, 120, 2, 9)
    assert at is not None
    assert STALLED_AFTER <= at - 100 < STALLED_AFTER + 0.5
    assert engine.stalled


def test_one_whose_gauges_do_not_even_show_what_it_was_sent_has_stalled_too() -> None:
    engine = Progress()
    look(engine, IDLE, 0, 100, 0, 7)
    at = look(engine, IDLE, 100, 120, 3, 10)
    assert at is not None
    assert at - 100 < STALLED_AFTER + 0.5


def test_one_that_is_done_while_a_client_reads_slowly_has_not() -> None:
    engine = Progress()
    look(engine, BUSY, 0, 1, 1, 1)
    done = Signals(waiting=0, running=0, kv_usage=0.0, progress=400.0)
    assert look(engine, done, 1, 300, 1, 1) is None
    # The next one that it is sent counts again.
    assert look(engine, done, 300, 310, 2, 2) is not None


def test_one_without_counters_is_never_said_to_have() -> None:
    assert look(Progress(), Signals(waiting=0, running=1), 0, 100, 1, 1) is None


def test_a_number_that_moves_or_an_answer_brings_it_back() -> None:
    engine = Progress()
    assert look(engine, BUSY, 0, 20, 2, 2) is not None
    engine.observe(Signals(waiting=0, running=2, kv_usage=0.1, progress=101.0), 2, 2, 20.0)
    assert not engine.stalled
    assert look(engine, BUSY, 21, 40, 2, 2) is not None
    engine.worked(2, 40.0)
    assert not engine.stalled


def test_one_that_everybody_has_left_is_tried_again_ever_more_rarely() -> None:
    engine = Progress()
    at = look(engine, BUSY, 0, 20, 2, 2)
    assert at is not None
    look(engine, BUSY, at, at + TRY_AFTER - 1, 0, 2)
    assert engine.stalled
    look(engine, BUSY, at + TRY_AFTER - 1, at + TRY_AFTER + 1, 0, 2)
    assert not engine.stalled
    again = look(engine, BUSY, at + TRY_AFTER + 1, at + 60, 1, 3)
    assert again is not None
    look(engine, BUSY, again, again + 2 * TRY_AFTER - 1, 0, 3)
    assert engine.stalled
