"""The workloads are what they say, and traces are read as they are or refused with the line."""

from __future__ import annotations

import json
import random
from collections import defaultdict

import pytest

from sim.engine import EngineConfig
from sim.fleet.experiment import Run, cells, perform, perform_all
from sim.fleet.prompt import length
from sim.workloads import WORKLOADS
from sim.workloads.lengths import Shape, Spread, lognormal
from sim.workloads.mooncake import TraceError, read_trace

ENTRY = {"timestamp": 1000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_can_run_and_ends(name):
    workload = WORKLOADS[name]
    load = min(workload.loads)
    first = workload.traffic(load, workload.pods, random.Random(1))
    again = workload.traffic(load, workload.pods, random.Random(1))
    arrivals = sorted(first.start(), key=lambda arrival: arrival[0])
    assert [at for at, _ in arrivals] == sorted(at for at, _ in again.start())
    assert len({call.id for _, call in arrivals}) == len(arrivals)
    assert len(workload.engines(workload.pods, EngineConfig())) == workload.pods


def test_questions_of_w1_come_back_after_750_and_fresh_ones_never():
    for name, distinct in (("w1", 750), ("w1-fresh", 1500)):
        traffic = WORKLOADS[name].traffic(60.0, 8, random.Random(1))
        warm_up = list(traffic.start())
        assert len(warm_up) == 750
        measured = [arrival for _, call in warm_up for arrival in traffic.ended(call, 100.0)]
        measured = measured[:1500]
        assert len({call.prompt for _, call in measured}) == distinct
        assert {length(call.prompt) for _, call in measured} == {7200}
        assert len({call.prompt[0] for _, call in measured}) == 150


def test_a_conversation_grows_by_question_and_answer():
    traffic = WORKLOADS["w4"].traffic(1.0, 8, random.Random(3))
    ((at, call),) = traffic.start()
    for _ in range(30):
        follow_up = list(traffic.ended(call, at + 1.0))
        if not follow_up:
            break
        at, following = follow_up[0]
        if following.prompt[1] == call.prompt[1]:  # the same conversation
            assert following.prompt[: len(call.prompt)] == call.prompt
            assert following.prompt[len(call.prompt)].id == call.output
            break
        call = following
    else:
        pytest.fail("no conversation had a second turn")


@pytest.mark.parametrize(
    ("spread", "mean"),
    [
        (lognormal(1000, 800, 1, 1e9), 1000),
        (Spread(Shape.NORMAL, 300, 50), 300),
        (Spread(Shape.EXPONENTIAL, 8000, low=0), 8000),
        (Spread(Shape.FIXED, 7), 7),
    ],
)
def test_a_distribution_has_the_mean_it_was_given(spread, mean):
    rng = random.Random(1)
    drawn = [spread.draw(rng) for _ in range(40_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.03)


def test_a_distribution_keeps_its_limits():
    rng = random.Random(1)
    spread = lognormal(100, 500, 50, 200)
    assert all(50 <= spread.count(rng) <= 200 for _ in range(1000))


def test_slow_pods_take_longer_for_everything():
    engines = WORKLOADS["w9"].engines(4, EngineConfig())
    ordinary, slow = engines[1].cost, engines[0].cost
    assert slow.step_seconds(1000, 10, 1) == pytest.approx(3 * ordinary.step_seconds(1000, 10, 1))


def write(tmp_path, *entries):
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries))
    return path


def test_a_trace_is_replayed_at_its_times_and_shares_what_its_ids_share(tmp_path):
    path = write(
        tmp_path,
        ENTRY | {"timestamp": 5000, "hash_ids": [0, 2]},
        "",
        ENTRY | {"input_length": 512, "hash_ids": [7]},
    )
    workload = read_trace(path)
    arrivals = list(workload.traffic(2.0, 8, random.Random(1)).start())
    assert [at for at, _ in arrivals] == [0.0, 2.0]
    assert [call.prompt_tokens for _, call in arrivals] == [512, 600]
    result = perform(Run(workload, "random", 1.0, seed=1, pods=1))
    assert result.measures.requests == 2


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        (ENTRY | {"timestamp": "soon"}, "line 2: timestamp must be a number"),
        (ENTRY | {"hash_ids": [0]}, "line 2: 1 hash_ids do not cover input_length 600"),
        (ENTRY | {"hash_ids": ["a", "b"]}, "line 2: hash_ids must be a list of whole numbers"),
        (ENTRY | {"input_length": 0, "hash_ids": []}, "line 2: input_length must be at least 1"),
        ({}, "line 2: timestamp must be a number from 0, not None"),
    ],
)
def test_a_broken_trace_is_refused_with_its_line(tmp_path, entry, complaint):
    with pytest.raises(TraceError, match=complaint):
        read_trace(write(tmp_path, ENTRY, entry))


def test_an_empty_trace_is_refused(tmp_path):
    with pytest.raises(TraceError, match="has no requests"):
        read_trace(write(tmp_path, ""))


def test_runs_on_several_processes_give_what_one_gives():
    runs = [
        Run(WORKLOADS["w11"], policy, 50.0, seed, pods=4)
        for policy in ("random", "least-load")
        for seed in (1, 2)
    ]
    alone = {(r.policy, r.seed): r.measures for r in perform_all(runs, processes=1)}
    together = {(r.policy, r.seed): r.measures for r in perform_all(runs, processes=2)}
    assert alone == together


def test_cells_put_seeds_together():
    runs = [Run(WORKLOADS["w11"], "random", 50.0, seed, pods=4) for seed in (2, 1)]
    (cell,) = cells(list(perform_all(runs, processes=1)))
    assert [result.seed for result in cell.results] == [1, 2]
    values = [result.measures.ttft_p50 for result in cell.results]
    assert cell.estimate("ttft_p50").mean == pytest.approx(sum(values) / 2)
    assert cell.estimate("ttft_p50").deviation == pytest.approx(abs(values[0] - values[1]) / 2**0.5)


def test_what_a_client_says_does_not_depend_on_who_is_answered_first():
    def turns(order: int) -> dict[int, list[tuple[int, int, float]]]:
        traffic = WORKLOADS["w2"].traffic(6, 4, random.Random(3))
        said = defaultdict(list)
        asked = list(traffic.start())
        for _ in range(8):
            asked.sort(key=lambda arrival: order * arrival[1].session)
            for at, call in asked:
                said[call.session].append((call.prompt_tokens, call.output_tokens, at))
            asked = [more for at, call in asked for more in traffic.ended(call, at + 1)]
        return said

    first, last = turns(1), turns(-1)
    assert first == last
    assert [len(turns_of_one) for turns_of_one in first.values()] == [8] * 6
