"""Which endpoint: pure functions over the live state of a pool's endpoints.

No clock, socket or task. The director calls this for real requests, the simulator on a virtual
clock.
"""

from extproc.picking.scheduling.candidate import Candidate, assume_missing
from extproc.picking.scheduling.filter_tree import Drop, Node, filter_tree, then
from extproc.picking.scheduling.profile import (
    Decision,
    Filter,
    Picker,
    Profile,
    SchedulingRequest,
    Scorer,
    Step,
    Verdict,
)
from extproc.picking.scheduling.profiles import PROFILES
from extproc.picking.scheduling.resolution import Resolver
from extproc.picking.scheduling.signals import Adapters, CacheConfig, Signals

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
