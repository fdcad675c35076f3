"""Endpoints that were there and are not any more, and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pools.model import Endpoint, ObjectName, World

_MOST = 2000
"""Departures that are remembered."""


@dataclass(frozen=True, slots=True)
class Departure:
    endpoint: Endpoint
    pool: ObjectName
    at: float
    """Seconds since the epoch."""
    revision: int
    """Of the first World without it."""
    cause: str
    origin: str = ""
    """Where it was described."""


class Chronicle:
    """Remembers what Worlds said that the newest one does not."""

    def __init__(self, most: int = _MOST) -> None:
        self._departures: deque[Departure] = deque(maxlen=most)

    def note(self, before: World | None, after: World, now: float) -> None:
        """The World has become another one."""
        if before is None or before.endpoints is after.endpoints:
            return
        for pool, endpoints in before.endpoints.items():
            now_there = after.endpoints_of(pool)
            if endpoints is now_there or endpoints == now_there:
                continue
            keys = {endpoint.key for endpoint in now_there}
            for endpoint in endpoints:
                if endpoint.key not in keys:
                    origin = before.endpoint_origins.get(endpoint.key)
                    self._departures.append(
                        Departure(
                            endpoint,
                            pool,
                            now,
                            after.revision,
                            _cause(endpoint, pool, after),
                            str(origin) if origin else "",
                        )
                    )

    def departures(self) -> Iterator[Departure]:
        """Newest first."""
        return reversed(self._departures)


def _cause(endpoint: Endpoint, pool: ObjectName, after: World) -> str:
    if pool not in after.pools:
        return f"InferencePool {pool} is no longer described"
    others = after.endpoints_of(pool)
    for absent in after.absent:
        if absent.pool in (None, pool) and (
            absent.name == endpoint.name or absent.address == endpoint.address
        ):
            return absent.reason
    renamed = next((e for e in others if e.name == endpoint.name), None)
    if renamed is not None:
        return f"{endpoint.name} has another address now: {renamed.key}"
    return f"no manifest describes it any more as an endpoint of InferencePool {pool}"
