"""What is counted here, and when each part of it is given back."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from extproc.picking.scheduling import Candidate, SchedulingRequest, Signals
from extproc.picking.scheduling.load import EXPECTED_OUTPUT, Charge, Load, LoadSettings
from extproc.picking.scheduling.prefix import PrefixIndex
from extproc.picking.scheduling.signals import Latency
from pools.model import Endpoint

RATE = 1000.0


class Router:
    """One router and its endpoints, which prefill 1,000 tokens a second by its reckoning."""

    def __init__(self, pods: int = 1) -> None:
        self.load = Load(LoadSettings(prefill_rate=RATE, block_tokens=1, cache_tokens=1000))
        self.load.index = PrefixIndex(block_tokens=1, even=True)
        self.pods = [
            Candidate(Endpoint(f"10.0.0.{n}", 8000, f"pod-{n}")) for n in range(1, 1 + pods)
        ]
        self.load.follow(self.pods)
        self.pod = self.pods[0]
        self.first_tokens = 0

    def send(
        self, tokens: int, now: float, pod: int = 0, blocks: list[int] | None = None
    ) -> Charge:
        asked = SchedulingRequest("m", 0, random.Random(1), now=now, prompt_tokens=tokens)
        asked.output_tokens = 50
        if blocks:
            asked.prefix = self.load.index.match(blocks)
        return self.load.charge(asked, self.pods[pod], now)

    def scrape(
        self, now: float, waiting: int, running: int, first_tokens: int | None = None
    ) -> None:
        latency = None if first_tokens is None else Latency(first_tokens, first_tokens * 0.1)
        self.pod.scrape_started()
        self.pod.observe(Signals(waiting, running, 0.1, latency=latency), now, 1.0)
        self.load.observed(self.pod, now)


def test_a_prompt_counts_until_it_should_be_prefilled_and_the_request_until_it_ends() -> None:
    router = Router()
    charge = router.send(500, now=0.0)
    pod = router.pod
    assert (pod.in_flight, pod.tokens, pod.prefill_tokens, pod.output_tokens) == (1, 500, 500, 50)
    router.load.advance(0.4)
    assert pod.prefill_tokens == 500
    router.load.advance(0.5)
    assert (pod.in_flight, pod.tokens, pod.prefill_tokens, pod.output_tokens) == (1, 500, 0, 50)
    router.load.end(charge)
    router.load.end(charge)
    assert (pod.in_flight, pod.tokens, pod.prefill_tokens, pod.output_tokens) == (0, 0, 0, 0)


def test_prompts_are_prefilled_one_after_another() -> None:
    router = Router()
    router.send(500, now=0.0)
    router.send(300, now=0.1)
    router.load.advance(0.6)
    assert router.pod.prefill_tokens == 300
    router.load.advance(0.8)
    assert router.pod.prefill_tokens == 0


def test_a_prompt_that_ended_early_does_not_hold_up_those_behind_it() -> None:
    router = Router()
    first = router.send(5000, now=0.0)
    router.load.end(first, answered=False)
    router.send(100, now=0.1)
    router.load.advance(0.2)
    assert router.pod.prefill_tokens == 0


def test_what_is_cached_there_is_no_work() -> None:
    router = Router()
    prompt = list(range(1, 401))
    assert router.send(400, now=0.0, blocks=prompt).prefill_tokens == 400
    again = router.send(500, now=0.1, blocks=[*prompt, *range(1001, 1101)])
    assert again.prefill_tokens == 100
    assert again.new_blocks == 100


def test_a_server_that_reports_a_queue_is_not_taken_to_be_on_time() -> None:
    router = Router()
    router.scrape(0.0, waiting=0, running=0, first_tokens=10)
    for _ in range(3):
        router.send(100, now=0.0)
    router.scrape(0.2, waiting=2, running=1, first_tokens=10)
    router.load.advance(5.0)
    assert router.pod.prefill_tokens == 300
    router.scrape(5.0, waiting=1, running=2, first_tokens=11)
    assert router.pod.prefill_tokens == 200
    router.scrape(5.2, waiting=0, running=3, first_tokens=12)
    router.load.advance(5.3)
    assert router.pod.prefill_tokens == 0


def test_first_tokens_that_were_taken_for_given_are_not_counted_twice() -> None:
    router = Router()
    router.scrape(0.0, waiting=0, running=0, first_tokens=0)
    router.send(100, now=0.0)
    router.send(100, now=0.0)
    router.load.advance(0.3)  # both done, by reckoning
    router.send(900, now=0.3)
    router.scrape(0.4, waiting=0, running=3, first_tokens=2)
    assert router.pod.prefill_tokens == 900


def test_what_others_send_to_the_server_is_not_taken_for_ours() -> None:
    router = Router()
    router.scrape(0.0, waiting=5, running=0, first_tokens=0)
    router.send(1000, now=0.0)
    router.send(1000, now=0.0)
    # Eight requests there of which two are ours: of four first tokens about one is ours.
    router.scrape(0.2, waiting=2, running=6, first_tokens=4)
    assert router.pod.prefill_tokens == 1000


def test_a_prompt_that_went_elsewhere_is_remembered_where_it_went() -> None:
    router = Router(pods=2)
    one, two = router.pods
    router.send(100, now=0.0, blocks=[1, 2, 3])
    charge = router.send(100, now=0.0, blocks=[1, 2, 3, 4, 5])
    router.load.end(charge)
    router.load.served(charge, two)
    match = router.load.index.match([1, 2, 3, 4, 5])
    assert (match.tokens_of(one), match.tokens_of(two)) == (3, 5)


def test_a_prompt_that_nobody_took_is_remembered_nowhere() -> None:
    router = Router()
    charge = router.send(100, now=0.0, blocks=[1, 2, 3])
    router.load.served(charge, None)
    assert len(router.load.index) == 0


def test_a_prompt_that_arrived_stays() -> None:
    router = Router()
    charge = router.send(100, now=0.0, blocks=[1, 2, 3])
    router.load.served(charge, router.pod)
    assert len(router.load.index) == 3


def test_a_prompt_that_went_elsewhere_while_blocks_became_larger_is_forgotten() -> None:
    """A profiles file may say so, or a new pod whose cache has larger blocks."""
    router = Router(pods=2)
    one, two = router.pods
    charge = router.send(100, now=0.0, blocks=[*range(100)])
    router.load.use(LoadSettings(block_tokens=4096))
    router.load.follow(router.pods)
    router.load.end(charge)
    router.load.served(charge, two)
    assert len(router.load.index) == 0
    assert (one.in_flight, two.in_flight) == (0, 0)


def test_expected_output_is_learned_by_model_and_bounded_by_the_request() -> None:
    router = Router()
    load = router.load
    assert load.expected_output("m", None) == EXPECTED_OUTPUT
    assert load.expected_output("m", 10) == 10
    for _ in range(200):
        load.learn(router.send(1, now=0.0), 1000)
    assert load.expected_output("m", None) == 1000
    assert load.expected_output("m", 100_000) == 1000


class LoadMachine(RuleBasedStateMachine):
    """Whatever happens to requests, what is counted comes back to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router(pods=3)
        self.now = 0.0
        self.open: list[Charge] = []
        self.first = 0

    @rule(pod=st.integers(0, 2), tokens=st.integers(1, 3000), family=st.integers(0, 3))
    def send(self, pod: int, tokens: int, family: int) -> None:
        blocks = [family * 1000 + n for n in range(tokens % 40)]
        self.open.append(self.router.send(tokens, self.now, pod, blocks))

    @rule(which=st.integers(0, 100), answered=st.booleans(), elsewhere=st.booleans())
    def end(self, which: int, answered: bool, elsewhere: bool) -> None:
        if self.open:
            charge = self.open.pop(which % len(self.open))
            self.router.load.end(charge, answered=answered)
            self.router.load.served(charge, self.router.pods[0] if elsewhere else None)

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.router.load.advance(self.now)

    @rule(waiting=st.integers(0, 3), running=st.integers(0, 5), more=st.integers(-3, 5))
    def scrape(self, waiting: int, running: int, more: int) -> None:
        self.first = max(0, self.first + more)
        self.router.scrape(self.now, waiting, running, self.first)

    @rule()
    def leave(self) -> None:
        kept = {charge.candidate for charge in self.open}
        self.router.load.keep(kept)

    @invariant()
    def counts_agree_with_what_is_open(self) -> None:
        for pod in self.router.pods:
            here = [charge for charge in self.open if charge.candidate is pod]
            assert pod.in_flight == len(here)
            assert pod.tokens == sum(charge.prompt_tokens for charge in here)
            assert pod.output_tokens == 50 * len(here)
            assert 0 <= pod.prefill_tokens <= sum(charge.prefill_tokens for charge in here)

    def teardown(self) -> None:
        for charge in self.open:
            self.router.load.end(charge)
        self.router.load.advance(self.now + 1e9)
        for pod in self.router.pods:
            counts = (pod.in_flight, pod.tokens, pod.prefill_tokens, pod.output_tokens)
            assert counts == (0, 0, 0, 0)
            assert pod.unseen == 0


TestLoad = LoadMachine.TestCase
TestLoad.settings = settings(max_examples=80, stateful_step_count=40)


def test_what_is_new_to_an_endpoint_is_counted_and_nobody_is_owed_more_than_a_cache() -> None:
    router = Router(pods=2)
    busy, idle = router.pods
    for n in range(5):
        router.send(300, now=float(n), blocks=list(range(1000 * n + 1, 1000 * n + 301)))
    assert (busy.cold_tokens, busy.cold_order) == (1500, 5)
    again = router.send(310, now=6.0, blocks=[*range(4001, 4301), *range(9001, 9011)])
    assert again.prefill_tokens == 10  # hardly anything of it was new
    assert (busy.cold_tokens, busy.cold_order) == (1500, 5)
    router.send(100, now=7.0, pod=1)
    assert idle.cold_tokens == 1500 - 1000 + 100  # its cache holds 1,000 tokens


def test_an_empty_cache_is_not_owed_what_the_others_had() -> None:
    router = Router(pods=2)
    busy, idle = router.pods
    router.send(700, now=0.0)
    router.send(100, now=0.0, pod=1)
    assert (busy.cold_tokens, idle.cold_tokens) == (700, 100)
    router.load.forget(idle)  # started again
    assert idle.cold_tokens == 700
    new = Candidate(Endpoint("10.0.0.9", 8000, "new"))
    router.load.follow([*router.pods, new])
    assert (busy.cold_tokens, idle.cold_tokens, new.cold_tokens) == (700, 700, 700)
