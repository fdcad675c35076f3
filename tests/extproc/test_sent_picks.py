"""Picks that crossed with Envoy's giving up."""

from __future__ import annotations

import tracemalloc

import pytest

from extproc.service.sent_picks import LATE, SentPicks


def test_a_pick_that_envoy_did_not_wait_for_is_found_by_the_requests_id() -> None:
    picks = SentPicks()
    assert picks.sent("request-1", "pick-1", now=0)
    assert picks.given_up("request-1", now=1) == "pick-1"
    assert picks.given_up("request-1", now=1) == "", "it is settled once"


def test_a_question_that_comes_after_the_giving_up_is_known_to_be_late() -> None:
    picks = SentPicks()
    assert picks.given_up("request-1", now=0) == ""
    assert not picks.sent("request-1", "pick-1", now=LATE - 1)
    assert picks.sent("request-1", "pick-2", now=LATE - 1), "a client tried again with that id"


def test_a_request_id_that_comes_back_long_after_is_a_new_request() -> None:
    picks = SentPicks()
    picks.given_up("request-1", now=0)
    assert picks.sent("request-1", "pick-1", now=LATE)


def test_requests_without_an_id_are_not_taken_for_one_another() -> None:
    picks = SentPicks()
    assert picks.given_up("", now=0) == ""
    assert picks.sent("", "pick-1", now=0)
    assert picks.given_up("", now=0) == ""


@pytest.mark.parametrize("entry_first", [False, True])
@pytest.mark.parametrize("retried_first", [False, True])
def test_a_request_that_was_refused_and_sent_again_under_its_id_keeps_its_pick(
    entry_first: bool, retried_first: bool
) -> None:
    picks = SentPicks()
    if entry_first:
        assert picks.given_up("request-1", now=0) == ""
    picks.ended_without("request-1", now=0)
    if retried_first:
        assert picks.sent("request-1", "pick-1", now=0.02), "that is another question"
    if not entry_first:
        assert picks.given_up("request-1", now=0.05) == "", "the entry of the one that was refused"
    if not retried_first:
        assert picks.sent("request-1", "pick-1", now=1)
    assert picks.given_up("request-1", now=2) == "pick-1", "its own entry"


def test_the_entry_of_a_refused_request_is_not_awaited_for_ever() -> None:
    picks = SentPicks()
    picks.ended_without("request-1", now=0)
    picks.sent("request-1", "pick-1", now=LATE)
    assert picks.given_up("request-1", now=LATE) == "pick-1"


def test_long_ids_do_not_fill_the_memory() -> None:
    tracemalloc.start()
    try:
        picks = SentPicks()
        for n in range(200):
            picks.sent(f"{n} {'r' * 60_000}", f"pick-{n}", now=0)
            picks.given_up(f"{n} {'g' * 60_000}", now=0)
            picks.ended_without(f"{n} {'w' * 60_000}", now=0)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert picks.given_up(f"7 {'r' * 60_000}", now=0) == "pick-7"


def test_only_the_newest_are_remembered() -> None:
    picks = SentPicks(limit=10)
    for n in range(100):
        picks.sent(f"request-{n}", f"pick-{n}", now=0)
        picks.given_up(f"other-{n}", now=0)
    assert picks.given_up("request-89", now=0) == ""
    assert picks.given_up("request-99", now=0) == "pick-99"
    assert picks.sent("other-50", "pick", now=0), "forgotten"
    assert not picks.sent("other-99", "pick", now=0)
    for n in range(100):
        picks.ended_without(f"refused-{n}", now=0)
        picks.sent(f"refused-{n}", "pick", now=0)
    assert picks.given_up("refused-99", now=0) == ""


def test_a_pick_that_envoy_saw_is_not_taken_for_one_that_it_did_not() -> None:
    """The client keeps its id for the next request, and gives that one up."""
    picks = SentPicks()
    picks.sent("request-1", "pick-1", now=0)
    assert picks.ended("request-1", "pick-1", now=1) == "pick-1"
    assert picks.ended("request-1", "", now=2) == "", "its pick is still to be made"
    assert not picks.sent("request-1", "pick-2", now=3), "and is over then"


def test_the_end_of_an_older_request_leaves_the_newer_one_of_its_id_open() -> None:
    picks = SentPicks()
    picks.sent("request-1", "pick-1", now=0)
    picks.sent("request-1", "pick-2", now=1)
    assert picks.ended("request-1", "pick-1", now=2) == "pick-1"
    assert picks.ended("request-1", "", now=3) == "pick-2"
