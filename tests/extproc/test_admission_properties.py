"""Whatever happens in whatever order: everybody is answered once, and the counts come to zero."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from extproc.picking.admission.settings import (
    AdmissionSettings,
    BandSettings,
    ConcurrencySettings,
    Fairness,
    Order,
)
from extproc.request import Refused, Routed
from tests.extproc.admission_pool import OBJECTIVES, AdmissionPool, Sent, endpoints

CAPACITY = 2
MAX_REQUESTS, MAX_BYTES = 6, 600
BAND_REQUESTS, BAND_BYTES = 4, 400
TTL, MAX_TTL, NO_ENDPOINTS_TTL = 3.0, 25.0, 1.0


def configured(fairness: Fairness, order: Order, capacity: int, ttl: float) -> AdmissionSettings:
    return AdmissionSettings(
        ConcurrencySettings(capacity),
        default_band=BandSettings(1.0, BAND_REQUESTS, BAND_BYTES, ttl, fairness, order),
        max_requests=MAX_REQUESTS,
        max_bytes=MAX_BYTES,
        max_ttl=MAX_TTL,
        no_endpoints_ttl=NO_ENDPOINTS_TTL,
    )


class Admission(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Sent] = []
        self.withdrawn: set[Sent] = set()
        self.ended: set[Sent] = set()

    @initialize(fairness=st.sampled_from(Fairness), order=st.sampled_from(Order))
    def begin(self, fairness: Fairness, order: Order) -> None:
        self.pool = AdmissionPool(2, settings=configured(fairness, order, CAPACITY, TTL))
        self.pods = 2

    def waiting(self) -> list[Sent]:
        return [one for one in self.sent if one.waits and one not in self.withdrawn]

    def under_way(self) -> list[Sent]:
        return [
            one
            for one in self.sent
            if one.answers and isinstance(one.answers[0], Routed) and one not in self.ended
        ]

    def priority(self, sent: Sent) -> int:
        return OBJECTIVES[sent.request.objective]

    @rule(
        objective=st.sampled_from(sorted(OBJECTIVES)),
        flow=st.sampled_from(["", "a", "b", "c"]),
        body=st.sampled_from([0, 10, 150]),
        timeout=st.sampled_from([None, "0", "0.5", "100"]),
    )
    def arrive(self, objective: str, flow: str, body: int, timeout: str | None) -> None:
        sent = self.pool.send(objective, flow, body=body, timeout=timeout)
        self.sent.append(sent)
        if OBJECTIVES[objective] < 0 or self.pool.settings is None:
            assert not sent.waits

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 10_000))
    def hang_up(self, which: int) -> None:
        sent = self.sent[which % len(self.sent)]
        if sent.waits:
            self.withdrawn.add(sent)
        before = len(sent.answers)
        sent.withdraw()
        assert len(sent.answers) == before

    @precondition(lambda self: self.under_way())
    @rule(
        which=st.integers(0, 10_000),
        prompt=st.integers(0, 5000),
        output=st.integers(0, 5000),
        served=st.booleans(),
    )
    def end(self, which: int, prompt: int, output: int, served: bool) -> None:
        open_ones = self.under_way()
        sent = open_ones[which % len(open_ones)]
        self.ended.add(sent)
        before = self.waiting()
        if served:
            self.pool.end(sent, prompt_tokens=prompt, completion_tokens=output)
        else:
            self.pool.abort(sent)
        self.check_priority(before)

    @rule(seconds=st.sampled_from([0.1, 0.6, 3.5]))
    def let_time_pass(self, seconds: float) -> None:
        self.pool.wait(seconds)

    @rule(pods=st.integers(0, 4))
    def change_endpoints(self, pods: int) -> None:
        before = self.waiting()
        self.pods = pods
        self.pool.update(*endpoints(*range(pods)))
        self.pool.scrape()
        self.check_priority(before)

    @rule(
        fairness=st.sampled_from(Fairness),
        order=st.sampled_from(Order),
        capacity=st.integers(1, 4),
        ttl=st.sampled_from([0.5, TTL, 20.0]),
    )
    def reload(self, fairness: Fairness, order: Order, capacity: int, ttl: float) -> None:
        before = self.waiting()
        self.pool.use(configured(fairness, order, capacity, ttl))
        self.check_priority(before)

    @rule()
    def turn_off(self) -> None:
        self.pool.use(None)
        assert not self.waiting()
        assert self.pool.picker.dispatched == 0

    @rule()
    def lose_track_of_all_ends(self) -> None:
        """The access log went silent: requests under way expire."""
        before = self.waiting()
        self.pool.now += 901
        lost = self.under_way()
        self.pool.picker.expire()
        self.ended.update(lost)
        self.pool.picker.tick()
        self.check_priority([one for one in before if not one.answers or not refused(one)])

    def check_priority(self, before: list[Sent]) -> None:
        """Of those who waited, nobody was let in before one of higher priority."""
        let_in = [one for one in before if not one.waits]
        stayed = [one for one in before if one.waits]
        if let_in and stayed:
            lowest = min(self.priority(one) for one in let_in)
            assert all(self.priority(one) <= lowest for one in stayed)

    @invariant()
    def everybody_is_told_once_and_nobody_after_hanging_up(self) -> None:
        for sent in self.sent:
            assert len(sent.answers) <= 1
            assert not (sent in self.withdrawn and sent.answers)

    @invariant()
    def the_counts_are_right_and_within_the_limits(self) -> None:
        if not self.sent:
            return
        usage, waiting = self.pool.picker.usage, self.waiting()
        assert usage.requests == len(waiting) <= MAX_REQUESTS
        assert usage.size == sum(len(one.request.body) for one in waiting) <= MAX_BYTES
        for state in self.pool.picker.states():
            for band in state.bands:
                members = [one for one in waiting if self.priority(one) == band.priority]
                assert band.requests == len(members) <= BAND_REQUESTS
                assert band.size <= BAND_BYTES
                assert sum(len(flow) for flow in band.flows) == band.requests
        dispatched = self.pool.picker.dispatched
        assert dispatched <= len(self.under_way())

    @invariant()
    def nobody_waits_while_there_is_room_and_nothing_is_let_in_without(self) -> None:
        if not self.sent:
            return
        members = self.pool.director.fleet.members.values()
        in_flight = sum(member.candidate.in_flight for member in members)
        if self.waiting() and self.pods:
            assert in_flight >= self.pool.capacity
        assert not self.pool.overshoots

    @invariant()
    def nobody_waits_for_longer_than_allowed(self) -> None:
        for sent in self.waiting():
            assert self.pool.now - sent.sent_at <= MAX_TTL + 0.06

    def teardown(self) -> None:
        if not self.sent:
            return
        pool = self.pool
        pool.update(*endpoints(*range(4)))
        pool.scrape()
        while under_way := self.under_way():
            for sent in under_way:
                self.ended.add(sent)
                pool.end(sent)
        assert not self.waiting(), "all who waited were served as room was made"
        assert pool.waiting == pool.picker.usage.size == 0
        assert pool.picker.dispatched == len(pool.director.ledger) == 0
        assert pool.in_flight == 0
        for sent in self.sent:
            assert sent in self.withdrawn or len(sent.answers) == 1
        for state in pool.picker.states():
            for band in state.bands:
                assert all(flow.in_flight == 0 for flow in band.flows)


def refused(sent: Sent) -> bool:
    return isinstance(sent.answers[0], Refused)


TestAdmission = Admission.TestCase
TestAdmission.settings = settings(max_examples=150, stateful_step_count=40)
