"""What becomes of an HTTPRoute's references: to Gateways, and to what it sends requests to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pools.attachment.filters import (
    are_incompatible,
    problem_of_backend_filters,
    problem_of_filters,
)
from pools.attachment.hostnames import share_any
from pools.attachment.inputs import Inputs
from pools.attachment.resolver import Refusal, Resolver
from pools.attachment.values import AttachedParent, AttachedRoute, Condition
from pools.model import (
    AllowedRoutes,
    BackendKind,
    Gateway,
    GatewayListener,
    HTTPRoute,
    NamespacesFrom,
    ObjectName,
    ParentRef,
    RouteBackend,
    RouteRule,
)


@dataclass(frozen=True, slots=True)
class RouteOutcome:
    """A route, and the listeners (Gateway and name) that it is attached to, served or not."""

    attached: AttachedRoute
    listeners: frozenset[tuple[ObjectName, str]]
    pools: frozenset[ObjectName]
    """Those that it may send requests to."""


@dataclass(frozen=True, slots=True)
class _Rules:
    """What becomes of a route's rules, whichever Gateway serves them."""

    lost: Mapping[RouteBackend, str] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)
    accepted: Refusal | None = None
    """Why none of the rules can be served."""
    conditions: tuple[Condition, ...] = ()
    """Of every parent, besides ``Accepted``."""


def attach_route(
    route: HTTPRoute,
    inputs: Inputs,
    served: Mapping[ObjectName, frozenset[str]],
    resolver: Resolver,
) -> RouteOutcome:
    """``served``: by Gateway, the names of the listeners that take requests."""
    rules = _rules(route, resolver)
    parents: list[AttachedParent] = []
    joined: set[tuple[ObjectName, str]] = set()
    for parent in _parents(route, inputs):
        gateway = inputs.gateways.get(parent.gateway)
        if gateway is None:
            continue
        found = _listeners(route, parent, gateway, inputs)
        if not isinstance(found, Refusal) and rules.accepted is not None:
            found = rules.accepted
        if isinstance(found, Refusal):
            accepted = Condition("Accepted", False, found.reason, found.message)
            sections: frozenset[str] = frozenset()
        else:
            names = frozenset(one.name for one in found)
            sections = names & served[gateway.name]
            dead = ", ".join(sorted(names - sections))
            message = f"not served by listener {dead}: see its Gateway's status" if dead else ""
            accepted = Condition("Accepted", True, "Accepted", message)
            joined.update((gateway.name, name) for name in names)
        parents.append(AttachedParent(parent, sections, (accepted, *rules.conditions)))
    attached = AttachedRoute(route, tuple(parents), rules.lost, rules.refused)
    pools = frozenset(
        backend.name
        for rule in route.rules
        for backend in rule.backends
        if not backend.unknown_kind
        and backend.kind is BackendKind.INFERENCE_POOL
        and resolver.may_name_pool(route.name, backend.name)
    )
    return RouteOutcome(attached, frozenset(joined), pools)


def _parents(route: HTTPRoute, inputs: Inputs) -> Sequence[ParentRef]:
    if route.parents or inputs.of_cluster:
        return route.parents
    return [ParentRef(gateway) for gateway in inputs.gateways]


def _listeners(
    route: HTTPRoute, parent: ParentRef, gateway: Gateway, inputs: Inputs
) -> list[GatewayListener] | Refusal:
    """Those that the route attaches to by this reference."""
    named = [
        one
        for one in gateway.listeners
        if parent.section in (None, one.name) and parent.port in (None, one.port)
    ]
    if not named:
        wanted = [f"name {parent.section}"] if parent.section else []
        wanted += [f"port {parent.port}"] if parent.port else []
        there = ", ".join(f"{one.name} (port {one.port})" for one in gateway.listeners)
        return Refusal(
            "NoMatchingParent",
            f"Gateway {gateway.name} has no listener with {' and '.join(wanted)};"
            f" it has {there or 'none'}",
        )
    allowing = [one for one in named if _allows(one.allowed, gateway, route, inputs)]
    names = ", ".join(one.name for one in named)
    if not allowing:
        return Refusal(
            "NotAllowedByListeners",
            f"allowedRoutes of listener {names} of Gateway {gateway.name} does not allow HTTPRoutes"
            f" of namespace {route.name.namespace}"
            + (", whose labels may not be read" if "Namespace" in inputs.unread else ""),
        )
    fitting = [one for one in allowing if share_any(route.hostnames, one.hostname)]
    if not fitting:
        hosts = ", ".join(one.hostname or "*" for one in allowing)
        return Refusal(
            "NoMatchingListenerHostname",
            f"spec.hostnames ({', '.join(route.hostnames)}) have nothing in common with those of"
            f" listener {names} ({hosts})",
        )
    return fitting


def _allows(allowed: AllowedRoutes, gateway: Gateway, route: HTTPRoute, inputs: Inputs) -> bool:
    if not allowed.http_routes:
        return False
    if not inputs.of_cluster:
        # In a directory of files everything is one person's, and namespaces have no labels.
        return allowed.namespaces is not NamespacesFrom.NONE
    match allowed.namespaces:
        case NamespacesFrom.ALL:
            return True
        case NamespacesFrom.SAME:
            return route.name.namespace == gateway.name.namespace
        case NamespacesFrom.SELECTOR:
            return allowed.selector.selects(inputs.namespaces.get(route.name.namespace, {}))
        case NamespacesFrom.NONE:
            return False


def _rules(route: HTTPRoute, resolver: Resolver) -> _Rules:
    lost: dict[RouteBackend, str] = {}
    refused: dict[int, str] = {}
    unresolved: list[Refusal] = []
    invalid: list[Refusal] = []
    for i, rule in enumerate(route.rules):
        where = f"spec.rules[{i}]"
        refusal = _refusal(rule)
        if refusal is not None:
            refused[i] = refusal.message
            invalid.append(Refusal(refusal.reason, f"{where}.{refusal.message}"))
        for j, backend in enumerate(rule.backends):
            at = f"{where}.backendRefs[{j}]"
            why = resolver.backend(route.name, backend)
            if why is not None:
                lost[backend] = why.message
                unresolved.append(Refusal(why.reason, f"{at}: {why.message}"))
            elif problem := problem_of_backend_filters(backend.filters):
                lost[backend] = f"filters: {problem}"
                invalid.append(Refusal("UnsupportedValue", f"{at}.filters: {problem}"))
    conditions = [_resolved(unresolved)]
    accepted = None
    if route.rules and len(refused) == len(route.rules):
        accepted = Refusal(invalid[0].reason, "; ".join(one.message for one in invalid))
    elif invalid:
        told = "; ".join(one.message for one in invalid)
        conditions.append(
            Condition(
                "PartiallyInvalid",
                True,
                invalid[0].reason,
                f"Dropped Rule(s), whose requests are answered with 500: {told}",
            )
        )
    return _Rules(lost, refused, accepted, tuple(conditions))


def _refusal(rule: RouteRule) -> Refusal | None:
    for match in rule.matches or (None,):
        problem = problem_of_filters(rule.filters, match)
        if problem:
            reason = "IncompatibleFilters" if are_incompatible(rule.filters) else "UnsupportedValue"
            return Refusal(reason, f"filters: {problem}")
    return None


def _resolved(unresolved: Sequence[Refusal]) -> Condition:
    if not unresolved:
        return Condition("ResolvedRefs", True, "ResolvedRefs")
    message = "; ".join(one.message for one in unresolved)
    return Condition("ResolvedRefs", False, unresolved[0].reason, message)
