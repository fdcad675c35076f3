"""Which endpoint: pure functions over the live state of a pool's endpoints.

No clock, socket or task. The director calls this for real requests, the simulator on a virtual
clock.
"""

from extproc.scheduling.candidate import Candidate, assume_missing
from extproc.scheduling.filter_tree import Drop, Node, filter_tree, then
from extproc.scheduling.profile import (
    Decision,
    Filter,
    Picker,
    Profile,
    SchedulingRequest,
    Scorer,
    Step,
    Verdict,
)
from extproc.scheduling.profiles import PROFILES
from extproc.scheduling.resolution import Resolver
from extproc.scheduling.signals import Adapters, CacheConfig, Signals

__all__ = [
    "PROFILES",
    "Adapters",
    "CacheConfig",
    "Candidate",
    "Decision",
    "Drop",
    "Filter",
    "Node",
    "Picker",
    "Profile",
    "Resolver",
    "SchedulingRequest",
    "Scorer",
    "Signals",
    "Step",
    "Verdict",
    "assume_missing",
    "filter_tree",
    "then",
]
