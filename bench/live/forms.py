"""The workloads as two cores can play them in real time: the same traffic to half the pods (four
where there are ten), for a shorter time. What a pod gets is what it gets at full size, but where
said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sim.engine import EngineConfig
from sim.fleet.traffic import AbortStorm, Death, Drain, Workload
from sim.workloads.catalogue import (
    ADAPTERS,
    CHAT,
    CODE,
    DOCUMENTS,
    FULL,
    GRID,
    NOTHING_SHARED,
    REASONING,
    TROUBLE,
    UNEQUAL,
    W1,
)
from sim.workloads.conversations import Conversations
from sim.workloads.lengths import Shape, Spread, lognormal
from sim.workloads.shared_prefix import SharedPrefix
from sim.workloads.single_turns import SingleTurns

PODS = 4
SMALL = EngineConfig(kv_cache_tokens=64_000)


@dataclass(frozen=True, slots=True)
class Form:
    """One workload made small."""

    workload: Workload
    load: float
    time_scale: float
    """How much faster than real; what the two cores can do."""
    engine: EngineConfig = EngineConfig()  # noqa: RUF009 (frozen)
    admission: str = ""
    """The section of the profiles file; empty: nobody waits."""

    def profiles(self, policy: str) -> str:
        """The profiles file of the endpoint picker."""
        head = "apiVersion: poolpilot.dev/v1alpha1\nkind: SchedulingProfiles"
        return f"{head}\ndefault: {policy}\nadmission: {self.admission}\n"

    @property
    def adapters(self) -> tuple[str, ...]:
        count = getattr(self.workload, "adapters", 0)
        return tuple(f"adapter-{number}" for number in range(count))


def _half(workload: SharedPrefix, load: float, seconds: float, time_scale: float) -> Form:
    """Half the pods, half the prompts, half the rates."""
    return Form(
        replace(
            workload,
            groups=workload.groups // 2,
            warm_up_rate=workload.warm_up_rate / 2,
            warm_up_requests=min(workload.groups * workload.users, workload.warm_up_requests) // 2,
            seconds={},
            default_seconds=seconds,
            pods=PODS,
        ),
        load / 2,
        time_scale,
    )


def _few(
    workload: Conversations, clients: float, warm_up: float, seconds: float, time_scale: float
) -> Form:
    return Form(
        replace(workload, warm_up=warm_up, seconds=seconds, pods=PODS),
        round(clients * PODS / workload.pods),
        time_scale,
    )


def _slow(workload: SingleTurns, rate: float, seconds: float, time_scale: float) -> Form:
    return Form(
        replace(workload, warm_up=10, seconds=seconds, pods=PODS),
        rate * PODS / workload.pods,
        time_scale,
    )


_REASONING = replace(
    REASONING,
    title="as w3, but answers of 800 and caches in proportion",
    output=Spread(Shape.EXPONENTIAL, 800, low=50, high=3200),
)

FORMS: Mapping[str, Form] = {
    "w1": _half(W1, 60, 15, 3),
    "w2": _few(
        replace(CODE, output=lognormal(800, 825, 50, 2000)),
        30,
        warm_up=40,
        seconds=90,
        time_scale=4,
    ),
    # An answer holds a tenth of the tokens for a tenth of the time.
    "w3": replace(
        _few(_REASONING, 350, warm_up=30, seconds=60, time_scale=4),
        engine=EngineConfig(kv_cache_tokens=90_000),
    ),
    "w4": _few(CHAT, 500, warm_up=60, seconds=60, time_scale=4),
    **{
        grid.name: _half(grid, load, 20, 4)
        for grid, load in zip(GRID, (20, 20, 20, 10), strict=True)
    },
    "w6": _few(DOCUMENTS, 120, warm_up=40, seconds=80, time_scale=4),
    "w7": _slow(NOTHING_SHARED, 80, 30, 2),
    # Half the adapters, as there are half the slots.
    "w8": _slow(replace(ADAPTERS, adapters=ADAPTERS.adapters // 2), 40, 40, 3),
    "w9": _slow(UNEQUAL, 15, 40, 3),
    "w10": Form(
        replace(
            TROUBLE,
            title="a pod dies at 20 s, one is drained at 45 s, half of all clients hang up at 70 s",
            warm_up=10,
            seconds=75,
            happenings=(Death(20, 2, away=15), Drain(45, 1), AbortStorm(70)),
            pods=PODS,
        ),
        TROUBLE.loads[0] * PODS / TROUBLE.pods,
        3,
    ),
    # Each pod takes 24 at a time, and twice as much is asked of it: what it computes at once is as
    # much as at full size, and fits two cores.
    "w12": replace(
        _slow(FULL, 80, 40, 2), admission="{saturation: {concurrency: {maxConcurrency: 24}}}"
    ),
    # Three kinds small enough that the network's milliseconds can be seen beside them. The system
    # prompts fill half of the fleet's caches, and one pod's twice; questions are new each time.
    "prefixes": Form(
        SharedPrefix(
            name="prefixes",
            title="32 system prompts of 4,000 tokens, new questions of 1,000, answers of 100",
            loads=(6,),
            groups=32,
            users=4,
            prefix_tokens=4000,
            question_tokens=1000,
            fresh=True,
            output_tokens=100,
            warm_up_rate=6,
            default_seconds=24,
            pods=PODS,
        ),
        6,
        2,
        SMALL,
    ),
    "chats": Form(
        Conversations(
            name="chats",
            title="250 shared tokens, turns of 1,000 new ones, answers of 200, 2 s to read",
            loads=(30,),
            shared_tokens=250,
            turns=Spread(Shape.NORMAL, 4, 1, low=2, high=6),
            question=lognormal(1000, 800, 100, 5000),
            output=lognormal(200, 100, 20, 600),
            think=lognormal(2, 1, 0.5, 6),
            warm_up=15,
            seconds=24,
            max_tokens=20_000,
            pods=PODS,
        ),
        30,
        2,
        SMALL,
    ),
    "unshared": Form(
        SingleTurns(
            name="unshared",
            title="nothing shared: questions of 330 tokens, answers of 100",
            loads=(10,),
            question=lognormal(330, 600, 4, 8000),
            output=lognormal(100, 60, 4, 500),
            warm_up=10,
            seconds=24,
            pods=PODS,
        ),
        10,
        2,
        SMALL,
    ),
}
"""By name."""
