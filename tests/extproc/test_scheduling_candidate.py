"""What a pick sees of an endpoint, between and across scrapes."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from extproc.picking.scheduling import Adapters, Candidate, Signals, assume_missing
from extproc.picking.scheduling.signals import CacheConfig, merge
from pools.model import Endpoint


def candidate(number: int = 1) -> Candidate:
    return Candidate(Endpoint(f"10.0.0.{number}", 8000, f"pod-{number}"))


def scrape(one: Candidate, sample: Signals, now: float = 0.0) -> None:
    one.scrape_started()
    one.observe(sample, now, keep_for=1.0)


def test_what_was_sent_since_the_scrape_lengthens_the_queue() -> None:
    one = candidate()
    scrape(one, Signals(waiting=2, kv_usage=0.1))
    one.charge()
    one.charge()
    assert one.queue == 4


def test_the_next_scrape_takes_the_place_of_what_was_counted() -> None:
    one = candidate()
    scrape(one, Signals(waiting=0, kv_usage=0.1))
    one.charge()
    scrape(one, Signals(waiting=1, kv_usage=0.1))
    assert one.queue == 1
    assert one.in_flight == 1


def test_what_is_sent_while_a_scrape_is_under_way_still_counts_after_it() -> None:
    one = candidate()
    scrape(one, Signals(waiting=0, kv_usage=0.1))
    one.scrape_started()
    epoch = one.charge()
    one.observe(Signals(waiting=0, kv_usage=0.1), 0.2, 1.0)
    assert one.queue == 1
    one.release(epoch)
    assert one.queue == 0


def test_a_scrape_that_fails_forgets_nothing() -> None:
    one = candidate()
    scrape(one, Signals(waiting=0, kv_usage=0.1))
    first = one.charge()
    one.scrape_started()  # and no answer
    second = one.charge()
    assert one.queue == 2
    one.release(first)
    one.release(second)
    assert one.queue == 0


def test_an_old_request_that_ends_does_not_shorten_the_scraped_queue() -> None:
    one = candidate()
    epoch = one.charge()
    scrape(one, Signals(waiting=3, kv_usage=0.1))
    one.release(epoch)
    assert one.queue == 3
    assert one.in_flight == 0


def test_a_server_never_scraped_is_taken_to_be_busier_than_most() -> None:
    known = [candidate(n) for n in range(1, 5)]
    for one, waiting in zip(known, (0, 2, 4, 8), strict=True):
        scrape(one, Signals(waiting=waiting, kv_usage=waiting / 10))
    new = candidate(9)
    assert assume_missing([*known, new])
    assert new.queue == 8
    assert new.kv_usage == 0.8
    assert not new.fresh


def test_a_new_server_in_an_idle_pool_gets_its_share_once_others_have_theirs() -> None:
    known, new = candidate(1), candidate(2)
    scrape(known, Signals(waiting=0, kv_usage=0.0))
    assume_missing([known, new])
    known.charge()
    assert new.queue < known.queue


def test_only_a_server_that_has_not_spoken_yet_is_taken_to_have_room_for_adapters() -> None:
    known, without, new = candidate(1), candidate(2), candidate(3)
    scrape(known, Signals(waiting=0, kv_usage=0.0, adapters=Adapters(capacity=4)))
    scrape(without, Signals(waiting=0, kv_usage=0.0))
    assume_missing([known, without, new])
    assert [one.adapter_capacity for one in (known, without, new)] == [4, 0, 4]


def test_a_metric_that_a_server_lacks_is_taken_from_its_peers() -> None:
    full, partial = candidate(1), candidate(2)
    scrape(full, Signals(waiting=1, kv_usage=0.5))
    scrape(partial, Signals(waiting=0))
    assert assume_missing([full, partial])
    assert (partial.queue, partial.kv_usage) == (0, 0.5)
    scrape(partial, Signals(waiting=0, kv_usage=0.1), 0.1)
    assert not assume_missing([full, partial])
    assert partial.kv_usage == 0.1


def test_a_server_whose_numbers_are_old_is_never_better_than_its_last_word() -> None:
    lively, silent = candidate(1), candidate(2)
    scrape(lively, Signals(waiting=5, kv_usage=0.6))
    scrape(silent, Signals(waiting=0, kv_usage=0.9))
    assert not silent.expire(0.5, keep_for=1.0)
    assert silent.expire(1.5, keep_for=1.0)
    assume_missing([lively, silent])
    assert (silent.queue, silent.kv_usage) == (5, 0.9)


def test_each_signal_is_kept_on_its_own_for_a_while() -> None:
    times: dict[str, float] = {}
    whole = Signals(1, 2, 0.3, Adapters(frozenset({"a"}), capacity=4), CacheConfig(16, 1000))
    kept = merge(Signals(), times, whole, now=0.0, keep_for=1.0)
    kept = merge(kept, times, Signals(waiting=7), now=0.9, keep_for=1.0)
    assert kept == Signals(7, 2, 0.3, whole.adapters, whole.cache)
    kept = merge(kept, times, Signals(waiting=8), now=1.2, keep_for=1.0)
    assert kept == Signals(waiting=8)
    assert times == {"waiting": 1.2}


@dataclass
class Open:
    epoch: int
    tokens: int
    seen: bool = False


class CandidateCounts(RuleBasedStateMachine):
    """Against a model that keeps every request: the counts are never off."""

    def __init__(self) -> None:
        super().__init__()
        self.one = candidate()
        self.waiting = 0
        self.open: list[Open] = []
        self.scraping = False
        self.before_scrape: list[Open] = []

    @rule(tokens=st.integers(0, 1000))
    def sent(self, tokens: int) -> None:
        self.open.append(Open(self.one.charge(tokens), tokens))

    @rule(which=st.integers(0, 1000))
    def ended(self, which: int) -> None:
        if self.open:
            ended = self.open.pop(which % len(self.open))
            self.one.release(ended.epoch, ended.tokens)

    @rule()
    def scrape_begins(self) -> None:
        self.scraping = True
        self.before_scrape = list(self.open)
        self.one.scrape_started()

    @rule(waiting=st.integers(0, 50))
    def scrape_answers(self, waiting: int) -> None:
        if self.scraping:
            self.scraping = False
            self.waiting = waiting
            for request in self.before_scrape:
                request.seen = True
            self.one.observe(Signals(waiting=waiting, kv_usage=0.0), 0.0, 1.0)

    @invariant()
    def counts_agree(self) -> None:
        unseen = sum(not request.seen for request in self.open)
        assert self.one.in_flight == len(self.open)
        assert self.one.tokens == sum(request.tokens for request in self.open)
        assert self.one.unseen == unseen
        assert self.one.queue == self.waiting + unseen
        assert self.one.backlog in (0, self.one.queue)

    def teardown(self) -> None:
        for request in self.open:
            self.one.release(request.epoch, request.tokens)
        assert (self.one.in_flight, self.one.tokens, self.one.unseen) == (0, 0, 0)


TestCandidateCounts = CandidateCounts.TestCase
TestCandidateCounts.settings = settings(max_examples=60, stateful_step_count=40)
