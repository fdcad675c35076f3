"""Which profile each pool is served by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from extproc.picking.admission.settings import AdmissionSettings
from extproc.picking.scheduling.load import LoadSettings
from extproc.picking.scheduling.profile import Profile
from extproc.picking.scheduling.profiles import PROFILES
from pools.model import InferencePool, ObjectName


@dataclass(frozen=True, slots=True)
class ProfileSet:
    """Profiles by name, and which pool uses which."""

    profiles: Mapping[str, Callable[[], Profile]]
    """Called once for each pool: a profile may keep state."""
    default: str
    pools: Mapping[ObjectName, str] = field(default_factory=dict)
    load: LoadSettings = field(default_factory=LoadSettings)
    admission: AdmissionSettings | None = None
    """None: the file does not say."""

    def for_pool(self, pool: InferencePool) -> Profile:
        return self.profiles[self.pools.get(pool.name, self.default)]()


def builtin(default: str) -> ProfileSet:
    """The profiles that are always there. KeyError if ``default`` is none of them."""
    PROFILES[default]
    return ProfileSet(PROFILES, default)
