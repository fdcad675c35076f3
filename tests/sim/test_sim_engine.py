"""The engine on a virtual clock: does it take the time that theory says, and share as vLLM does?"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from sim.engine import Engine, EngineConfig
from sim.events import Decoded, Preempted, Request
from tests.sim.virtual_pod import COST, VirtualPod


def itl(batch: int) -> float:
    return 0.006 + 0.00035 * batch


def chain(name: str, blocks: int) -> tuple[int, ...]:
    return tuple(hash((name, i)) for i in range(blocks))


# Speed


def test_a_prompt_takes_its_tokens_divided_by_the_prefill_speed():
    pod = VirtualPod()
    pod.submit(Request("long", prompt_tokens=40_960, output_tokens=1))
    pod.run()
    assert pod.finished["long"].at == pytest.approx(2.0)


def test_a_short_prompt_takes_no_less_than_reading_the_weights():
    pod = VirtualPod()
    pod.submit(Request("short", prompt_tokens=1, output_tokens=1))
    pod.run()
    assert pod.finished["short"].at == pytest.approx(0.006)


@pytest.mark.parametrize("batch", [1, 8, 64, 256])
def test_a_batch_decodes_in_lockstep_and_more_slowly_the_larger_it_is(batch):
    pod = VirtualPod()
    pod.submit(*(Request(str(i), prompt_tokens=16, output_tokens=500) for i in range(batch)))
    pod.run()
    steady = max((e for e in pod.events if isinstance(e, Decoded)), key=lambda e: e.tokens)
    assert steady.interval == pytest.approx(itl(batch))
    last = pod.finished[str(batch - 1)]
    assert (last.at - last.first_token) / 499 == pytest.approx(itl(batch), rel=0.02)
    assert pod.tokens_out == batch * 500


def test_a_long_prompt_slows_those_who_decode_chunk_by_chunk():
    pod = VirtualPod()
    pod.submit(Request("talker", prompt_tokens=16, output_tokens=200))
    pod.run(until=0.1)
    pod.submit(Request("reader", prompt_tokens=20_000, output_tokens=1))
    pod.run()
    intervals = [e.interval for e in pod.events if isinstance(e, Decoded)]
    # The talker's one token a step comes out of the same budget.
    assert max(intervals) == pytest.approx(8191 / 20_480 + itl(1))
    alone = 0.006 + 199 * itl(1)
    slowed = pod.finished["talker"].at - alone
    assert slowed == pytest.approx(20_000 / 20_480)


def test_waiting_times_of_one_server_with_a_queue_are_those_of_m_d_1():
    service, load, arrivals = 0.1, 0.7, 40_000
    pod = VirtualPod(EngineConfig(max_num_seqs=1, max_num_batched_tokens=2048))
    rng = random.Random(7)
    at = 0.0
    requests = []
    for i in range(arrivals):
        at += rng.expovariate(load / service)
        requests.append((at, Request(str(i), prompt_tokens=2048, output_tokens=1)))
    pod.replay(requests)
    waits = [e.admitted - e.arrived for e in pod.finished.values()]
    assert sum(waits) / arrivals == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)


def test_overload_is_answered_at_the_prefill_speed():
    pod = VirtualPod()
    pod.replay((i / 10, Request(str(i), 7200, 1)) for i in range(300))  # 3.5 times too many
    assert 300 / pod.now == pytest.approx(20_480 / 7200, rel=0.03)


@pytest.mark.parametrize("clients", [4, 32, 128])
def test_clients_that_wait_for_their_answers_get_the_throughput_of_their_number(clients):
    """A closed loop: each client sends its next request when it has its answer."""
    prompt, output, horizon = 160, 400, 200.0
    pod = VirtualPod()
    sent = 0
    for _ in range(clients):
        pod.submit(Request(str(sent), prompt, output))
        sent += 1
    seen = 0
    while (due := pod.engine.next_event_time()) < horizon:
        pod.run(until=due)
        for _ in range(len(pod.finished) - seen):
            pod.submit(Request(str(sent), prompt, output))
            sent += 1
        seen = len(pod.finished)
    cycle = (output - 1) * itl(clients) + clients * prompt / 20_480
    assert pod.tokens_out / horizon == pytest.approx(clients * output / cycle, rel=0.05)


def test_no_more_than_max_num_seqs_run_and_the_rest_wait_in_order():
    pod = VirtualPod(EngineConfig(max_num_seqs=2))
    pod.submit(*(Request(name, 16, 10) for name in "abcd"))
    pod.run(until=0.01)
    assert (pod.engine.running, pod.engine.waiting) == (2, 2)
    pod.run()
    admitted = [pod.finished[name].admitted for name in "abcd"]
    assert admitted == sorted(admitted)
    assert pod.finished["c"].admitted >= min(pod.finished["a"].at, pod.finished["b"].at)


# The prefix cache


def test_a_shared_prefix_is_computed_once():
    pod = VirtualPod()
    prefix = chain("system prompt", 375)  # 6,000 tokens
    pod.submit(Request("first", 7200, 1, blocks=prefix + chain("q1", 75)))
    pod.run()
    began = pod.now
    pod.submit(Request("second", 7200, 1, blocks=prefix + chain("q2", 75)))
    pod.run()
    assert pod.first_tokens["first"].at == pytest.approx(7200 / 20_480)
    assert pod.first_tokens["second"].at - began == pytest.approx(1200 / 20_480)
    assert pod.first_tokens["second"].cached_tokens == 6000
    assert (pod.engine.prefix_queries, pod.engine.prefix_hits) == (14_400, 6000)


def test_the_last_token_of_a_prompt_is_always_computed():
    pod = VirtualPod()
    for name in ("cold", "warm"):
        pod.submit(Request(name, 64, 1, blocks=chain("same", 4)))
        pod.run()
    assert pod.first_tokens["warm"].cached_tokens == 48


def test_requests_of_one_burst_share_what_the_first_of_them_computes():
    pod = VirtualPod()
    pod.submit(Request("opener", 16, 50))
    pod.submit(*(Request(str(i), 1616, 1, blocks=chain("p", 101)) for i in range(5)))
    pod.run()
    assert [pod.first_tokens[str(i)].cached_tokens for i in range(5)] == [0] + [1600] * 4


def test_an_answer_is_found_again_in_the_next_turn():
    pod = VirtualPod()
    talk = chain("talk", 40)
    pod.submit(Request("turn 1", prompt_tokens=160, output_tokens=161, blocks=talk))
    pod.run()
    pod.submit(Request("turn 2", prompt_tokens=400, output_tokens=1, blocks=talk))
    pod.run()
    assert pod.first_tokens["turn 2"].cached_tokens == 320


def test_without_prefix_caching_nothing_is_shared():
    pod = VirtualPod(EngineConfig(enable_prefix_caching=False))
    for name in ("cold", "warm"):
        pod.submit(Request(name, 64, 1, blocks=chain("same", 4)))
        pod.run()
    assert pod.first_tokens["warm"].cached_tokens == 0
    assert pod.engine.kv.cached == 0


def test_the_prefix_that_was_not_used_for_longest_goes_first_and_its_tail_before_its_head():
    config = EngineConfig(kv_cache_tokens=16 * 20)
    pod = VirtualPod(config)

    def ask(name: str, prefix: str) -> int:
        pod.submit(Request(name, 129, 1, blocks=chain(prefix, 8)))
        pod.run()
        return pod.first_tokens[name].cached_tokens

    assert ask("1", "old") == 0
    assert ask("2", "young") == 0
    assert ask("3", "old") == 128  # now "young" is the oldest
    assert ask("4", "new") == 0  # 9 blocks where 4 are free: five of "young" must go
    assert ask("5", "young") == 16 * 3  # its head is left
    assert pod.engine.kv.cached <= 20


# Memory


def test_when_blocks_run_out_the_youngest_is_preempted_and_still_gets_all_its_tokens():
    pod = VirtualPod(EngineConfig(kv_cache_tokens=16 * 30))
    pod.submit(Request("old", 160, 200), Request("young", 160, 200))
    pod.run()
    assert set(pod.preempted) == {"young"}
    assert pod.engine.preemptions == len(pod.preempted)
    assert pod.finished["old"].at < pod.finished["young"].at
    assert pod.tokens_out == 400
    assert pod.engine.kv.used == 0


def test_a_preempted_request_computes_prompt_and_tokens_again_and_is_next_in_the_queue():
    pod = VirtualPod(EngineConfig(kv_cache_tokens=16 * 2560))
    pod.submit(Request("old", 20_480, 600), Request("young", 20_000, 600))
    pod.run(until=2.5)
    pod.submit(Request("newcomer", 30_000, 1))
    pod.run()
    assert pod.preempted == ["young"]
    (again,) = [e for e in pod.events if isinstance(e, Preempted)]
    # 480 tokens of room were shared: each had 240 when it ran out.
    resumed = pod.finished["old"].at
    rest = 600 - 240
    cost = (20_000 + 240) / 20_480 + rest * itl(1)
    assert pod.finished["young"].at - resumed == pytest.approx(cost, rel=0.01)
    assert again.at < pod.finished["old"].at
    assert pod.finished["newcomer"].admitted == pod.finished["young"].at


def test_a_prompt_that_does_not_fit_yet_waits_without_preempting_anybody():
    pod = VirtualPod(EngineConfig(kv_cache_tokens=16 * 30))
    pod.submit(Request("big", 320, 100))
    pod.run(until=0.1)
    pod.submit(Request("bigger", 400, 1))
    pod.run(until=0.2)
    assert (pod.engine.running, pod.engine.waiting) == (1, 1)
    pod.run()
    assert not pod.preempted
    assert pod.finished["bigger"].admitted == pod.finished["big"].at


def test_usage_is_what_sequences_hold_and_not_what_is_merely_cached():
    pod = VirtualPod(EngineConfig(kv_cache_tokens=1600))
    pod.submit(Request("r", 800, 2, blocks=chain("r", 50)))
    pod.run(until=0.001)
    assert pod.engine.kv_usage == pytest.approx(0.5)
    pod.run()
    assert pod.engine.kv_usage == 0
    assert pod.engine.kv.cached == 50


def test_an_abort_frees_all_that_a_request_held_wherever_it_was():
    pod = VirtualPod(EngineConfig(max_num_seqs=2))
    pod.submit(
        Request("decoding", 100, 1000, adapter="a"),
        Request("prefilling", 100_000, 1000, adapter="b"),
        Request("waiting", 100, 1000, adapter="c"),
    )
    pod.run(until=1.0)
    for name in ("prefilling", "waiting", "decoding"):
        assert pod.engine.abort(name, pod.now)
        assert not pod.engine.abort(name, pod.now)
    assert (pod.engine.running, pod.engine.waiting, pod.engine.kv.used) == (0, 0, 0)
    assert not pod.engine.adapters.active
    assert not pod.engine.waiting_adapters
    pod.run()
    assert pod.engine.next_event_time() == math.inf
    assert not pod.finished


def test_an_id_can_be_used_again_in_the_very_step_in_which_it_was_aborted():
    pod = VirtualPod()
    pod.submit(Request("x", 8000, 1))
    pod.run(until=0.1)
    pod.engine.abort("x", pod.now)
    pod.submit(Request("x", 2048, 1))
    pod.run()
    # The step of the first "x" ends as it would have; only then does the second one begin.
    assert pod.first_tokens["x"].at == pytest.approx((8000 + 2048) / 20_480)


@pytest.mark.parametrize(
    "request_",
    [
        Request("empty", 0, 1),
        Request("mute", 1, 0),
        Request("huge", 307_328, 17),
    ],
    ids=lambda r: r.id,
)
def test_what_can_never_be_served_is_refused_at_once(request_):
    with pytest.raises(ValueError, match=request_.id):
        Engine().submit(request_, 0.0)


def test_an_id_in_use_is_refused():
    engine = Engine()
    engine.submit(Request("x", 1, 10), 0.0)
    with pytest.raises(ValueError, match="already"):
        engine.submit(Request("x", 1, 10), 0.0)


def test_time_does_not_go_back():
    engine = Engine()
    engine.advance(5.0)
    with pytest.raises(ValueError, match="back"):
        engine.advance(4.0)


# Adapters


def adapter_pod(slots: int) -> VirtualPod:
    return VirtualPod(EngineConfig(max_loras=slots))


def test_a_first_request_for_an_adapter_waits_for_its_loading_and_the_second_does_not():
    pod = adapter_pod(2)
    pod.submit(Request("cold", 2048, 1, adapter="sql"))
    pod.run()
    assert pod.finished["cold"].at == pytest.approx(0.2 + 0.1)
    began = pod.now
    pod.submit(Request("warm", 2048, 1, adapter="sql"))
    pod.run()
    assert pod.finished["warm"].at - began == pytest.approx(0.1)
    assert pod.engine.adapters.loads == 1


def test_a_request_whose_adapter_finds_no_slot_waits_and_others_pass_it():
    pod = adapter_pod(1)
    pod.submit(Request("running", 16, 100, adapter="a"))
    pod.submit(Request("blocked", 16, 1, adapter="b"))
    pod.submit(Request("same", 16, 1, adapter="a"))
    pod.submit(Request("base", 16, 1))
    pod.run(until=0.3)
    assert list(pod.engine.waiting_adapters) == ["b"]
    assert list(pod.engine.adapters.active) == ["a"]
    assert {"same", "base"} <= pod.finished.keys()
    pod.run()
    assert pod.finished["blocked"].admitted == pod.finished["running"].at


def test_the_adapter_that_was_not_used_for_longest_gives_up_its_slot():
    pod = adapter_pod(2)
    for i, adapter in enumerate(["a", "b", "a", "c", "a", "b"]):
        pod.submit(Request(str(i), 16, 1, adapter=adapter))
        pod.run()
    assert pod.engine.adapters.loads == 4  # a, b, c in the place of b, b again
    assert sorted(pod.engine.adapters.resident) == ["a", "b"]


# Cost and configuration


@pytest.mark.parametrize(
    "bad",
    [
        {"prefill_tokens_per_second": 0.0},
        {"decode_base_seconds": 0.0},
        {"decode_per_sequence_seconds": -1.0},
        {"adapter_load_seconds": math.inf},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_a_cost_that_makes_no_sense_is_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        replace(COST, **bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_num_seqs": 0},
        {"block_size": 0},
        {"max_loras": 0},
        {"max_num_batched_tokens": 256},
        {"kv_cache_tokens": 15},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_an_engine_that_cannot_work_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        EngineConfig(**bad)
