"""Endpoints that were there and are not any more, and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pools.model import AbsentEndpoint, Endpoint, ObjectName, World

_MAX_REMOVALS = 2000
"""Removals that are remembered."""


@dataclass(frozen=True, slots=True)
class Removal:
    endpoint: Endpoint
    pool: ObjectName
    at: float
    """Seconds since the epoch."""
    revision: int
    """Of the first World without it."""
    cause: str
    origin: str = ""
    """Where it was described."""


class ChangeLog:
    """Remembers what Worlds said that the newest one does not."""

    def __init__(self, max_removals: int = _MAX_REMOVALS) -> None:
        self._removals: deque[Removal] = deque(maxlen=max_removals)

    def note(self, before: World | None, after: World, now: float) -> None:
        """The World has become another one."""
        if before is None or before.endpoints is after.endpoints:
            return
        absences = _Absences(after.absent)
        for pool, endpoints in before.endpoints.items():
            now_there = after.endpoints_of(pool)
            if endpoints is now_there or endpoints == now_there:
                continue
            keys = {endpoint.key for endpoint in now_there}
            renamed = {endpoint.name: endpoint for endpoint in reversed(now_there)}
            for endpoint in endpoints:
                if endpoint.key not in keys:
                    origin = before.endpoint_origins.get(endpoint.key)
                    self._removals.append(
                        Removal(
                            endpoint,
                            pool,
                            now,
                            after.revision,
                            _cause(endpoint, pool, after, absences, renamed),
                            str(origin) if origin else "",
                        )
                    )

    def removals(self) -> Iterator[Removal]:
        """Newest first."""
        return reversed(self._removals)


class _Absences:
    """Who is absent and why, by name and by address: where one pod goes, thousands may."""

    def __init__(self, absent: Iterable[AbsentEndpoint]) -> None:
        self._reasons: dict[tuple[ObjectName | None, str, str], tuple[int, str]] = {}
        for place, one in enumerate(absent):
            for kind, value in (("name", one.name), ("address", one.address)):
                self._reasons.setdefault((one.pool, kind, value), (place, one.reason))

    def reason(self, endpoint: Endpoint, pool: ObjectName) -> str | None:
        """The first that there is."""
        found = [
            self._reasons.get((of, kind, value))
            for of in (pool, None)
            for kind, value in (("name", endpoint.name), ("address", endpoint.address))
        ]
        return min((one for one in found if one is not None), default=(0, None))[1]


def _cause(
    endpoint: Endpoint,
    pool: ObjectName,
    after: World,
    absences: _Absences,
    there: Mapping[str, Endpoint],
) -> str:
    """``there``: the pool's endpoints now, by name."""
    if pool not in after.pools:
        return f"InferencePool {pool} is no longer described"
    reason = absences.reason(endpoint, pool)
    if reason is not None:
        return reason
    renamed = there.get(endpoint.name)
    if renamed is not None:
        return f"{endpoint.name} has another address now: {renamed.key}"
    return f"no manifest describes it any more as an endpoint of InferencePool {pool}"
