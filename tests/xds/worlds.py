"""Worlds for tests, in few words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pools.model import (
    Endpoint,
    HTTPRoute,
    InferencePool,
    ObjectName,
    PathMatch,
    PathMatchType,
    RouteBackend,
    RouteMatch,
    RouteRule,
    World,
)

name = ObjectName.parse


def pool(text: str, **fields: Any) -> InferencePool:
    return InferencePool(name(text), (8000,), **fields)


def pods(count: int, subnet: int = 0) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(f"10.{subnet}.{i // 250}.{i % 250 + 1}", 8000, f"pod-{i}") for i in range(count)
    )


def world(*pools: InferencePool, endpoints: int = 2, **fields: Any) -> World:
    return World(
        pools={one.name: one for one in pools},
        endpoints={one.name: pods(endpoints, subnet=i) for i, one in enumerate(pools)},
        **fields,
    )


def prefix(value: str) -> RouteMatch:
    return RouteMatch(PathMatch(PathMatchType.PREFIX, value))


def exact(value: str) -> RouteMatch:
    return RouteMatch(PathMatch(PathMatchType.EXACT, value))


def regex(value: str) -> RouteMatch:
    return RouteMatch(PathMatch(PathMatchType.REGEX, value))


def to(*names: str) -> tuple[RouteBackend, ...]:
    return tuple(RouteBackend(name(one)) for one in names)


def rule(*matches: RouteMatch, backends: Iterable[RouteBackend], **fields: Any) -> RouteRule:
    return RouteRule(matches or (RouteMatch(),), tuple(backends), **fields)


def route(text: str, *rules: RouteRule, **fields: Any) -> HTTPRoute:
    return HTTPRoute(name(text), rules=rules, **fields)
