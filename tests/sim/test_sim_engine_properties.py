"""Whatever is asked of an engine, in whatever order, its books balance."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from sim.cost import CostModel
from sim.engine import Engine, EngineConfig
from sim.events import Decoded, Event, Finished, FirstToken, Preempted, Request

# So small that blocks, sequences and slots are short all the time.
TIGHT = EngineConfig(
    max_num_seqs=5,
    max_num_batched_tokens=24,
    block_size=4,
    kv_cache_tokens=4 * 24,
    max_loras=2,
    cost=CostModel(prefill_tokens_per_second=1000.0, adapter_load_seconds=0.05),
)

prefixes = st.sampled_from("abc")


@st.composite
def requests(draw: st.DrawFn, name: str = "") -> Request:
    prompt = draw(st.integers(1, 60))
    output = draw(st.integers(1, 96 - prompt if prompt > 56 else 36))
    prefix = draw(prefixes)
    adapter = draw(st.sampled_from([None, None, "x", "y", "z"]))
    blocks = tuple(hash((prefix, adapter, i)) for i in range((prompt + output) // 4))
    return Request(name, prompt, output, blocks, adapter)


class Life(RuleBasedStateMachine):
    """Submissions, aborts and time, at random."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(TIGHT)
        self.now = 0.0
        self.count = 0
        self.open: dict[str, Request] = {}
        self.started: set[str] = set()
        self.aborted = False
        self.submitted_tokens = 0
        self.tokens = 0

    @rule(target=ids, request=requests())
    def submit(self, request: Request) -> str:
        self.count += 1
        name = str(self.count)
        request = Request(
            name, request.prompt_tokens, request.output_tokens, request.blocks, request.adapter
        )
        self.engine.submit(request, self.now)
        self.open[name] = request
        self.submitted_tokens += request.output_tokens
        return name

    @rule(name=consumes(ids))
    def abort(self, name: str) -> None:
        self.take(self.engine.advance(self.now))
        was_open = name in self.open
        assert self.engine.abort(name, self.now) == was_open
        self.open.pop(name, None)
        self.aborted |= was_open

    @rule(seconds=st.floats(0, 0.3))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.engine.advance(self.now))

    @rule()
    def wait_for_the_next_event(self) -> None:
        due = self.engine.next_event_time()
        if due < math.inf:
            self.now = max(self.now, due)
            self.take(self.engine.advance(self.now))

    @rule()
    def forget_what_is_cached(self) -> None:
        self.engine.kv.forget()
        assert self.engine.kv.cached <= self.engine.kv.used

    def take(self, events: list[Event]) -> None:
        for event in events:
            assert event.at <= self.now
            match event:
                case FirstToken(request_id=name):
                    assert name not in self.started
                    assert event.cached_tokens < self.open[name].prompt_tokens
                    self.started.add(name)
                    self.tokens += 1
                case Decoded(tokens=tokens):
                    self.tokens += tokens
                case Preempted(request_id=name):
                    assert name in self.open
                case Finished(request_id=name):
                    assert name in self.started
                    assert event.arrived <= event.admitted < event.first_token <= event.at
                    del self.open[name]

    @invariant()
    def nothing_is_over_its_bound(self) -> None:
        engine = self.engine
        assert engine.running + engine.waiting >= len(self.open)  # the rest ended unseen
        assert engine.running <= TIGHT.max_num_seqs
        assert 0 <= engine.kv.used <= engine.kv.capacity
        assert engine.kv.cached <= engine.kv.capacity
        assert len(engine.adapters.active) <= TIGHT.max_loras
        assert len(engine.adapters.resident) <= TIGHT.max_loras

    @invariant()
    def a_request_has_no_more_tokens_than_it_asked_for(self) -> None:
        for name, request in self.open.items():
            assert 0 <= self.engine.generated(name) <= request.output_tokens

    def teardown(self) -> None:
        while (due := self.engine.next_event_time()) < math.inf:
            self.now = max(self.now, due)
            self.take(self.engine.advance(self.now))
        engine = self.engine
        assert not self.open
        assert (engine.running, engine.waiting, engine.kv.used) == (0, 0, 0)
        assert not engine.adapters.active
        assert not engine.waiting_adapters
        if not self.aborted:
            assert self.tokens == self.submitted_tokens


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=60)


arrivals = st.lists(st.tuples(st.floats(0, 0.5), requests()), min_size=1, max_size=12)


def story(batch: list[tuple[float, Request]], tick: float | None) -> list[tuple[object, ...]]:
    """Everything that happens, when the engine is woken at its own times or every ``tick``."""
    engine = Engine(TIGHT)
    events: list[Event] = []
    now = 0.0
    for i, (gap, request) in enumerate(batch):
        arrival = now + gap
        while tick is not None and now + tick < arrival:
            now += tick
            events += engine.advance(now)
        now = arrival
        renamed = Request(
            str(i), request.prompt_tokens, request.output_tokens, request.blocks, request.adapter
        )
        engine.submit(renamed, now)
    while (due := engine.next_event_time()) < math.inf:
        now = now + tick if tick is not None else max(now, due)
        events += engine.advance(now)
    return [
        (type(e).__name__, e.request_id, pytest.approx(e.at))
        for e in events
        if not isinstance(e, Decoded)
    ]


@settings(max_examples=100)
@given(arrivals)
def test_what_happens_does_not_depend_on_how_often_somebody_looks(batch):
    assert story(batch, tick=None) == story(batch, tick=0.003)


@settings(max_examples=100)
@given(arrivals)
def test_nothing_happens_before_the_time_that_was_promised(batch):
    engine = Engine(TIGHT)
    now = 0.0
    for i, (gap, request) in enumerate(batch):
        now += gap
        engine.advance(now)
        renamed = Request(
            str(i), request.prompt_tokens, request.output_tokens, request.blocks, request.adapter
        )
        engine.submit(renamed, now)
    while (due := engine.next_event_time()) < math.inf:
        early = [e for e in engine.advance(max(now, due - 1e-6)) if not isinstance(e, Decoded)]
        assert all(e.at >= due - 1e-6 for e in early)
        now = max(now, due)
        engine.advance(now)
