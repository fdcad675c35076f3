"""What changed from one World to the next, in words: why a new configuration was made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from pools.model import Endpoint, Gateway, HTTPRoute, ObjectName, World

_NAMED = 3
"""Changes that are spelled out; the rest is counted."""


def describe_changes(old: World | None, new: World) -> str:
    """A line for people, such as ``Endpoint 10.0.0.3:8000 added to InferencePool default/llama``.

    Empty if nothing changed that Envoy's configuration depends on.
    """
    if old is None:
        endpoints = sum(map(len, new.endpoints.values()))
        return f"first state: {_count(len(new.pools), 'pool')}, {_count(endpoints, 'endpoint')}"
    changes = _changes(old, new)
    named = list(islice(changes, _NAMED))
    more = sum(1 for _ in changes)
    return "; ".join(named) + (f"; and {_count(more, 'further change')}" if more else "")


def _changes(old: World, new: World) -> Iterator[str]:
    yield from _objects("Gateway", _gateways(old), _gateways(new))
    yield from _objects("InferencePool", old.pools, new.pools)
    yield from _objects("HTTPRoute", _routes(old), _routes(new))
    yield from _objects("Secret", old.certificates, new.certificates)
    yield from _objects("Service", old.services, new.services)
    if old.endpoints is new.endpoints:
        return
    for pool in sorted(old.endpoints.keys() | new.endpoints.keys()):
        before, after = old.endpoints_of(pool), new.endpoints_of(pool)
        if before is not after and before != after:
            yield from _endpoints(pool, before, after)


def _objects(
    kind: str,
    old: Mapping[ObjectName, object],
    new: Mapping[ObjectName, object],
) -> Iterator[str]:
    if old is new:
        return
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before is None:
            yield f"{kind} {name} added"
        elif after is None:
            yield f"{kind} {name} removed"
        elif before is not after and before != after:
            yield f"{kind} {name} changed"


def _routes(world: World) -> dict[ObjectName, HTTPRoute]:
    return {route.name: route for route in world.routes}


def _gateways(world: World) -> dict[ObjectName, Gateway]:
    return {gateway.name: gateway for gateway in world.gateways}


def _endpoints(
    pool: ObjectName, before: Iterable[Endpoint], after: Iterable[Endpoint]
) -> Iterator[str]:
    old, new = {e.key: e for e in before}, {e.key: e for e in after}
    for key in sorted(old.keys() | new.keys()):
        if key not in old:
            yield f"Endpoint {key} added to InferencePool {pool}"
        elif key not in new:
            yield f"Endpoint {key} removed from InferencePool {pool}"
        elif old[key].draining != new[key].draining:
            yield f"Endpoint {key} of InferencePool {pool} " + (
                "is draining" if new[key].draining else "no longer drains"
            )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
