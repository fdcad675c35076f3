"""What each rule of an HTTPRoute does with a request that it matches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pools.attachment import AttachedPool
from pools.contract import POOL_HEADER
from pools.model import (
    BackendKind,
    BodyMode,
    FailureMode,
    Filters,
    HTTPRoute,
    InferencePool,
    ObjectName,
    RouteBackend,
    RouteMatch,
    RouteRule,
    ValueMatch,
    ValueMatchType,
    seniority,
)
from xds.translate.matches import match_rank, normal, problem_of_match
from xds.translate.table import (
    NO_FILTERS,
    Answer,
    ByModel,
    Entry,
    Forward,
    PoolTarget,
    Redirection,
    ServiceTarget,
    Target,
)

Rank = tuple[int, int, int, int, int, bool, str, ObjectName, int, int, int]
"""Sorts entries, those that win first (:func:`xds.translate.matches.match_rank`, then the older
route, the first by name, and the order in it)."""

_NO_BACKEND = Answer(500, "backend_not_found", "The backend of this route does not exist.")
_NOT_SERVED = Answer(
    500, "filter_not_supported", "This route has a filter that this gateway cannot apply."
)
_NOT_HERE = Answer(
    404, "no-pool-for-model", "The pool that serves this model is not one of this route's."
)
_CANNOT_ASK = Answer(500, "route_by_model", "This gateway's Envoy cannot choose pools by model.")


@dataclass(frozen=True, slots=True)
class Attached:
    """A route and the listeners of one port that serve it, as :mod:`pools.attachment` says."""

    route: HTTPRoute
    sections: frozenset[str]
    """Names of the listeners."""
    lost: Mapping[RouteBackend, str] = field(default_factory=dict)
    """Backends that cannot be used, and why."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Rules that must not be served, and why."""


@dataclass(frozen=True, slots=True)
class Backends:
    """What routes may lead to."""

    pools: Mapping[ObjectName, InferencePool]
    attached: Mapping[ObjectName, AttachedPool] = field(default_factory=dict)

    def target(self, backend: RouteBackend) -> Target | str:
        """Where the share of a backend that is not lost goes, or why it cannot."""
        if backend.kind is BackendKind.SERVICE:
            assert backend.port is not None, "or it would be lost"
            return ServiceTarget(backend.name, backend.port, backend.weight, backend.filters)
        pool = self.pools[backend.name]
        attached = self.attached.get(pool.name)
        if attached is not None and attached.invalid:
            return f"{pool.origin or f'{backend.kind} {backend.name}'}: {attached.invalid}"
        return self.pool(pool, backend.weight, backend.filters)

    def pool(
        self, pool: InferencePool, weight: int = 1, filters: Filters = NO_FILTERS
    ) -> PoolTarget:
        attached = self.attached.get(pool.name)
        picker = attached.picker if attached is not None else None
        mode = pool.body_mode
        if picker is not None and _is_only_the_default(pool):
            # The protocol's own mode: others need not know any other.
            mode = BodyMode.FULL_DUPLEX_STREAMED
        return PoolTarget(pool.name, weight, pool.failure_mode, mode, picker, filters)


def _is_only_the_default(pool: InferencePool) -> bool:
    """Buffered bodies are what a pool that fails open gets without asking."""
    return pool.failure_mode is FailureMode.FAIL_OPEN and pool.body_mode is BodyMode.BUFFERED


@dataclass(frozen=True, slots=True)
class ListenerContext:
    """What routes must know of the listeners that serve them."""

    port: int
    scheme: str = "http"
    by_model: bool = True
    """Off where Envoy cannot keep clients from sending :data:`POOL_HEADER` themselves."""


def ranked_entries(
    attached: Attached, backends: Backends, context: ListenerContext, notes: list[str]
) -> Iterator[tuple[Rank, Entry]]:
    route = attached.route
    for i, rule in enumerate(route.rules):
        where = f"{of(route)}: rules[{i}]"
        targets, lost = _targets(rule, attached, backends, where, notes)
        for j, raw in enumerate(rule.matches or (RouteMatch(),)):
            match = normal(raw)
            problem = problem_of_match(match)
            if problem:
                notes.append(f"{where}.matches[{j}] is left out: {problem}")
                continue
            name = f"{route.name}/{i}/{j}"
            rank = *match_rank(match), *seniority(route.created, route.name), i, j
            if why := attached.refused.get(i):
                notes.append(f"{where}: {why}. Until then its requests are answered with 500")
                entries: Iterable[Entry] = (Entry(name, match, _NOT_SERVED),)
            elif rule.filters.redirect is not None:
                redirection = Redirection(rule.filters, context.scheme, context.port)
                entries = (Entry(name, match, redirection),)
            elif route.by_model and any(isinstance(t, PoolTarget) for t in targets):
                entries = _by_model(name, match, rule, targets, context)
            else:
                entries = (Entry(name, match, _action(rule, targets, lost)),)
            for k, entry in enumerate(entries):
                yield (*rank, k), entry
        if rule.filters.redirect is None:
            notes.extend(_gaps(route, rule, targets, lost, where))


def _targets(
    rule: RouteRule,
    attached: Attached,
    backends: Backends,
    where: str,
    notes: list[str],
) -> tuple[tuple[Target, ...], int]:
    """Where its shares go, and the weight of those that cannot."""
    targets: list[Target] = []
    weight = 0
    for backend in rule.backends:
        found = attached.lost.get(backend) or backends.target(backend)
        if isinstance(found, str):
            weight += backend.weight
            notes.append(
                f"{where}: {found}. Until then its share of the requests is answered with 500"
            )
        elif backend.weight > 0 or (attached.route.by_model and isinstance(found, PoolTarget)):
            targets.append(found)
    return tuple(targets), weight


def _action(rule: RouteRule, targets: tuple[Target, ...], lost: int) -> Forward | Answer:
    if not targets:
        return _NO_BACKEND
    return Forward(
        targets,
        lost,
        request_timeout=rule.request_timeout or 0.0,
        try_timeout=rule.backend_timeout or 0.0,
        filters=rule.filters,
        retry=rule.retry,
    )


def _by_model(
    name: str,
    match: RouteMatch,
    rule: RouteRule,
    targets: tuple[Target, ...],
    context: ListenerContext,
) -> Iterator[Entry]:
    """One entry for each pool, to which the picker leads, also for those that cannot be used; one
    for the pools of other rules; and the one with which a request comes to the picker."""
    if not context.by_model:
        yield Entry(name, match, _CANNOT_ASK)
        return
    pools = [target for target in targets if isinstance(target, PoolTarget)]
    for target in pools:
        led = _with_header(match, ValueMatch(POOL_HEADER, str(target.pool)))
        yield Entry(f"{name}/{target.pool}", led, _action(rule, (replace(target, weight=1),), 0))
    served = {target.pool for target in pools}
    for backend in rule.backends:
        is_pool = backend.kind is BackendKind.INFERENCE_POOL and not backend.unknown_kind
        if is_pool and backend.name not in served:
            lost = _with_header(match, ValueMatch(POOL_HEADER, str(backend.name)))
            yield Entry(f"{name}/{backend.name}", lost, _NO_BACKEND)
    any_pool = _with_header(match, ValueMatch(POOL_HEADER, ".+", ValueMatchType.REGEX))
    yield Entry(f"{name}/other", any_pool, _NOT_HERE)
    yield Entry(name, match, ByModel(shared_mode(target.body_mode for target in pools)))


def _with_header(match: RouteMatch, header: ValueMatch) -> RouteMatch:
    return replace(match, headers=(*match.headers, header))


def shared_mode(modes: Iterable[BodyMode]) -> BodyMode:
    """How bodies are shown before the pool is known: as all pools want it if it is one of the modes
    in which the model can be read before the pick."""
    if set(modes) == {BodyMode.BUFFERED}:
        return BodyMode.BUFFERED
    return BodyMode.FULL_DUPLEX_STREAMED


def _gaps(
    route: HTTPRoute, rule: RouteRule, targets: tuple[Target, ...], lost: int, where: str
) -> Iterator[str]:
    if not rule.backends:
        yield f"{where} has no backendRefs; its requests are answered with 500"
    elif not targets and not lost:
        yield f"{where}: all weights are 0; its requests are answered with 500"
    if not route.by_model or not any(isinstance(target, PoolTarget) for target in targets):
        return
    for target in targets:
        if isinstance(target, ServiceTarget):
            yield (
                f"{where}: Service {target.service} gets no requests: they go by model to the "
                "rule's pools; give it a rule of its own"
            )
        elif target.picker is not None:
            yield (
                f"{where}: InferencePool {target.pool} is chosen by model, so its picker "
                f"{target.picker} is not asked for these requests"
            )


def of(route: HTTPRoute) -> str:
    return str(route.origin) if route.origin else f"HTTPRoute {route.name}"
