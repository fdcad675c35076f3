"""Each filter, scorer and picker by its rule."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.picking.scheduling import (
    PROFILES,
    Adapters,
    Candidate,
    Filter,
    Picker,
    SchedulingRequest,
    Scorer,
    Signals,
    Verdict,
    affinity,
    labels,
    limits,
    pickers,
    scorers,
    session,
)
from extproc.picking.scheduling.limits import Concurrency, Measure
from extproc.picking.scheduling.prefix import PrefixIndex
from extproc.picking.scheduling.signals import Latency
from extproc.picking.scheduling.work import work_of, work_with
from extproc.request import InferenceRequest
from pools.model import Endpoint, LabelOperator, LabelRequirement, LabelSelector


def pod(
    number: int = 1,
    signals: Signals | None = None,
    labelled: Mapping[str, str] | None = None,
    in_flight: int = 0,
) -> Candidate:
    one = Candidate(Endpoint(f"10.0.0.{number}", 8000, f"pod-{number}", labelled or {}))
    if signals is not None:
        scrape(one, signals)
    for _ in range(in_flight):
        one.in_flight += 1
    return one


def scrape(one: Candidate, signals: Signals) -> None:
    one.scrape_started()
    one.observe(signals, 0.0, 1.0)


def request(
    model: str = "m",
    tokens: int = 100,
    headers: Mapping[str, str] | None = None,
    cached: Mapping[Candidate, int] | None = None,
) -> SchedulingRequest:
    """``cached``: tokens of the prompt by endpoint."""
    http = InferenceRequest("r", None, "/", "POST", headers or {})
    asked = SchedulingRequest(model, 0, random.Random(1), http, prompt_tokens=tokens)
    if cached:
        index = PrefixIndex(block_tokens=1, even=True)
        index.follow(dict.fromkeys(cached, 100_000))
        prompt = list(range(1, tokens + 1))
        for candidate, count in cached.items():
            index.add(candidate, prompt[:count])
        asked.prefix = index.match(prompt)
    return asked


def score(
    scorer: Scorer, pods: Sequence[Candidate], asked: SchedulingRequest | None = None
) -> list[float]:
    scores = scorer.apply(asked or request(), pods)
    assert all(0.0 <= one <= 1.0 for one in scores)
    return [round(one, 4) for one in scores]


def kept(
    step: Filter, pods: Sequence[Candidate], asked: SchedulingRequest | None = None
) -> list[int]:
    """The places of those that a filter keeps."""
    result = step.apply(asked or request(), pods)
    return [place for place, one in enumerate(pods) if one in result]


# Scorers.


def test_queue_and_running_are_relative_to_the_least_and_the_most() -> None:
    pods = [
        pod(n, Signals(waiting=w, running=r)) for n, (w, r) in enumerate([(0, 8), (2, 4), (8, 0)])
    ]
    assert score(scorers.queue(), pods) == [1.0, 0.75, 0.0]
    assert score(scorers.running(), pods) == [0.0, 0.5, 1.0]
    assert score(scorers.queue(), pods[:1]) == [1.0]


def test_kv_cache_is_what_is_free() -> None:
    pods = [pod(n, Signals(kv_usage=usage)) for n, usage in enumerate([0.0, 0.25, 1.0])]
    assert score(scorers.kv_cache(), pods) == [1.0, 0.75, 0.0]


def test_lora_affinity_prefers_active_then_room_then_waiting() -> None:
    def with_adapters(number: int, active: set[str], waiting: set[str]) -> Candidate:
        adapters = Adapters(frozenset(active), frozenset(waiting), capacity=2)
        return pod(number, Signals(adapters=adapters))

    pods = [
        with_adapters(1, {"m", "a"}, set()),
        with_adapters(2, {"a"}, set()),
        with_adapters(3, {"a", "b"}, {"m"}),
        with_adapters(4, {"a", "b"}, set()),
    ]
    assert score(scorers.lora_affinity(), pods) == [1.0, 0.8, 0.6, 0.0]


def test_prefix_is_the_cached_share_and_may_count_length() -> None:
    pods = [pod(n) for n in range(3)]
    asked = request(tokens=100, cached={pods[0]: 100, pods[1]: 25, pods[2]: 0})
    assert score(scorers.prefix_cache(), pods, asked) == [1.0, 0.25, 0.0]
    by_length = scorers.prefix_cache(length_weight=0.5, scale_tokens=50)
    assert score(by_length, pods, asked) == [1.0, 0.25, 0.0]  # .5 * .5 ** 2 + .5 * .25
    assert score(scorers.prefix_cache(), pods) == [0.0, 0.0, 0.0]


def test_load_aware_is_at_most_a_half() -> None:
    pods = [pod(n, Signals(waiting=w)) for n, w in enumerate([0, 64, 128, 500])]
    assert score(scorers.load_aware(), pods) == [0.5, 0.25, 0.0, 0.0]


def test_token_load_counts_what_waits_and_what_this_request_adds() -> None:
    pods = [pod(n) for n in range(3)]
    pods[0].prefill_tokens, pods[1].prefill_tokens = 400, 900
    asked = request(tokens=100, cached={pods[0]: 0, pods[1]: 100, pods[2]: 50})
    assert score(scorers.token_load(limit=1000), pods, asked) == [0.5, 0.099, 0.95]
    assert score(scorers.token_load(limit=300), pods, asked)[:2] == [0.0, 0.0]


def test_active_requests_favour_the_idle_by_a_step() -> None:
    pods = [pod(n, in_flight=count) for n, count in enumerate([0, 2, 5, 10])]
    assert score(scorers.active_requests(), pods) == [1.0, 0.8, 0.5, 0.0]
    assert score(scorers.active_requests(1, 2, 0.5), pods) == [1.0, 1.0, 0.25, 0.0]
    assert score(scorers.active_requests(), pods[:1]) == [1.0]


def test_cold_prompts_go_to_who_had_none_then_to_who_had_one_longest_ago() -> None:
    pods = [pod(n) for n in range(4)]
    pods[0].cold_turn, pods[1].cold_turn = 7, 3
    assert score(scorers.no_hit_lru(), pods) == [0.0, 0.3333, 1.0, 1.0]
    warm = request(cached={pods[0]: 1, pods[1]: 0})
    assert score(scorers.no_hit_lru(), pods, warm) == [0.5] * 4
    pods[2].cold_turn, pods[3].cold_turn = 8, 9
    assert score(scorers.no_hit_lru(), pods) == [0.6667, 1.0, 0.3333, 0.0]


def test_least_work_is_waiting_prompts_this_prompt_and_the_batch() -> None:
    pods = [pod(n) for n in range(3)]
    pods[0].prefill_tokens = 300
    pods[1].in_flight = 2
    asked = request(tokens=100, cached={pods[0]: 99, pods[1]: 0, pods[2]: 0})
    # 300 + 1, 2 * 100 + 100, 0 + 100
    assert score(scorers.least_work(decode_tokens=100), pods, asked) == [0.0, 0.005, 1.0]
    idle = [pod(n) for n in range(3)]
    assert score(scorers.least_work(), idle) == [1.0, 1.0, 1.0]


def test_a_full_cache_is_work_as_a_queue_for_memory_would_be() -> None:
    half, most, full = (pod(n, Signals(kv_usage=u)) for n, u in enumerate((0.5, 0.9, 1.0)))
    assert work_of([half, most, full], memory_tokens=100) == pytest.approx([100, 900, 9900])
    short = pod(4, Signals(waiting=1, kv_usage=0.85))  # what is free there is not enough for them
    roomy = pod(5, Signals(waiting=1, kv_usage=0.5))
    assert work_of([short, roomy], 0, 100) == pytest.approx([2 * 9900, 100])
    for one in (short, roomy):
        one.charge(10)  # waits behind that one, for memory or for a step
    assert work_of([short, roomy], 0, 100) == pytest.approx([3 * 9900, 100])


def test_what_a_slow_pod_has_to_do_counts_as_often_as_it_is_slower() -> None:
    one, other = pods = [pod(n, Signals(kv_usage=0.5), in_flight=2) for n in range(2)]
    other.prefill_tokens, other.slowness = 300, 2.0
    assert work_of(pods, 100, 10) == [210, 2 * 500 + 10]
    assert work_with([1, 50], pods, 100, 10) == [211, 2 * 550 + 10]
    assert work_with([1, 50], [one, one], 100, 10) == [211, 260]


def test_where_all_are_full_the_shortest_queue_for_memory_wins_over_the_fewest_requests() -> None:
    few_large = pod(0, Signals(waiting=6, running=23, kv_usage=0.97))
    many_small = pod(1, Signals(waiting=0, running=68, kv_usage=0.995))
    for candidate, requests in ((few_large, 29), (many_small, 68)):
        candidate.in_flight = requests
    full = score(scorers.least_work(), [few_large, many_small])
    assert full == [0.0, 1.0]


def test_a_queue_of_others_requests_is_work_too() -> None:
    pods = [pod(1, Signals(waiting=20)), pod(2, in_flight=3)]
    assert score(scorers.least_work(), pods) == [0.0, 1.0]


def test_observed_latency_is_relative_and_who_says_nothing_is_in_the_middle() -> None:
    pods = [pod(n) for n in range(4)]
    for one, seconds in zip(pods, (0.1, 0.2, 0.5), strict=False):
        scrape(one, Signals(latency=Latency(10, 5.0)))
        scrape(one, Signals(latency=Latency(20, 5.0 + 10 * seconds)))
    assert score(scorers.observed_latency(), pods) == [1.0, 0.75, 0.0, 0.75]
    assert score(scorers.observed_latency(), [pod(1), pod(2)]) == [1.0, 1.0]


def test_the_error_rate_rises_with_failures_and_falls_with_answers() -> None:
    good, bad = pod(1), pod(2)
    for _ in range(10):
        good.answered(well=True)
        bad.answered(well=False)
    assert score(scorers.error_rate(), [good, bad]) == [1.0, round(0.9**10, 4)]
    for _ in range(50):
        bad.answered(well=True)
    assert score(scorers.error_rate(), [bad])[0] > 0.99


def test_context_length_prefers_the_narrow_range_that_the_prompt_is_in() -> None:
    key = labels.CONTEXT_LENGTH_RANGE
    ranges = ["0-2000", "0-100000", "5000-9000", None, "nonsense"]
    pods = [pod(n, labelled={key: text} if text else {}) for n, text in enumerate(ranges)]
    asked = request(tokens=1000)
    scores = score(labels.context_length(), pods, asked)
    assert scores[0] == round(0.3 + 0.7 * (0.7 / 1.2 + 0.3 * 0.5), 4)
    assert scores[2] == round(0.3 / (1 + 4000 / 1000), 4)
    assert scores[3:] == [0.5, 0.5]
    assert scores[0] > scores[1] > scores[2]
    assert kept(labels.context_length_filter(), pods, asked) == [0, 1, 3, 4]
    assert kept(labels.context_length_filter(), pods[2:3], asked) == [0]


# Filters.


def test_a_label_selector_means_what_it_means_in_kubernetes() -> None:
    pods = [pod(1, labelled={"gpu": "h100"}), pod(2, labelled={"gpu": "a10"}), pod(3)]

    def chosen(operator: LabelOperator, *values: str) -> list[int]:
        wanted = LabelRequirement("gpu", operator, values)
        return kept(labels.label_selector(LabelSelector((wanted,))), pods)

    assert chosen(LabelOperator.IN, "h100", "h200") == [0]
    assert chosen(LabelOperator.NOT_IN, "h100") == [1, 2]
    assert chosen(LabelOperator.EXISTS) == [0, 1]
    assert chosen(LabelOperator.DOES_NOT_EXIST) == [2]


def test_roles() -> None:
    roles = ["prefill", "decode", "prefill-decode", "both", "encode", None]
    pods = [pod(n, labelled={labels.ROLE: r} if r else {}) for n, r in enumerate(roles)]
    assert kept(labels.prefill_role(), pods) == [0, 2, 3]
    assert kept(labels.decode_role(), pods) == [1, 2, 3, 5]
    assert kept(labels.encode_role(), pods) == [4]


def test_utilization_limits_leave_nobody_or_everybody_when_all_are_full() -> None:
    pods = [pod(1, Signals(1, 1, 0.5)), pod(2, Signals(9, 1, 0.5)), pod(3, Signals(1, 1, 0.95))]
    full = [(Measure.WAITING_QUEUE, 5.0), (Measure.KV_CACHE_UTILIZATION, 0.9)]
    assert kept(limits.utilization(full), pods) == [0]
    assert kept(limits.utilization(full), pods[1:]) == []
    assert kept(limits.utilization(full, fallback_on_empty=True), pods[1:]) == [0, 1]
    busy = [pod(1, in_flight=3), pod(2, in_flight=4)]
    assert kept(limits.utilization([(Measure.ACTIVE_REQUESTS, 3)]), busy) == [0]


def test_detectors_as_filters_let_all_through_when_all_are_over() -> None:
    pods = [pod(1, Signals(5, 1, 0.1)), pod(2, Signals(4, 1, 0.79)), pod(3)]
    assert kept(limits.utilization_detector(), pods) == [1]
    assert kept(limits.utilization_detector(headroom=0.5), pods) == [0, 1]
    assert kept(limits.utilization_detector(), pods[:1]) == [0]
    loaded = [pod(1, in_flight=2), pod(2, in_flight=1)]
    loaded[1].tokens = 50
    assert kept(limits.concurrency_detector(2), loaded) == [1]
    assert kept(limits.concurrency_detector(2, 50, Concurrency.TOKENS), loaded) == [0]
    assert kept(limits.concurrency_detector(2, 50, Concurrency.HYBRID), loaded) == [0, 1]


def test_a_session_stays_and_only_those_of_an_endpoint_that_left_move() -> None:
    pods = [pod(n) for n in range(8)]
    step = session.session_affinity_filter()

    def home(number: int, among: Sequence[Candidate]) -> Candidate:
        [one] = step.apply(request(headers={"x-session-id": f"s-{number}"}), among)
        return one

    before = [home(number, pods) for number in range(200)]
    assert len(set(before)) == 8
    after = [home(number, pods[1:]) for number in range(200)]
    assert all(new is old for new, old in zip(after, before, strict=True) if old is not pods[0])
    assert kept(step, pods) == list(range(8))
    with_session = request(headers={"x-session-id": "s-0"})
    assert sum(score(session.session_affinity(), pods, with_session)) == 1.0
    assert score(session.session_affinity(), pods) == [0.0] * 8


def test_a_prompt_stays_where_it_is_cached_until_that_is_saturated() -> None:
    pods = [pod(n) for n in range(3)]
    step = affinity.prefix_affinity(threshold=0.8, max_penalty=2.0, prefill_rate=1000)
    asked = request(tokens=100, cached={pods[0]: 80, pods[1]: 79, pods[2]: 0})
    assert kept(step, pods, asked) == [0]
    pods[0].prefill_tokens = 2000
    assert kept(step, pods, asked) == [0]
    pods[0].prefill_tokens = 2001
    assert kept(step, pods, asked) == [0, 1, 2]
    pods[1].prefill_tokens = pods[2].prefill_tokens = 1
    assert kept(step, pods, asked) == [0]
    asked.multimodal = True
    assert kept(step, pods, asked) == [0, 1]
    assert kept(step, pods) == [0, 1, 2]


def test_default_keeps_a_long_system_prompt_together_that_is_just_below_four_fifths() -> None:
    busy, idle = pod(0, in_flight=14), pod(1)
    busy.cold_tokens = 4000
    asked = request(tokens=5000, cached={busy: 3968})
    [chosen] = PROFILES["default"]().decide(asked, [busy, idle], 1).endpoints
    assert chosen is busy


def test_default_keeps_a_chat_together_whose_next_turn_is_longer_than_all_before() -> None:
    before, idle = pod(0, in_flight=3), pod(1)
    before.cold_tokens = 4000
    asked = request(tokens=3000, cached={before: 1024})
    [chosen] = PROFILES["default"]().decide(asked, [before, idle], 1).endpoints
    assert chosen is before
    asked = request(tokens=3000, cached={before: 832})  # hardly more than a quarter
    [chosen] = PROFILES["default"]().decide(asked, [before, idle], 1).endpoints
    assert chosen is idle


def test_a_prefix_is_computed_again_where_that_costs_less_than_to_wait() -> None:
    pods = [pod(n) for n in range(3)]
    step = affinity.prefix_affinity(recompute_factor=3)
    asked = request(tokens=1000, cached={pods[0]: 900, pods[1]: 0, pods[2]: 500})
    # Here: work + 100. There: work + 3 * 1000, or 3 * 500 where half of it is.
    pods[0].prefill_tokens = 1400
    assert kept(step, pods, asked) == [0]
    pods[0].prefill_tokens = 1401
    assert kept(step, pods, asked) == [2]
    pods[2].prefill_tokens = 1
    assert kept(step, pods, asked) == [0]
    pods[0].prefill_tokens, pods[0].in_flight = 0, 12  # 256 each
    assert kept(step, pods, asked) == [1, 2]
    scrape(pods[2], Signals(waiting=9, kv_usage=1.0))  # which is work for nine, and no more
    pods[0].in_flight = 6
    scrape(pods[0], Signals(kv_usage=1.0))
    assert kept(step, pods, asked) == [0]
    assert kept(affinity.prefix_affinity(), pods, asked) == [0]


def busy(count: int, in_flight: int) -> list[Candidate]:
    """Pods that have so much to do that a prompt more or less makes no difference to it."""
    pods = [pod(n) for n in range(count)]
    for one in pods:
        one.in_flight = in_flight
    return pods


def test_new_prompts_go_where_the_fewest_new_tokens_went_among_those_as_good_as_the_best() -> None:
    pods = busy(4, in_flight=10)
    step = affinity.cold_prompt_spread(slack=0.5)
    pods[0].cold_tokens, pods[1].cold_tokens, pods[2].cold_tokens = 3025, 2000, 9000
    pods[1].prefill_tokens, pods[3].prefill_tokens = 500, 501
    asked = request(tokens=1000)
    assert kept(step, pods, asked) == [1]
    pods[1].prefill_tokens = 501
    assert kept(step, pods, asked) == [0]
    # Half of it cached: 1000 of work against 500, which its slack of 250 does not bridge.
    half = request(tokens=1000, cached={pods[2]: 500, pods[0]: 0})
    assert kept(step, pods, half) == [2]
    equal = [pod(n) for n in range(3)]
    assert kept(step, equal, asked) == [0, 1, 2]
    equal[0].cold_order, equal[1].cold_order, equal[2].cold_order = 9, 7, 8
    assert kept(step, equal, asked) == [1]
    equal[1].cold_tokens = 1024  # about as many
    assert kept(step, equal, asked) == [1]
    equal[1].cold_tokens = 1025
    assert kept(step, equal, asked) == [2]


def test_of_those_that_answer_as_soon_the_ones_with_about_the_fewest_answers_to_give() -> None:
    few, about_as_few, more = pods = [pod(n) for n in range(3)]
    few.in_flight, about_as_few.in_flight, more.in_flight = 20, 27, 28
    few.cold_tokens, about_as_few.cold_tokens = 9000, 5000
    step = affinity.cold_prompt_spread()
    asked = request(tokens=1000)
    # A step of the batch is 16 tokens for each: to the first token, 28 are as good as 20.
    assert kept(step, pods, asked) == [1]
    about_as_few.prefill_tokens = 1
    assert kept(step, pods, asked) == [0]
    # An answer is worth 1,024 tokens that are still to be read.
    few.in_flight, about_as_few.in_flight, more.in_flight = 9, 12, 8
    few.prefill_tokens, about_as_few.prefill_tokens, more.prefill_tokens = 400, 300, 450
    assert kept(step, pods, asked) == [2]
    # Where the first token would come later does not count: 12 are about as few as 9 again.
    more.prefill_tokens = 900
    assert kept(step, pods, asked) == [1]


def test_of_the_least_busy_one_request_more_is_as_good() -> None:
    idle, used, busier = pods = [pod(n) for n in range(3)]
    used.in_flight, busier.in_flight = 1, 2
    idle.cold_tokens, used.cold_tokens = 5000, 2000
    assert kept(affinity.cold_prompt_spread(), pods, request(tokens=1000)) == [1]


def test_nobody_waits_longer_than_half_a_second_to_keep_caches_even() -> None:
    free, rested = pods = busy(2, in_flight=50)
    free.cold_tokens = 100_000
    rested.prefill_tokens = 8192
    step = affinity.cold_prompt_spread()
    assert kept(step, pods, request(tokens=50_000)) == [1]
    rested.prefill_tokens = 8193
    assert kept(step, pods, request(tokens=50_000)) == [0]


def test_a_slow_pod_gets_what_it_would_still_be_first_with() -> None:
    fast, slow = pods = [pod(0), pod(1)]
    slow.slowness = 3.0
    asked = request(tokens=1000)
    step = affinity.cold_prompt_spread(slack=0.0)
    fast.prefill_tokens = 1999  # 2,999 of work against 3 * 1,000
    assert kept(step, pods, asked) == [0]
    assert score(scorers.least_work(), pods, asked) == [1.0, 0.0]
    fast.prefill_tokens = 2001
    assert kept(step, pods, asked) == [1]
    assert score(scorers.least_work(), pods, asked) == [0.0, 1.0]


def test_a_prefix_leaves_a_slow_pod_earlier() -> None:
    slow, fast = pods = [pod(0), pod(1)]
    step = affinity.prefix_affinity(recompute_factor=3)
    asked = request(tokens=1000, cached={slow: 900})
    slow.prefill_tokens = 1000
    assert kept(step, pods, asked) == [0]
    slow.slowness = 3.0  # 3 * (1,000 + 100) against 3 * 1,000
    assert kept(step, pods, asked) == [1]
    fast.slowness = 2.0
    assert kept(step, pods, asked) == [0]


def test_with_exploration_one_in_so_many_may_go_anywhere() -> None:
    pods = [pod(n) for n in range(2)]
    asked = request(tokens=10, cached={pods[0]: 10, pods[1]: 0})
    step = affinity.prefix_affinity(exploration=0.25)
    explored = sum(len(kept(step, pods, asked)) == 2 for _ in range(2000))
    assert 400 < explored < 600


def adapter_pods(*active: set[str], slots: int = 2) -> list[Candidate]:
    """Pods of one fleet that run these adapters."""
    known = {"m"}
    pods = [Candidate(Endpoint(f"10.0.0.{n}", 8000, ""), known) for n in range(len(active))]
    for one, adapters in zip(pods, active, strict=True):
        scrape(one, Signals(adapters=Adapters(frozenset(adapters), capacity=slots)))
    return pods


def test_an_adapter_stays_where_it_is_loaded_until_loading_it_elsewhere_costs_less() -> None:
    pods = adapter_pods({"m"}, {"a"}, {"a", "b"})
    step = affinity.adapter_affinity(adapter_tokens=1000)
    assert kept(step, pods) == [0]
    pods[0].prefill_tokens = 1000
    assert kept(step, pods) == [0]
    pods[0].prefill_tokens = 1001
    assert kept(step, pods) == [0, 1]  # there and where a slot is left
    pods[1].in_flight = 1
    assert kept(step, pods) == [0]
    pods[0].in_flight = 2
    assert kept(step, pods) == [0, 1]
    assert kept(step, pods, request("base")) == [0, 1, 2]


def test_no_load_is_a_reason_to_wait_for_a_slot() -> None:
    pods = adapter_pods({"m"}, {"a", "b"})
    pods[0].prefill_tokens = 1_000_000
    assert kept(affinity.adapter_affinity(), pods) == [0]


def test_an_adapter_that_is_not_loaded_goes_to_an_empty_slot_then_to_an_idle_one() -> None:
    step = affinity.adapter_affinity()
    full, idle, _ = pods = adapter_pods({"a", "b"}, {"a"}, {"a"})
    idle.known_adapters.add("c")
    idle.release(idle.charge(1, "c"), 1, "c")  # "c" stays in its slot
    assert kept(step, pods) == [2]
    assert kept(step, [full, idle]) == [1]


def test_an_adapter_without_a_slot_anywhere_waits_where_it_waits_already_or_fewest_wait() -> None:
    step = affinity.adapter_affinity()
    pods = adapter_pods({"a", "b"}, {"a", "c"}, {"d", "e"})
    assert kept(step, pods) == [0, 1, 2]
    pods[0].known_adapters.add("f")
    pods[0].charge(1, "f")
    assert kept(step, pods) == [1, 2]
    pods[1].charge(1, "m")
    assert kept(step, pods) == [1]


def test_what_is_loaded_elsewhere_too_makes_room_where_an_adapter_waits_for_a_slot() -> None:
    pods = adapter_pods({"m", "a"}, {"m", "b"})
    step = affinity.adapter_affinity()
    assert kept(step, pods) == [0, 1]
    waiting = Adapters(frozenset({"m", "a"}), frozenset({"x"}), capacity=2)
    scrape(pods[0], Signals(adapters=waiting))
    assert kept(step, pods) == [1]
    assert kept(step, pods[:1]) == [0]
    assert kept(step, pods, request("a")) == [0]  # there is no other place for it


def test_an_adapter_counts_as_loaded_as_soon_as_it_was_sent_there() -> None:
    known = {"m", "n", "o"}
    one = Candidate(Endpoint("10.0.0.1", 8000, ""), known)
    scrape(one, Signals(adapters=Adapters(capacity=2)))
    for model in ("m", "base", "n", "m", "o"):
        one.release(one.charge(1, model), 1, model)
    assert one.adapters == {"m", "o"}  # two fit; "n" was used longest ago
    assert one.adapter_slots_left == 2
    scrape(one, Signals(adapters=Adapters(frozenset({"x"}), capacity=2)))
    assert one.adapters == {"x", "o"}
    assert one.adapter_slots_left == 1
    assert "x" in known


def test_an_adapter_that_waits_for_a_slot_is_not_loaded() -> None:
    one = Candidate(Endpoint("10.0.0.1", 8000, ""), {"m", "n", "o"})
    scrape(one, Signals(adapters=Adapters(frozenset({"m", "n"}), capacity=2)))
    epochs = {model: one.charge(1, model) for model in ("m", "o")}
    assert one.adapters == {"m", "n"}
    assert one.adapter_slots_left == -1
    scrape(one, Signals(adapters=Adapters(frozenset({"m", "o"}), capacity=2)))
    assert one.adapters == {"m", "o"}
    for model, epoch in epochs.items():
        one.release(epoch, 1, model)
    assert one.adapter_requests == {}
    scrape(one, Signals(adapters=Adapters(capacity=2)))
    assert one.adapter_slots_left == 2
    assert one.adapters == {"m", "o"}  # nobody took their slots


@pytest.mark.parametrize("name", ["default", "weighted", "filter-tree"])
def test_only_sheddable_requests_are_dropped_and_only_when_all_are_full(name: str) -> None:
    profile = PROFILES[name]()
    full, free = pod(1, Signals(6, 1, 0.5)), pod(2, Signals(5, 1, 0.8))
    asked = request()
    asked.priority = -1
    assert profile.decide(asked, [full], 1).verdict is Verdict.SHED
    assert profile.decide(asked, [full, free], 1).endpoints == (free,)
    assert profile.decide(request(), [full], 1).endpoints == (full,)


# Pickers.


def picked(picker: Picker, scores: Sequence[float] | None, pods: Sequence[Candidate]) -> list[int]:
    counts: Counter[Candidate] = Counter()
    asked = request()
    for _ in range(4000):
        chosen = picker.apply(asked, pods, scores, 3)
        assert 1 <= len(chosen) == len(set(chosen)) <= 3
        counts[chosen[0]] += 1
    return [counts[one] for one in pods]


def test_max_score_takes_the_best_and_equal_ones_evenly() -> None:
    pods = [pod(n) for n in range(5)]
    counts = picked(pickers.max_score(), [0.1, 0.9, 0.9, 0.2, 0.9], pods)
    assert counts[0] == counts[3] == 0
    assert all(1200 < counts[n] < 1470 for n in (1, 2, 4))


def test_max_score_falls_back_on_the_next_best() -> None:
    pods = [pod(n) for n in range(5)]
    chosen = pickers.max_score().apply(request(), pods, [0.1, 0.9, 0.3, 0.2, 0.0], 3)
    assert chosen == [pods[1], pods[2], pods[3]]
    many = [pod(n) for n in range(200)]
    chosen = pickers.max_score().apply(request(), many, [n / 200 for n in range(200)], 3)
    assert chosen[0] is many[-1]
    assert len(set(chosen)) == 3


def test_weighted_random_goes_by_the_scores() -> None:
    pods = [pod(n) for n in range(3)]
    counts = picked(pickers.weighted_random(), [0.75, 0.25, 0.0], pods)
    assert 2850 < counts[0] < 3150
    assert counts[2] == 0
    assert min(picked(pickers.weighted_random(), [0.0, 0.0, 0.0], pods)) > 1200


def test_power_of_two_takes_the_better_of_two() -> None:
    pods = [pod(n, in_flight=n) for n in range(4)]
    counts = picked(pickers.power_of_two(), None, pods)
    # The best wins whenever it is drawn (1/2), the next in 1/3, then 1/6, the worst never.
    assert [round(count / 4000, 1) for count in counts] == [0.5, 0.3, 0.2, 0.0]
    assert picked(pickers.power_of_two(), [0.0, 0.1, 0.2, 1.0], pods)[3] > 1850
    assert picked(pickers.power_of_two(), None, pods[:1]) == [4000]


# Profiles.


@pytest.mark.parametrize("name", sorted(PROFILES))
@given(data=st.data())
@settings(max_examples=25)
def test_a_pick_is_always_one_of_the_candidates(name: str, data: st.DataObject) -> None:
    profile = PROFILES[name]()
    pods = []
    for number in range(data.draw(st.integers(1, 70))):
        one = pod(number, in_flight=data.draw(st.integers(0, 3)))
        one.prefill_tokens = data.draw(st.sampled_from((0, 10, 10**6)))
        if data.draw(st.booleans()):
            scrape(one, Signals(data.draw(st.integers(0, 9)), 1, data.draw(st.floats(0, 1))))
        pods.append(one)
    holders = data.draw(st.lists(st.sampled_from(pods), max_size=5))
    asked = request(tokens=20, cached=dict.fromkeys(holders, data.draw(st.integers(1, 20))))
    decision = profile.decide(asked, pods, 3)
    assert len(decision.endpoints) == min(3, len(pods))
    assert len(set(decision.endpoints)) == len(decision.endpoints)
    assert set(decision.endpoints) <= set(pods)


@pytest.mark.parametrize("name", sorted(set(PROFILES) - {"filter-tree"}))
def test_equal_endpoints_share_evenly(name: str) -> None:
    profile = PROFILES[name]()
    pods = [pod(n, Signals(0, 0, 0.1)) for n in range(10)]
    counts: Counter[Candidate] = Counter()
    rng = random.Random(1)
    for _ in range(3000):
        [chosen, *_] = profile.decide(SchedulingRequest("m", 0, rng), pods, 1).endpoints
        counts[chosen] += 1
    assert all(240 < counts[one] < 360 for one in pods)


def test_the_default_spreads_a_burst_and_keeps_what_is_cached_together() -> None:
    profile = PROFILES["default"]()
    pods = [pod(n, Signals(0, 0, 0.1)) for n in range(10)]
    for _ in range(200):
        chosen = profile.decide(request(tokens=500), pods, 1).endpoints[0]
        chosen.charge(500)
        chosen.prefill_tokens += 500
    assert {one.in_flight for one in pods} == {20}
    asked = request(tokens=500, cached={pods[3]: 450, pods[4]: 0})
    assert profile.decide(asked, pods, 1).endpoints == (pods[3],)
