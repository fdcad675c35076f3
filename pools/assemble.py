"""Objects and resolved addresses in, a World out: the checks that need more than one object."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TypeVar

from pools.addresses import near
from pools.manifests import Key, Object, key_of
from pools.manifests.fields import did_you_mean
from pools.model import (
    AbsentEndpoint,
    BackendKind,
    Endpoint,
    EndpointSlice,
    Gateway,
    GatewayClass,
    Host,
    HTTPRoute,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    InferencePool,
    Namespace,
    ObjectName,
    Origin,
    Pod,
    PoolEndpoints,
    Problem,
    ReferenceGrant,
    Service,
    Severity,
    TlsCertificate,
    World,
    seniority,
)
from pools.pods import endpoints_of_pod, problems_of_pod, selects
from pools.references import References
from pools.resolution import NOT_LOOKED_UP, Lookup
from pools.services import with_addresses

T = TypeVar("T")


MOST_HINTS = 10
"""Names of missing pools that are compared with those of all pools, which takes milliseconds."""
NAMESPACE_LABEL = "kubernetes.io/metadata.name"
"""Every namespace has it, with its own name."""


def assemble(
    objects: Iterable[Object],
    lookups: Mapping[str, Lookup] | None = None,
    problems: Iterable[Problem] = (),
    revision: int = 0,
    pods: Iterable[Pod] = (),
    *,
    references: References | None = None,
    now: float | None = None,
    of_others: Collection[ObjectName] = (),
    of_cluster: bool = False,
    unread: frozenset[str] = frozenset(),
    local_hosts: bool = True,
) -> World:
    """Join objects into a World. Of two objects of one kind and name the first one counts.

    What refers to nothing stays in the World (each consumer decides what it means) and is
    reported, with three exceptions that could only do harm: the second of two objects with one
    name, the younger of two InferenceModels for one model name, and PoolEndpoints without a pool.
    Pods that no pool selects are left out without a word, and so is what nothing refers to of the
    kinds that are only there to be referred to.

    ``references``: what is referred to, if that was collected before.
    ``now``: in seconds since 1970; without it no certificate is said to have expired.
    ``local_hosts``: whether PoolEndpoints may name loopback and link-local addresses.
    ``of_others``: routes that are none of our business; what they lack is not reported.
    """
    found = list(problems)
    by_kind, doubles = _by_kind(objects)
    pools = {pool.name: pool for pool in _of(by_kind, InferencePool)}
    models = _oldest(_of(by_kind, InferenceModel), found)
    objectives = _of(by_kind, InferenceObjective)
    rewrites = _of(by_kind, InferenceModelRewrite)
    routes = tuple(route for route in _of(by_kind, HTTPRoute) if not route.of_others)
    gateways = _of(by_kind, Gateway)
    our_routes = [route for route in routes if route.name not in of_others]
    named = references or References.of(pools.values(), our_routes, gateways)
    found += _doubles(doubles, named)
    uses = [(m.pool, m.origin) for m in models]
    uses += [(o.pool, o.origin) for o in objectives]
    uses += [(r.pool, r.origin) for r in rewrites]
    missing = _Missing(pools)
    found += [
        missing(pool, origin, "spec.poolRef", Severity.WARNING)
        for pool, origin in uses
        if pool not in pools
    ]
    found += _routes_to_nothing(our_routes, pools, missing)
    certificates = {
        one.name: one for one in _of(by_kind, TlsCertificate) if one.name in named.certificates
    }
    if now is not None:
        found += _expired(certificates.values(), now)
    servers = _Servers(pools, missing, found, local_hosts=local_hosts)
    for item in _of(by_kind, PoolEndpoints):
        servers.add_hosts(item, lookups or {})
    servers.add_pods(pods)
    return World(
        revision=revision,
        pools=pools,
        endpoints=servers.endpoints(),
        models=models,
        objectives=objectives,
        rewrites=rewrites,
        routes=routes,
        gateways=gateways,
        problems=tuple(found),
        endpoint_origins=servers.origins,
        absent=tuple(servers.absent),
        gateway_classes=_of(by_kind, GatewayClass),
        certificates=certificates,
        services=_services(by_kind, named.services),
        grants=_of(by_kind, ReferenceGrant),
        namespaces=_namespaces(by_kind, named.namespaces),
        of_cluster=of_cluster,
        unread=unread,
    )


def _by_kind(objects: Iterable[Object]) -> tuple[dict[Key, Object], list[tuple[Object, Object]]]:
    """The objects that count, and pairs of one that does and one that therefore does not."""
    first: dict[Key, Object] = {}
    doubles: list[tuple[Object, Object]] = []
    for item in objects:
        other = first.setdefault(key_of(item), item)
        if other is not item:
            doubles.append((other, item))
    return first, doubles


def _doubles(doubles: Iterable[tuple[Object, Object]], named: References) -> Iterator[Problem]:
    for other, item in doubles:
        # A Namespace is often put before everything that is in it.
        if isinstance(item, Namespace) or not named.concern(item):
            continue
        place = other.origin.source if other.origin else "an earlier object"
        line = other.origin.line if other.origin else None
        where = f"{place}:{line}" if line is not None else place
        message = f"was already described in {where}, which counts; remove one of the two"
        yield Problem(Severity.ERROR, message, item.origin, field="metadata.name")


def _services(
    by_kind: Mapping[Key, Object], names: Collection[ObjectName]
) -> dict[ObjectName, Service]:
    slices: dict[ObjectName, list[EndpointSlice]] = {}
    for one in _of(by_kind, EndpointSlice):
        if one.service is not None and one.service in names:
            slices.setdefault(one.service, []).append(one)
    return {
        service.name: with_addresses(service, slices.get(service.name, ()))
        for service in _of(by_kind, Service)
        if service.name in names
    }


def _namespaces(
    by_kind: Mapping[Key, Object], names: Collection[str]
) -> dict[str, Mapping[str, str]]:
    labels = {one.name.name: one.labels for one in _of(by_kind, Namespace)}
    return {name: {**labels.get(name, {}), NAMESPACE_LABEL: name} for name in sorted(names)}


def _expired(certificates: Iterable[TlsCertificate], now: float) -> Iterator[Problem]:
    for one in certificates:
        if one.expires is not None and one.expires <= now:
            moment = datetime.datetime.fromtimestamp(one.expires, datetime.UTC)
            yield Problem(
                Severity.WARNING,
                f"expired at {moment:%Y-%m-%dT%H:%M:%SZ}: clients will refuse it; renew it",
                one.origin,
                field="data.tls.crt",
            )


def next_expiry(world: World, now: float) -> float:
    """The moment from which a World assembled anew would tell of one more certificate."""
    ends = (one.expires for one in world.certificates.values() if one.expires is not None)
    return min((end for end in ends if end > now), default=math.inf)


def _of(by_kind: Mapping[Key, Object], kind: type[T]) -> tuple[T, ...]:
    return tuple(item for _, item in sorted(by_kind.items()) if isinstance(item, kind))


def _oldest(models: Sequence[InferenceModel], found: list[Problem]) -> tuple[InferenceModel, ...]:
    """One InferenceModel for each model name of a pool: the oldest, then the first by name."""
    oldest: dict[tuple[ObjectName, str], InferenceModel] = {}
    for model in sorted(models, key=lambda m: seniority(m.created, m.name)):
        other = oldest.setdefault((model.pool, model.model_name), model)
        if other is not model:
            message = f"{model.model_name!r} is already taken by the older {other.origin}"
            found.append(Problem(Severity.ERROR, message, model.origin, field="spec.modelName"))
    return tuple(sorted(oldest.values(), key=lambda m: m.name))


class _Missing:
    """Says of a pool that it is not there, and which one may be meant."""

    def __init__(self, pools: Collection[ObjectName]) -> None:
        self._pools = pools
        self._hints: dict[ObjectName, str] = {}

    def __call__(
        self,
        pool: ObjectName,
        origin: Origin | None,
        field: str,
        severity: Severity,
        line: int | None = None,
    ) -> Problem:
        if pool not in self._hints and len(self._hints) < MOST_HINTS:
            self._hints[pool] = did_you_mean(str(pool), map(str, self._pools))
        message = f"there is no InferencePool {pool}{self._hints.get(pool, '')}"
        return Problem(severity, message, origin, line=line, field=field)


def _routes_to_nothing(
    routes: Iterable[HTTPRoute], pools: Collection[ObjectName], missing: _Missing
) -> Iterator[Problem]:
    for route in routes:
        for i, rule in enumerate(route.rules):
            for j, backend in enumerate(rule.backends):
                if backend.kind is BackendKind.INFERENCE_POOL and backend.name not in pools:
                    yield missing(
                        backend.name,
                        route.origin,
                        f"spec.rules[{i}].backendRefs[{j}]",
                        Severity.WARNING,
                        rule.line,
                    )


def _by_rarest_label(
    pools: Collection[InferencePool],
) -> dict[tuple[str, str, str], list[InferencePool]]:
    """Each pool by namespace, key and value of one label that its pods have: of all that they have,
    the one that the fewest pools ask for."""

    def labels(pool: InferencePool) -> list[tuple[str, str, str]]:
        return [(pool.name.namespace, *label) for label in pool.selector.items()]

    uses = Counter(label for pool in pools for label in labels(pool))
    found: dict[tuple[str, str, str], list[InferencePool]] = {}
    for pool in pools:
        if pool.selector:
            found.setdefault(min(labels(pool), key=uses.__getitem__), []).append(pool)
    return found


class _Servers:
    """The endpoints of all pools, while they are gathered."""

    def __init__(
        self,
        pools: Mapping[ObjectName, InferencePool],
        missing: _Missing,
        found: list[Problem],
        *,
        local_hosts: bool,
    ) -> None:
        self._pools = pools
        self._missing = missing
        self._found = found
        self._local_hosts = local_hosts
        self._by_pool: dict[ObjectName, dict[str, Endpoint]] = {}
        self.origins: dict[str, Origin] = {}
        self.absent: list[AbsentEndpoint] = []

    def endpoints(self) -> dict[ObjectName, tuple[Endpoint, ...]]:
        return {
            name: tuple(of_pool[key] for key in sorted(of_pool))
            for name, of_pool in sorted(self._by_pool.items())
            if of_pool
        }

    def add_hosts(self, item: PoolEndpoints, lookups: Mapping[str, Lookup]) -> None:
        pool = self._pools.get(item.pool)
        if pool is None:
            self._found.append(
                self._missing(item.pool, item.origin, "spec.poolRef", Severity.ERROR)
            )
            return
        for i, host in enumerate(item.hosts):
            field = f"spec.endpoints[{i}].address"
            lookup = lookups.get(host.address, NOT_LOOKED_UP) if host.is_name else Lookup()
            origin = item.origin and Origin(
                item.origin.kind, item.name, item.origin.source, host.line
            )
            if lookup.error:
                self._found.append(_unresolved(host, lookup, item.origin, field))
                if not lookup.addresses:
                    name = host.name or host.address
                    reason = f"{host.address!r} could not be resolved ({lookup.error})"
                    self.absent.append(AbsentEndpoint(name, reason, pool.name, origin=origin))
            for endpoint in endpoints_of(host, pool, lookup.addresses):
                if self._local_hosts or not (reason := near(endpoint.address)):
                    self._add(pool.name, endpoint, origin, field)
                else:
                    self._refuse(pool.name, endpoint, reason, origin, field)

    def add_pods(self, pods: Iterable[Pod]) -> None:
        """Pods that no pool selects are left out."""
        by_label = _by_rarest_label(self._pools.values())
        for pod in pods:
            selecting = sorted(
                (
                    pool
                    for label in pod.labels.items()
                    for pool in by_label.get((pod.name.namespace, *label), ())
                    if selects(pool, pod)
                ),
                key=attrgetter("name"),
            )
            if selecting:
                self._found += problems_of_pod(pod)
            for pool in selecting:
                served = endpoints_of_pod(pod, pool)
                if isinstance(served, AbsentEndpoint):
                    self.absent.append(served)
                    continue
                for endpoint in served:
                    self._add(pool.name, endpoint, pod.origin, "status.podIP")

    def _refuse(
        self, pool: ObjectName, endpoint: Endpoint, reason: str, origin: Origin | None, field: str
    ) -> None:
        message = f"{endpoint.address} {reason}, which means another host to Envoy: no endpoint"
        line = origin.line if origin else None
        self._found.append(Problem(Severity.ERROR, message, origin, line=line, field=field))
        absent = AbsentEndpoint(endpoint.name, f"{endpoint.address} {reason}", pool, origin=origin)
        self.absent.append(absent)

    def _add(self, pool: ObjectName, endpoint: Endpoint, origin: Origin | None, field: str) -> None:
        of_pool = self._by_pool.setdefault(pool, {})
        key = endpoint.key
        if key in of_pool:
            message = f"{key} is already an endpoint of {pool}; this one was ignored"
            line = origin.line if origin else None
            self._found.append(Problem(Severity.WARNING, message, origin, line=line, field=field))
            return
        of_pool[key] = endpoint
        if origin is not None:
            self.origins.setdefault(key, origin)


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
