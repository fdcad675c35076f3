"""Objects and resolved addresses in, a World out: the checks that need more than one object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pools.manifests import Key, Object
from pools.manifests.endpoints import Host, PoolEndpoints
from pools.manifests.fields import did_you_mean
from pools.model import (
    BackendKind,
    Endpoint,
    Gateway,
    HTTPRoute,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    InferencePool,
    ObjectName,
    Origin,
    Problem,
    Severity,
    World,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is known of a DNS name."""

    addresses: tuple[str, ...] = ()
    """From the last look-up that succeeded, sorted."""
    error: str = ""
    """Why the last look-up failed; empty if it did not."""


NOT_LOOKED_UP = Lookup(error="it was not resolved yet")


def key_of(value: Object) -> Key:
    """Kind and name."""
    return (type(value).__name__, value.name)


def assemble(
    objects: Iterable[Object],
    lookups: Mapping[str, Lookup] | None = None,
    problems: Iterable[Problem] = (),
    revision: int = 0,
) -> World:
    """Join objects into a World. Of two objects of one kind and name the first one counts.

    What refers to nothing stays in the World (each consumer decides what it means) and is
    reported, with three exceptions that could only do harm: the second of two objects with one
    name, the younger of two InferenceModels for one model name, and PoolEndpoints without a pool.
    """
    found = list(problems)
    by_kind = _by_kind(objects, found)
    pools = {pool.name: pool for pool in _of(by_kind, InferencePool)}
    models = _oldest(_of(by_kind, InferenceModel), found)
    objectives = _of(by_kind, InferenceObjective)
    rewrites = _of(by_kind, InferenceModelRewrite)
    routes = _of(by_kind, HTTPRoute)
    uses = [(m.pool, m.origin) for m in models]
    uses += [(o.pool, o.origin) for o in objectives]
    uses += [(r.pool, r.origin) for r in rewrites]
    found += [
        _missing(pool, pools, origin, "spec.poolRef", Severity.WARNING)
        for pool, origin in uses
        if pool not in pools
    ]
    found += _routes_to_nothing(routes, pools)
    endpoints, origins = _endpoints(_of(by_kind, PoolEndpoints), pools, lookups or {}, found)
    return World(
        revision,
        pools,
        endpoints,
        models,
        objectives,
        rewrites,
        routes,
        _of(by_kind, Gateway),
        tuple(found),
        origins,
    )


def _by_kind(objects: Iterable[Object], found: list[Problem]) -> dict[Key, Object]:
    first: dict[Key, Object] = {}
    for item in objects:
        other = first.setdefault(key_of(item), item)
        if other is not item:
            place = other.origin.source if other.origin else "an earlier object"
            line = other.origin.line if other.origin else None
            where = f"{place}:{line}" if line is not None else place
            message = f"was already described in {where}, which counts; remove one of the two"
            found.append(Problem(Severity.ERROR, message, item.origin, field="metadata.name"))
    return first


def _of(by_kind: Mapping[Key, Object], kind: type[T]) -> tuple[T, ...]:
    return tuple(item for _, item in sorted(by_kind.items()) if isinstance(item, kind))


def _oldest(models: Sequence[InferenceModel], found: list[Problem]) -> tuple[InferenceModel, ...]:
    """One InferenceModel for each model name of a pool: the oldest, then the first by name."""
    oldest: dict[tuple[ObjectName, str], InferenceModel] = {}
    for model in sorted(models, key=lambda m: (m.created or "9", m.name)):
        other = oldest.setdefault((model.pool, model.model_name), model)
        if other is not model:
            message = f"{model.model_name!r} is already taken by the older {other.origin}"
            found.append(Problem(Severity.ERROR, message, model.origin, field="spec.modelName"))
    return tuple(sorted(oldest.values(), key=lambda m: m.name))


def _missing(
    pool: ObjectName,
    pools: Iterable[ObjectName],
    origin: Origin | None,
    field: str,
    severity: Severity,
    line: int | None = None,
) -> Problem:
    hint = did_you_mean(str(pool), map(str, pools))
    return Problem(
        severity, f"there is no InferencePool {pool}{hint}", origin, line=line, field=field
    )


def _routes_to_nothing(
    routes: Iterable[HTTPRoute], pools: Mapping[ObjectName, InferencePool]
) -> Iterator[Problem]:
    for route in routes:
        for i, rule in enumerate(route.rules):
            for j, backend in enumerate(rule.backends):
                if backend.kind is BackendKind.INFERENCE_POOL and backend.name not in pools:
                    yield _missing(
                        backend.name,
                        pools,
                        route.origin,
                        f"spec.rules[{i}].backendRefs[{j}]",
                        Severity.WARNING,
                        rule.line,
                    )


def _endpoints(
    lists: Iterable[PoolEndpoints],
    pools: Mapping[ObjectName, InferencePool],
    lookups: Mapping[str, Lookup],
    found: list[Problem],
) -> tuple[dict[ObjectName, tuple[Endpoint, ...]], dict[str, Origin]]:
    by_pool: dict[ObjectName, dict[str, Endpoint]] = {}
    origins: dict[str, Origin] = {}
    for item in lists:
        pool = pools.get(item.pool)
        if pool is None:
            found.append(_missing(item.pool, pools, item.origin, "spec.poolRef", Severity.ERROR))
            continue
        of_pool = by_pool.setdefault(item.pool, {})
        for i, host in enumerate(item.hosts):
            field = f"spec.endpoints[{i}].address"
            lookup = lookups.get(host.address, NOT_LOOKED_UP) if host.is_name else Lookup()
            if lookup.error:
                found.append(_unresolved(host, lookup, item.origin, field))
            for endpoint in endpoints_of(host, pool, lookup.addresses):
                key = endpoint.key
                if key in of_pool:
                    message = f"{key} is already an endpoint of {item.pool}; this one was ignored"
                    found.append(
                        Problem(Severity.WARNING, message, item.origin, line=host.line, field=field)
                    )
                    continue
                of_pool[key] = endpoint
                if item.origin is not None and key not in origins:
                    origins[key] = Origin(
                        item.origin.kind, item.name, item.origin.source, host.line
                    )
    sorted_by_pool = {
        name: tuple(of_pool[key] for key in sorted(of_pool))
        for name, of_pool in sorted(by_pool.items())
        if of_pool
    }
    return sorted_by_pool, origins


def endpoints_of(
    host: Host, pool: InferencePool, addresses: Iterable[str] = ()
) -> Iterator[Endpoint]:
    """The endpoints that a host stands for: one for each address and port.

    The endpoints of a DNS name are called ``<name>-<address>``, however many there are, so that
    scaling from one to two renames none; data-parallel ports add ``-rank-<i>``.
    """
    ports = host.ports or pool.target_ports
    for address in addresses if host.is_name else (host.address,):
        base = host.name or host.address
        if host.is_name:
            base = f"{base}-{address}"
        for rank, port in enumerate(ports):
            yield Endpoint(
                address,
                port,
                f"{base}-rank-{rank}" if len(ports) > 1 else base,
                host.labels,
                host.metrics_port,
                host.draining,
            )


def _unresolved(host: Host, lookup: Lookup, origin: Origin | None, field: str) -> Problem:
    kept = len(lookup.addresses)
    if kept == 1:
        what = "its last address stays in use"
    elif kept:
        what = f"its last {kept} addresses stay in use"
    else:
        what = "no endpoint"
    return Problem(
        Severity.WARNING if kept else Severity.ERROR,
        f"{host.address!r} could not be resolved ({lookup.error}): {what}",
        origin,
        line=host.line,
        field=field,
    )
