"""A World as JSON."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pools.model import AbsentEndpoint, ObjectName, World
from xds.debug.redact import redacted


def world_json(world: World) -> dict[str, object]:
    origins = world.endpoint_origins
    return {
        "revision": world.revision,
        "pools": {
            str(name): {
                **plain(pool),
                "endpoints": [
                    {
                        **plain(endpoint),
                        "key": endpoint.key,
                        "origin": str(origins.get(endpoint.key, "")),
                    }
                    for endpoint in world.endpoints_of(name)
                ],
            }
            for name, pool in sorted(world.pools.items())
        },
        "models": [plain(one) for one in world.models],
        "objectives": [plain(one) for one in world.objectives],
        "rewrites": [plain(one) for one in world.rewrites],
        "routes": [redacted(plain(one)) for one in world.routes],
        "gateways": [plain(one) for one in world.gateways],
        "problems": [problem.parts() for problem in world.problems],
        "absent": [absent_json(one) for one in world.absent],
    }


def absent_json(absent: AbsentEndpoint) -> dict[str, object]:
    """A server that was described or found and is no endpoint, and why."""
    return {
        "name": absent.name,
        "address": absent.address,
        "pool": str(absent.pool) if absent.pool is not None else "",
        "reason": absent.reason,
        "origin": str(absent.origin) if absent.origin is not None else "",
    }


def plain(value: object) -> dict[str, object]:
    """A dataclass as JSON values; names are written ``namespace/name``."""
    return msgspec.convert(msgspec.to_builtins(_named(value), str_keys=True), dict[str, object])


def _named(value: object) -> object:
    if isinstance(value, ObjectName):
        return str(value)
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None:
        return {name: _named(getattr(value, name)) for name in fields}
    if isinstance(value, tuple | list):
        return [_named(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _named(item) for key, item in value.items()}
    return value
