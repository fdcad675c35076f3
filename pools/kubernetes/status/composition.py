"""What is to be reported of every object of a World."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pools.attachment import (
    AttachedGateway,
    AttachedListener,
    AttachedPool,
    AttachedRoute,
    Attachments,
    Condition,
)
from pools.kubernetes.status.inputs import StatusInputs
from pools.kubernetes.status.reports import (
    ClassReport,
    GatewayReport,
    ListenerReport,
    PoolReport,
    RefusedRouteReport,
    Report,
    RouteReport,
)
from pools.kubernetes.status.target import KINDS, Target, of_cluster
from pools.model import (
    BackendKind,
    Gateway,
    HTTPRoute,
    ObjectName,
    Origin,
    Problem,
    Severity,
)

FEATURES = (
    "Gateway",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "InferencePool",
    "ReferenceGrant",
)
"""Of the Gateway API and its inference extension, by their own names."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """The newest version of an object, which cannot be used."""

    origin: Origin
    message: str


def compose(
    inputs: StatusInputs, addresses: tuple[tuple[str, str], ...] = ()
) -> dict[Target, Report]:
    """``addresses``: where clients reach the Envoys, by type (``IPAddress``, ``Hostname``)."""
    attachments = inputs.attachments
    refused = _refused(inputs)
    reports: dict[Target, Report] = {}
    accepted = (Condition("Accepted", True, "Accepted"),)
    for target, origin in of_cluster(inputs.gateway_classes):
        reports[target] = ClassReport(origin.uid, origin.generation, accepted, FEATURES)
    for gateway in inputs.gateways:
        for target, origin in of_cluster([gateway]):
            attached = attachments.gateways[gateway.name]
            reports[target] = _gateway(attached, origin, addresses)
    for route in inputs.routes:
        for target, origin in of_cluster([route]):
            reports[target] = _route(attachments.routes[route.name], origin)
    for name, pool in inputs.pools.items():
        for target, origin in of_cluster([pool]):
            if target.parents_field:
                reports[target] = _pool(attachments.pools[name], target, origin)
    for target, one in refused.items():
        report = _of_refused(target, one, reports.get(target), inputs.routes, attachments)
        if report is not None:
            reports[target] = report
    return reports


def _gateway(
    attached: AttachedGateway, origin: Origin, addresses: tuple[tuple[str, str], ...]
) -> GatewayReport:
    listeners = tuple(map(_listener, attached.listeners))
    return GatewayReport(origin.uid, origin.generation, attached.conditions, listeners, addresses)


def _listener(attached: AttachedListener) -> ListenerReport:
    problem = attached.listener.problem
    return ListenerReport(
        attached.listener.name,
        attached.routes,
        attached.listener.allowed.http_routes
        and (problem is None or problem.reason != "UnsupportedProtocol"),
        attached.conditions,
    )


def _route(attached: AttachedRoute, origin: Origin) -> RouteReport:
    parents = {one.parent: one.conditions for one in attached.parents}
    return RouteReport(origin.uid, origin.generation, tuple(parents.items()))


def _pool(attached: AttachedPool, target: Target, origin: Origin) -> PoolReport:
    parents = tuple(sorted(attached.parents.items()))
    return PoolReport(origin.uid, origin.generation, target.parents_field, parents)


def _refused(inputs: StatusInputs) -> dict[Target, _Refused]:
    """Objects whose newest version is not in effect."""
    values: Iterable[Gateway | HTTPRoute] = (*inputs.gateways, *inputs.routes)
    generations = {target: origin.generation for target, origin in of_cluster(values)}
    generations.update(
        (target, origin.generation) for target, origin in of_cluster(inputs.pools.values())
    )
    found: dict[Target, list[Problem]] = {}
    for problem in inputs.problems:
        origin = problem.origin
        if problem.severity is not Severity.ERROR or origin is None or not origin.uid:
            continue
        if origin.kind in KINDS and origin.kind != "GatewayClass":
            target = Target.of(origin)
            if generations.get(target, 0) < origin.generation:
                found.setdefault(target, []).append(problem)
    return {
        target: _Refused(problems[0].origin, "; ".join(map(_told, problems)))
        for target, problems in found.items()
        if problems[0].origin is not None
    }


def _told(problem: Problem) -> str:
    return f"{problem.field}: {problem.message}" if problem.field else problem.message


def _of_refused(
    target: Target,
    refused: _Refused,
    known: Report | None,
    routes: Iterable[HTTPRoute],
    attachments: Attachments,
) -> Report | None:
    uid, generation = refused.origin.uid, refused.origin.generation
    match target.kind:
        case "HTTPRoute":
            condition = Condition("Accepted", False, "UnsupportedValue", refused.message)
            return RefusedRouteReport(uid, generation, condition)
        case "Gateway":
            accepted = Condition("Accepted", False, "Invalid", refused.message)
            programmed = Condition("Programmed", False, "Invalid", refused.message)
            if isinstance(known, GatewayReport):
                programmed = next(c for c in known.conditions if c.type == "Programmed")
                return replace(known, generation=generation, conditions=(accepted, programmed))
            return GatewayReport(uid, generation, (accepted, programmed))
        case "InferencePool" if target.parents_field:
            condition = Condition("Accepted", False, "NotSupportedByParent", refused.message)
            gateways = _gateways_of(target.name, routes, attachments.routes)
            parents = tuple((gateway, (condition,)) for gateway in gateways)
            return PoolReport(uid, generation, target.parents_field, parents)
    return None


def _gateways_of(
    pool: ObjectName, routes: Iterable[HTTPRoute], attached: Mapping[ObjectName, AttachedRoute]
) -> list[ObjectName]:
    """The Gateways with a route of the pool's namespace that names the pool."""
    return sorted(
        {
            parent.parent.gateway
            for route in routes
            if route.name.namespace == pool.namespace
            for rule in route.rules
            for backend in rule.backends
            if backend.name == pool and backend.kind is BackendKind.INFERENCE_POOL
            for parent in attached[route.name].parents
        }
    )
