"""The workloads by name."""

from __future__ import annotations

from collections.abc import Mapping

from sim.fleet.traffic import Workload
from sim.workloads.shared_prefix import SharedPrefix

# Seconds of each rate of the published runs of W1.
_LADDER = {
    3: 20, 10: 20, 15: 20, 20: 38, 22: 34, 25: 30, 30: 25, 35: 21, 40: 38, 43: 36, 46: 33, 49: 30,
    52: 29, 55: 27, 57: 26, 60: 25,
}  # fmt: skip

W1 = SharedPrefix(
    name="w1",
    title="150 system prompts of 6,000 tokens, 5 questions of 1,200 each, answers of 1,000",
    loads=tuple(_LADDER),
    seconds={float(rate): float(seconds) for rate, seconds in _LADDER.items()},
)

WORKLOADS: Mapping[str, Workload] = {workload.name: workload for workload in (W1,)}


def workload(name: str) -> Workload:
    """KeyError if there is none of this name."""
    return WORKLOADS[name]
