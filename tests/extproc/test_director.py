"""From a request to a decision, and from its end back to the counts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from extproc.observability.telemetry import Telemetry
from extproc.picking.decisions import DecisionRecord
from extproc.picking.director import Director
from extproc.picking.endpoint_health import Fault
from extproc.picking.fleet import Fleet
from extproc.picking.model_index import ModelIndex
from extproc.picking.observer import Observer, Unobserved
from extproc.picking.scheduling import PROFILES, Adapters, Signals
from extproc.reasons import Reason
from extproc.request import Api, Completed, InferenceRequest, Outcome, Refused, Routed
from pools.model import (
    Criticality,
    Endpoint,
    InferenceModel,
    InferenceObjective,
    InferencePool,
    ObjectName,
    TargetModel,
    World,
)

LLAMA = ObjectName("default", "llama")
QWEN = ObjectName("default", "qwen")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Seen(Unobserved):
    """What a director tells."""

    def __init__(self) -> None:
        self.decided_: list[str] = []
        self.ended_: list[str] = []
        self.expired_: list[str] = []
        self.ejections: list[tuple[str, Fault]] = []

    def decided(self, record: DecisionRecord) -> None:
        self.decided_.append(record.id)

    def ended(self, record: DecisionRecord) -> None:
        self.ended_.append(record.id)

    def expired(self, record: DecisionRecord) -> None:
        self.expired_.append(record.id)

    def ejected(self, endpoint: str, fault: Fault) -> None:
        self.ejections.append((endpoint, fault))


def endpoints(*numbers: int, draining: Sequence[int] = ()) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"10.0.0.{n}", 8000, f"pod-{n}", draining=n in draining) for n in numbers)


def world(
    llama: tuple[Endpoint, ...] = (),
    qwen: tuple[Endpoint, ...] | None = None,
    models: tuple[InferenceModel, ...] = (),
    objectives: tuple[InferenceObjective, ...] = (),
) -> World:
    by_pool = {LLAMA: llama}
    if qwen is not None:
        by_pool[QWEN] = qwen
    return World(
        pools={name: InferencePool(name, (8000,)) for name in by_pool},
        endpoints=by_pool,
        models=models,
        objectives=objectives,
    )


def make(
    first: World | None = None,
    clock: Clock | None = None,
    profile: str = "filter-tree",
    models: ModelIndex | None = None,
    observer: Observer | None = None,
) -> Director:
    director = Director(
        Fleet(lambda pool: PROFILES[profile](), observer=observer),
        clock or Clock(),
        random.Random(1),
        models=models,
    )
    if first is not None:
        director.update(first)
        scrape_all(director)
    return director


def scrape(director: Director, key: str, signals: Signals, now: float = 1000.0) -> None:
    director.fleet.scrape_started(key)
    director.fleet.scraped(key, signals, now)


def scrape_all(director: Director, now: float = 1000.0) -> None:
    for key in director.fleet.members:
        scrape(director, key, Signals(0, 0, 0.0, Adapters(capacity=4)), now)


def ask(
    model: str = "m",
    pool: ObjectName | None = LLAMA,
    subset: tuple[str, ...] | None = None,
    objective: str = "",
) -> InferenceRequest:
    return InferenceRequest(
        id="r-1",
        pool=pool,
        path="/v1/completions",
        method="POST",
        headers={},
        api=Api.COMPLETIONS,
        model=model,
        objective=objective,
        subset=subset,
        prompt_bytes=400,
    )


def pick(director: Director, request: InferenceRequest | None = None) -> Outcome:
    answers: list[Outcome] = []
    withdraw = director.pick(request or ask(), answers.append)
    [outcome] = answers
    withdraw()
    assert len(answers) == 1
    return outcome


def routed(director: Director, request: InferenceRequest | None = None) -> Routed:
    outcome = pick(director, request)
    assert isinstance(outcome, Routed), outcome
    return outcome


def refused(director: Director, request: InferenceRequest | None = None) -> Refused:
    outcome = pick(director, request)
    assert isinstance(outcome, Refused), outcome
    return outcome


def in_flight(director: Director) -> list[int]:
    return [member.candidate.in_flight for member in director.fleet.members.values()]


# What is answered.


def test_a_request_goes_to_an_endpoint_of_its_pool_with_others_to_fall_back_on() -> None:
    director = make(world(endpoints(1, 2, 3, 4), endpoints(9)))
    outcome = routed(director)
    assert outcome.pool == LLAMA
    assert len(outcome.endpoints) == len(set(outcome.endpoints)) == 3
    assert set(outcome.endpoints) <= {f"10.0.0.{n}:8000" for n in (1, 2, 3, 4)}
    assert routed(director, ask(pool=QWEN)).endpoints == ("10.0.0.9:8000",)


def test_before_the_first_world_nothing_can_be_picked() -> None:
    answer = refused(make())
    assert (answer.status, answer.reason) == (503, "starting")
    assert answer.retry_after


@pytest.mark.parametrize("criticality", list(Criticality))
def test_an_empty_pool_is_503_for_every_priority(criticality: Criticality) -> None:
    name = ObjectName("default", "m")
    director = make(world(models=(InferenceModel(name, LLAMA, "m", criticality),)))
    answer = refused(director)
    assert (answer.status, answer.reason) == (503, "no-ready-endpoints")


def test_a_pool_nobody_has_told_us_of_is_503() -> None:
    answer = refused(make(world(endpoints(1))), ask(pool=ObjectName("x", "y")))
    assert (answer.status, answer.reason) == (503, "unknown-pool")
    assert "x/y" in answer.message


def test_only_sheddable_requests_are_dropped_when_all_are_saturated() -> None:
    director = make(
        world(
            endpoints(1, 2),
            models=(
                InferenceModel(ObjectName("d", "b"), LLAMA, "batch", Criticality.SHEDDABLE),
                InferenceModel(ObjectName("d", "s"), LLAMA, "standard", Criticality.STANDARD),
            ),
            objectives=(InferenceObjective(ObjectName("default", "low"), LLAMA, -5),),
        )
    )
    for key in director.fleet.members:
        scrape(director, key, Signals(waiting=20, kv_usage=0.95))
    for request in (ask("batch"), ask("standard", objective="low")):
        answer = refused(director, request)
        assert (answer.status, answer.reason) == (429, "shed")
        assert answer.retry_after
    routed(director, ask("standard"))
    routed(director, ask("never heard of"))


def test_the_model_is_rewritten_only_where_it_differs() -> None:
    target = (TargetModel("tweet-summary-1"),)
    name = ObjectName("default", "t")
    models = (InferenceModel(name, LLAMA, "tweet-summary", targets=target),)
    director = make(world(endpoints(1), models=models))
    assert routed(director, ask("tweet-summary")).model == "tweet-summary-1"
    assert routed(director, ask("other")).model is None


# Which pool, when Envoy's route does not say.


def test_without_a_pool_the_only_one_is_meant() -> None:
    assert routed(make(world(endpoints(1))), ask("any", pool=None)).pool == LLAMA


def test_of_several_pools_the_model_name_tells() -> None:
    models = (InferenceModel(ObjectName("default", "q"), QWEN, "qwen3"),)
    director = make(world(endpoints(1), endpoints(2), models))
    assert routed(director, ask("qwen3", pool=None)).pool == QWEN
    answer = refused(director, ask("gpt-9", pool=None))
    assert (answer.status, answer.reason) == (404, "no-pool-for-model")
    assert "gpt-9" in answer.message
    assert "'qwen3'" in answer.message, "the known names are listed"
    assert refused(director, ask("", pool=None)).reason == "no-pool-for-model"


def test_a_pool_found_by_the_model_is_named_in_a_header_and_one_that_the_route_chose_is_not() -> (
    None
):
    models = (InferenceModel(ObjectName("default", "q"), QWEN, "qwen3"),)
    director = make(world(endpoints(1), endpoints(2), models))
    found = routed(director, ask("qwen3", pool=None))
    assert found.headers == (("x-poolpilot-pool", "default/qwen"),)
    assert routed(director, ask("qwen3", pool=LLAMA)).headers == ()


def test_before_all_pods_said_what_they_serve_an_unknown_model_is_to_try_again() -> None:
    director = make(world(endpoints(1), endpoints(2)), models=ModelIndex(expects_reports=True))
    director.models.reported("10.0.0.1:8000", ["llama-3"])
    assert routed(director, ask("llama-3", pool=None)).pool == LLAMA
    answer = refused(director, ask("qwen3", pool=None))
    assert (answer.status, answer.reason, answer.retry_after) == (503, "starting", 1.0)
    director.models.silent("10.0.0.2:8000")
    assert refused(director, ask("qwen3", pool=None)).reason == "no-pool-for-model"


def test_an_error_lists_no_more_models_than_a_person_reads() -> None:
    names = [f"model-{n:03}" for n in range(50)]
    director = make(world(endpoints(1), endpoints(2)))
    director.models.reported("10.0.0.1:8000", names)
    message = refused(director, ask("gpt-9", pool=None)).message
    assert "'model-019' and 30 more" in message


# The subset hint.


@pytest.mark.parametrize("entry", ["10.0.0.2", "10.0.0.2:8000"])
def test_a_subset_by_address_or_by_address_and_port_is_kept_to(entry: str) -> None:
    director = make(world(endpoints(1, 2, 3)))
    for _ in range(20):
        assert routed(director, ask(subset=(entry,))).endpoints == ("10.0.0.2:8000",)


def test_ipv6_endpoints_are_found_however_they_are_written() -> None:
    director = make(world((Endpoint("2001:db8::1", 8000, "six"), *endpoints(1))))
    for entry in (
        "[2001:db8::1]:8000",
        "2001:db8::1",
        "[2001:db8::1]",
        "2001:0db8:0:0::1",
        "[2001:DB8:0::1]:8000",
    ):
        assert routed(director, ask(subset=(entry,))).endpoints == ("[2001:db8::1]:8000",)


@pytest.mark.parametrize(
    "subset", [(), ("10.0.0.9",), ("10.0.0.1:9999",), ("rubbish",), ("[10.0.0.1]:9999",)]
)
def test_a_subset_with_none_of_ours_is_503(subset: tuple[str, ...]) -> None:
    answer = refused(make(world(endpoints(1))), ask(subset=subset))
    assert (answer.status, answer.reason) == (503, "no-endpoint-in-subset")


# Draining and ill endpoints.


def test_a_draining_endpoint_gets_no_new_requests_unless_all_drain() -> None:
    director = make(world(endpoints(1, 2, draining=[1])))
    for _ in range(20):
        # Should that one fail, it is still better than nobody.
        assert routed(director).endpoints == ("10.0.0.2:8000", "10.0.0.1:8000")
    director.update(world(endpoints(1, 2, draining=[1, 2])))
    assert {routed(director).endpoints[0] for _ in range(60)} == {"10.0.0.1:8000", "10.0.0.2:8000"}


def end(
    director: Director,
    outcome: Routed,
    code: int = 200,
    served: str = "",
    tried: str = "",
    attempts: int = 1,
    flags: frozenset[str] = frozenset(),
) -> None:
    director.settle(
        Completed(
            outcome.pick_id,
            code,
            0.5,
            served=served,
            tried=tried,
            attempts=attempts,
            flags=flags,
        )
    )


def test_an_endpoint_that_envoy_cannot_connect_to_is_left_out_and_comes_back_slowly() -> None:
    clock, seen = Clock(), Seen()
    director = make(world(endpoints(1, 2, 3)), clock, observer=seen)
    clock.now += 1.0  # since it was last scraped
    dead = "10.0.0.1:8000"
    while director.fleet.members[dead].health.out_until is None:
        outcome = routed(director)
        if outcome.endpoints[0] == dead:
            end(director, outcome, 200, served=outcome.endpoints[1], attempts=2)
        else:
            end(director, outcome, 200, served=outcome.endpoints[0])
    for _ in range(50):
        outcome = routed(director)
        assert outcome.endpoints[2] == dead
        end(director, outcome, served=outcome.endpoints[0])
    assert seen.ejections == [(dead, Fault.PASSED_OVER)]

    def share() -> float:
        picked: Counter[str] = Counter()
        for _ in range(600):
            outcome = routed(director)
            picked[outcome.endpoints[0]] += 1
            end(director, outcome, served=outcome.endpoints[0])
        return picked[dead] / 600

    clock.now += 2.0
    assert 0 < share() < 0.12
    clock.now += 5.0
    assert 0.1 < share() < 0.25
    clock.now += 10.0
    assert 0.25 < share() < 0.42


def test_an_answer_in_between_starts_the_count_of_failures_anew() -> None:
    seen = Seen()
    director = make(world(endpoints(1)), observer=seen)
    for _ in range(20):
        outcome = routed(director)
        end(director, outcome, 503, tried=outcome.endpoints[0], flags=frozenset({"UF"}))
        outcome = routed(director)
        end(director, outcome, 200, served=outcome.endpoints[0])
    assert not seen.ejections


def test_what_is_only_told_at_the_end_of_a_long_answer_takes_nobody_out_a_second_time() -> None:
    clock, seen = Clock(), Seen()
    director = make(world(endpoints(1, 2)), clock, profile="round-robin", observer=seen)
    clock.now += 1.0  # nothing says that it was alive when it was tried
    long = [routed(director) for _ in range(10)]
    first = long[0].endpoints[0]
    clock.now += 1.0
    for outcome in long[2:]:
        if outcome.endpoints[0] == first:
            end(director, outcome, 200, served=outcome.endpoints[1], attempts=2)
    assert [endpoint for endpoint, _ in seen.ejections] == [first]
    clock.now += 3.0  # it is back, with a small share
    end(director, long[0], 200, served=long[0].endpoints[1], attempts=2)
    assert len(seen.ejections) == 1


def test_never_all_are_left_out() -> None:
    director = make(world(endpoints(1, 2, 3)))
    for _ in range(60):
        outcome = routed(director)
        end(director, outcome, 503, tried=outcome.endpoints[0], flags=frozenset({"UF"}))
    assert all(member.health.out_until for member in director.fleet.members.values())
    assert len(routed(director).endpoints) == 3


def test_a_client_that_hangs_up_is_not_held_against_the_endpoint() -> None:
    director = make(world(endpoints(1, 2)))
    for _ in range(30):
        outcome = routed(director)
        end(director, outcome, 0, tried=outcome.endpoints[0], flags=frozenset({"DC"}))
    assert all(member.health.out_until is None for member in director.fleet.members.values())


# The counts.


def test_a_burst_between_two_scrapes_spreads_evenly() -> None:
    director = make(world(endpoints(*range(1, 11))))
    for _ in range(200):
        routed(director)
    assert in_flight(director) == [20] * 10
    # 400 bytes of prompt are about 100 tokens.
    assert {member.candidate.tokens for member in director.fleet.members.values()} == {2000}


@pytest.mark.parametrize(
    ("answered", "cached"), [(Completed("", 200, 1.0, 0.1), 1152), (Completed("", 503, 1.0), 0)]
)
def test_a_prompt_stays_known_where_a_gateway_does_not_tell_who_answered(
    answered: Completed, cached: int
) -> None:
    director = make(world(endpoints(1)), profile="default")
    request = InferenceRequest("r", LLAMA, "/v1/completions", "POST", {}, api=Api.COMPLETIONS)
    request.document = {"prompt": "hello world " * 400}
    first = director.decide(request)
    director.settle(msgspec.structs.replace(answered, pick_id=first.id))
    assert director.decide(request).cached_tokens == cached


def test_the_answer_goes_out_before_the_pick_is_remembered_and_nothing_is_lost_by_that() -> None:
    seen = Seen()
    director = make(world(endpoints(1, 2)), observer=seen)
    remembered: list[int] = []

    def answer(outcome: Outcome) -> None:
        remembered.append(len(seen.decided_))

    director.pick(ask(), answer)
    assert remembered == [0]
    assert len(seen.decided_) == len(director.ledger) == sum(in_flight(director)) == 1


def settles(director: Director, outcome: Routed) -> None:
    assert director.settle(Completed(outcome.pick_id)) is not None


def settles_another(director: Director, outcome: Routed) -> None:
    [other] = [record.id for record in director.decisions.latest() if record.id != outcome.pick_id]
    assert director.settle(Completed(other)) is not None


def expires(director: Director, outcome: Routed) -> None:
    # Only what was under way for long: this one has just begun.
    assert outcome.pick_id not in [record.id for record in director.expire()]


def picks(director: Director, outcome: Routed) -> None:
    assert routed(director).pick_id != outcome.pick_id


def decides(director: Director, outcome: Routed) -> None:
    assert director.decide(ask()).id != outcome.pick_id


def refuses(director: Director, outcome: Routed) -> None:
    refusal = Refused(Reason.QUEUE_FULL, "Full.")
    director.refuse(ask(), refusal, director.fleet.pools[LLAMA], 0)


def is_refused(director: Director, outcome: Routed) -> None:
    refused(director, ask(pool=ObjectName("default", "nowhere")))


def reconfigures(director: Director, outcome: Routed) -> None:
    director.update(world(endpoints(1, 2, 3)))


def looks(director: Director, outcome: Routed) -> None:
    assert director.decisions.get(outcome.pick_id) is not None


def answers_again(director: Director, outcome: Routed) -> None:
    director.pick(ask(), lambda inner: picks(director, outcome))


@pytest.mark.parametrize(
    "does",
    [
        settles,
        settles_another,
        expires,
        picks,
        decides,
        refuses,
        is_refused,
        reconfigures,
        looks,
        answers_again,
    ],
)
def test_whatever_an_answer_leads_to_finds_its_pick_remembered(
    does: Callable[[Director, Routed], None],
) -> None:
    seen, clock = Seen(), Clock()
    director = make(world(endpoints(1, 2)), clock, profile="least-load", observer=seen)
    before = routed(director)
    clock.now += 899.9

    def answer(outcome: Outcome) -> None:
        assert isinstance(outcome, Routed)
        assert seen.decided_ == [before.pick_id]
        does(director, outcome)
        assert seen.decided_[:2] == [before.pick_id, outcome.pick_id], "in the order of their picks"

    director.pick(ask(), answer)
    assert len(seen.decided_) == len(set(seen.decided_)), "each once, with an id of its own"
    assert [r.id for r in director.decisions.latest()] == seen.decided_[::-1]
    was_routed = [r.id for r in director.decisions.latest() if isinstance(r.outcome, Routed)]
    under_way = len(was_routed) - len(seen.ended_) - len(seen.expired_)
    assert len(director.ledger) == sum(in_flight(director)) == under_way


def test_a_pick_that_is_made_while_another_is_answered_sees_it() -> None:
    director = make(world(endpoints(1, 2)), profile="least-load")
    chosen: list[str] = []

    def answer(outcome: Outcome) -> None:
        assert isinstance(outcome, Routed)
        chosen.append(outcome.endpoints[0])
        chosen.append(routed(director).endpoints[0])

    director.pick(ask(), answer)
    assert len(set(chosen)) == 2
    assert in_flight(director) == [1, 1]


def test_a_pick_counts_even_if_answering_it_fails() -> None:
    director = make(world(endpoints(1)))

    def answer(outcome: Outcome) -> None:
        raise RuntimeError("the stream is broken")

    with pytest.raises(RuntimeError, match="broken"):
        director.pick(ask(), answer)
    assert len(director.ledger) == 1


def test_the_end_of_a_request_is_counted_once_wherever_it_was_served() -> None:
    telemetry = Telemetry()
    director = make(world(endpoints(1, 2)), observer=telemetry)
    outcome = routed(director)
    assert sum(in_flight(director)) == 1
    end(director, outcome, served=outcome.endpoints[1], attempts=2)
    end(director, outcome, served=outcome.endpoints[1])
    director.settle(Completed("not-a-pick", 200))
    assert in_flight(director) == [0, 0]
    assert telemetry.metrics.served_elsewhere == {"default/llama": 1}
    assert telemetry.metrics.retries == {"default/llama": 1}


def test_what_nobody_reports_is_over_after_a_while() -> None:
    clock, seen = Clock(), Seen()
    director = make(world(endpoints(1)), clock, observer=seen)
    first = routed(director)
    clock.now += 800
    late = routed(director)
    clock.now += 150
    assert [record.id for record in director.expire()] == seen.expired_ == [first.pick_id]
    assert in_flight(director) == [1]
    end(director, late, served="10.0.0.1:8000")
    assert in_flight(director) == [0]


def test_an_endpoint_that_comes_back_still_has_what_is_under_way_there() -> None:
    director = make(world(endpoints(1, 2)))
    outcomes = [routed(director) for _ in range(4)]
    director.update(world(endpoints(2)))
    assert in_flight(director) == [2]
    director.update(world(endpoints(1, 2)))
    assert sum(in_flight(director)) == 4
    for outcome in outcomes:
        end(director, outcome, served=outcome.endpoints[0])
    assert in_flight(director) == [0, 0]


def test_an_endpoint_of_two_pools_is_one_server() -> None:
    director = make(world(endpoints(1), endpoints(1, 2)))
    for _ in range(5):
        routed(director)
    assert routed(director, ask(pool=QWEN)).endpoints[0] == "10.0.0.2:8000"
    assert len(director.fleet.targets()) == 2


# Reading decisions back.


def test_a_decision_can_be_read_back_with_its_reasons_and_its_end() -> None:
    director = make(world(endpoints(1, 2, 3)))
    scrape(director, "10.0.0.1:8000", Signals(2, 0, 0.1, Adapters(frozenset({"m"}), capacity=4)))
    outcome = routed(director)
    assert outcome.endpoints[0] == "10.0.0.1:8000"
    end(director, outcome, served="10.0.0.1:8000")
    record = director.decisions.get(outcome.pick_id)
    assert record is not None
    shown = record.explain()
    assert shown["outcome"] == "routed"
    steps = shown["steps"]
    assert isinstance(steps, list)
    by_name = {step["name"]: step for step in steps}
    assert by_name["adapter-active"]["removed"] == ["10.0.0.2:8000", "10.0.0.3:8000"]
    assert by_name["adapter-active"]["because"] == "the adapter is not active there"
    considered = shown["considered"]
    assert isinstance(considered, list)
    assert considered[0] == {
        "endpoint": "10.0.0.1:8000",
        "queue": 2,
        "kv_usage": 0.1,
        "in_flight": 0,
        "prefill_tokens": 0,
        "cached_tokens": 0,
    }
    completed = shown["completed"]
    assert isinstance(completed, dict)
    assert completed["code"] == 200


def test_of_a_name_as_long_as_a_body_only_the_beginning_is_kept() -> None:
    telemetry = Telemetry()
    director = make(world(endpoints(1), endpoints(2)), observer=telemetry)
    long = "x" * 1_000_000
    routed(director, ask(long))
    answer = refused(director, ask(long, pool=None))
    assert len(answer.message) < 1000
    assert [len(record.model) for record in director.decisions.latest()] == [256, 256]
    assert {labels[1] for labels in telemetry.metrics.requests} == {"other"}


def test_refusals_are_remembered_too() -> None:
    director = make(world())
    refused(director)
    [record] = director.decisions.latest()
    assert record.explain()["outcome"] == "no-ready-endpoints"


def test_only_the_last_decisions_are_kept() -> None:
    director = make(world(endpoints(1)))
    first = routed(director)
    record = director.decisions.get(first.pick_id)
    assert record is not None
    assert record.details is not None
    for _ in range(1000):
        routed(director)
    assert record.details is None  # the ledger still has it, but not what is large
    assert director.decisions.get(first.pick_id) is None
    assert len(list(director.decisions.latest())) == 1000
    assert director.decisions.get("nonsense") is None


class Counts(RuleBasedStateMachine):
    """Whatever happens, the counts of every endpoint match what is open, and end at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.director = make(world(endpoints(1, 2, 3)), self.clock)
        self.open: dict[str, tuple[Routed, float]] = {}
        self.present = {1, 2, 3}

    @rule(model=st.sampled_from(["m", "n"]))
    def picked(self, model: str) -> None:
        outcome = pick(self.director, ask(model))
        if isinstance(outcome, Routed):
            assert set(outcome.endpoints) <= {f"10.0.0.{n}:8000" for n in self.present}
            self.open[outcome.pick_id] = (outcome, self.clock.now)
        else:
            assert not self.present

    @rule(
        which=st.integers(0, 100),
        code=st.sampled_from([0, 200, 429, 500, 503]),
        attempts=st.integers(1, 4),
        flags=st.frozensets(st.sampled_from(["UF", "UC", "DC", "UH", "URX"]), max_size=2),
        served=st.integers(0, 4),
    )
    def ended(
        self, which: int, code: int, attempts: int, flags: frozenset[str], served: int
    ) -> None:
        if self.open:
            pick_id = list(self.open)[which % len(self.open)]
            outcome, _ = self.open.pop(pick_id)
            end(
                self.director,
                outcome,
                code,
                served=f"10.0.0.{served}:8000" if served else "",
                attempts=attempts,
                flags=flags,
            )

    @rule(numbers=st.frozensets(st.integers(1, 4)), draining=st.frozensets(st.integers(1, 4)))
    def configured(self, numbers: frozenset[int], draining: frozenset[int]) -> None:
        self.present = set(numbers)
        self.director.update(world(endpoints(*sorted(numbers), draining=list(draining))))

    @rule(number=st.integers(1, 4), waiting=st.integers(0, 100))
    def scraped(self, number: int, waiting: int) -> None:
        scrape(self.director, f"10.0.0.{number}:8000", Signals(waiting), self.clock.now)

    @rule(number=st.integers(1, 4), alive=st.booleans())
    def scrape_failed(self, number: int, alive: bool) -> None:
        key = f"10.0.0.{number}:8000"
        self.director.fleet.scrape_started(key)
        self.director.fleet.scrape_failed(key, "refused", alive, self.clock.now)

    @rule(seconds=st.floats(0.1, 1000))
    def time_passed(self, seconds: float) -> None:
        self.clock.now += seconds
        self.director.expire()
        for pick_id, (_, at) in list(self.open.items()):
            if self.clock.now - at >= 900.0:
                del self.open[pick_id]

    @invariant()
    def open_requests_are_counted(self) -> None:
        assert len(self.director.ledger) == len(self.open)
        assert sum(in_flight(self.director)) <= len(self.open)
        assert min(in_flight(self.director), default=0) >= 0

    def teardown(self) -> None:
        for outcome, _ in self.open.values():
            end(self.director, outcome, served=outcome.endpoints[0])
        self.director.update(world(endpoints(1, 2, 3, 4)))
        assert in_flight(self.director) == [0, 0, 0, 0]
        for member in self.director.fleet.members.values():
            assert member.candidate.tokens == 0
            assert member.candidate.unseen == 0


TestCounts = Counts.TestCase
TestCounts.settings = settings(max_examples=60, stateful_step_count=40)
