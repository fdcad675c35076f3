"""The workloads by name.

Parameters are those of public benchmarks: W1 of llm-d's optimized-baseline guide, W2 to W4 of
inference-perf's workload catalog, W5 of llm-d's study of predicted latency, W6 of the Mooncake
traces. Where a load is not published it spans the fleet from idle to beyond saturation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sim.fleet.traffic import AbortStorm, Death, Drain, Workload
from sim.workloads.conversations import Conversations
from sim.workloads.lengths import Shape, Spread, lognormal
from sim.workloads.shared_prefix import SharedPrefix
from sim.workloads.single_turns import SingleTurns

# Seconds of each rate in the published runs of W1.
_LADDER: Mapping[float, float] = {
    3: 20, 10: 20, 15: 20, 20: 38, 22: 34, 25: 30, 30: 25, 35: 21, 40: 38, 43: 36, 46: 33, 49: 30,
    52: 29, 55: 27, 57: 26, 60: 25,
}  # fmt: skip

W1 = SharedPrefix(
    name="w1",
    title="150 system prompts of 6,000 tokens, 5 questions of 1,200 each, answers of 1,000",
    loads=tuple(_LADDER),
    seconds=_LADDER,
)
W1_FRESH = replace(
    W1,
    name="w1-fresh",
    title="as w1, but no question is asked twice",
    fresh=True,
    loads=(15, 30, 60),
)

CODE = Conversations(
    name="w2",
    title="coding agents: 3,000 shared and 55,000 own tokens, 2 to 20 turns, answers of 800",
    loads=(10, 30, 60, 100),
    shared_tokens=3000,
    system=lognormal(52_000, 30_000, 3000, 100_000),
    turns=lognormal(8, 5, 2, 20),
    question=lognormal(1500, 1200, 100, 10_000),
    output=lognormal(800, 825, 50, 10_000),
    think=lognormal(5, 5, 1, 60),
    pods=10,
)
REASONING = Conversations(
    name="w3",
    title="reasoning: 250 shared and 1,000 own tokens, answers of 8,000",
    loads=(50, 150, 350, 450),
    shared_tokens=250,
    question=lognormal(1000, 800, 100, 5000),
    output=Spread(Shape.EXPONENTIAL, 8000, low=500, high=32_000),
    warm_up=120,
    seconds=240,
)
CHAT = Conversations(
    name="w4",
    title="chat: 1,000 shared tokens, 4,000 in a first question, 50 in others, 45 s to read",
    loads=(200, 500, 1000),
    shared_tokens=1000,
    system=lognormal(4000, 2500, 500, 15_000),
    turns=lognormal(4, 2.5, 1, 15),
    question=lognormal(50, 40, 10, 1000),
    output=Spread(Shape.NORMAL, 300, 150, 10, 1000),
    think=lognormal(45, 40, 5, 300),
    warm_up=120,
)


def _grid(letter: str, groups: int, users: int, system: int, question: int) -> SharedPrefix:
    return SharedPrefix(
        name=f"w5{letter}",
        title=f"{groups} system prompts of {system:,} tokens, {users:,} questions of {question:,}"
        " each, answers of 1,000",
        loads=(10, 20, 40),
        groups=groups,
        users=users,
        prefix_tokens=system,
        question_tokens=question,
        warm_up_requests=750,
    )


GRID = (
    _grid("a", 6, 1000, 1000, 30),
    _grid("b", 6, 1000, 1000, 3000),
    _grid("c", 150, 5, 6000, 1200),
    _grid("d", 150, 5, 1000, 6200),
)
DOCUMENTS = Conversations(
    name="w6",
    title="like Mooncake's conversations: 12,000 tokens in, 343 out, half of them seen before",
    loads=(30, 60, 120),
    shared_tokens=512,
    system=lognormal(8300, 12_000, 500, 100_000),
    turns=lognormal(1.8, 1.6, 1, 12),
    question=lognormal(900, 1500, 20, 20_000),
    output=lognormal(343, 350, 1, 2000),
    think=lognormal(20, 20, 1, 200),
)
NOTHING_SHARED = SingleTurns(
    name="w7",
    title="nothing shared: questions of 330 tokens, answers of 215",
    loads=(40, 80, 160),
    question=lognormal(330, 600, 4, 8000),
    output=lognormal(215, 230, 4, 2000),
)
ADAPTERS = SingleTurns(
    name="w8",
    title="20 LoRA adapters (Zipf 1.1), 4 at once in a pod; 500 tokens in, 200 out",
    loads=(10, 20, 40, 60),
    question=lognormal(500, 300, 20, 4000),
    output=lognormal(200, 100, 10, 1000),
    adapters=20,
    zipf=1.1,
)
UNEQUAL = SingleTurns(
    name="w9",
    title="one of four pods takes three times as long; questions of 1,000 tokens, answers of 300",
    loads=(5, 10, 15),
    question=lognormal(1000, 800, 20, 8000),
    output=lognormal(300, 150, 10, 1500),
    pods=4,
    slow_pods=1,
    slowness=3.0,
)
TROUBLE = SingleTurns(
    name="w10",
    title="a pod dies at 40 s, one is drained at 70 s, half of all clients hang up at 100 s",
    loads=(20, 40),
    shared_tokens=1000,
    question=lognormal(500, 300, 20, 4000),
    output=lognormal(300, 150, 10, 1500),
    happenings=(Death(40, 2), Drain(70, 5), AbortStorm(100)),
)
BURST = SingleTurns(
    name="w11",
    title="that many requests at one instant, before anything is known of any pod",
    loads=(200,),
    question=lognormal(1000, 500, 20, 4000),
    output=lognormal(300, 150, 10, 1500),
    burst=True,
    unit="requests",
)
FULL = SingleTurns(
    name="w12",
    title="more than the pods can take: a fifth urgent, half normal, the rest to be dropped first",
    loads=(40, 80, 120),
    question=lognormal(1000, 800, 20, 8000),
    output=lognormal(300, 150, 10, 1500),
    objectives={"urgent": 0.2, "normal": 0.5, "batch": 0.3},
)

WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        W1, W1_FRESH, CODE, REASONING, CHAT, *GRID, DOCUMENTS, NOTHING_SHARED, ADAPTERS, UNEQUAL,
        TROUBLE, BURST, FULL,
    )
}  # fmt: skip
