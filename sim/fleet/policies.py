"""The policies that can be compared: production's profiles, and what else people use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from extproc.picking.profiles import read_profiles
from extproc.picking.scheduling import PROFILES, Candidate, Picker, Profile, SchedulingRequest
from sim.fleet.cache_aware import cache_aware


def least_request() -> Profile:
    """Envoy's LEAST_REQUEST: two at random, the one with fewer active requests.

    As in Envoy the two may be the same, and where they tie the first stays.
    """

    def apply(
        request: SchedulingRequest,
        candidates: Sequence[Candidate],
        scores: Sequence[float] | None,
        count: int,
    ) -> list[Candidate]:
        rng, size = request.rng.random, len(candidates)
        first, second = candidates[int(rng() * size)], candidates[int(rng() * size)]
        return [second if second.in_flight < first.in_flight else first]

    return Profile("least-request", (), Picker("least-request", apply))


POLICIES: Mapping[str, Callable[[], Profile]] = {
    **PROFILES,
    "least-request": least_request,
    "cache-aware": cache_aware,
}
"""By name. Called once for each run: a profile may keep state."""


def policies(profiles: str = "") -> Mapping[str, Callable[[], Profile]]:
    """Those, and the ones of a profiles file with this text, which has no errors."""
    if not profiles:
        return POLICIES
    read, _ = read_profiles(profiles, "profiles")
    return {**POLICIES, **read.profiles} if read is not None else POLICIES
