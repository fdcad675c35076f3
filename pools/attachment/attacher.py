"""Attachment of a whole World."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from pools.attachment.listeners import attach_gateway
from pools.attachment.references import References, Refusal, service_facts
from pools.attachment.routes import RouteOutcome, attach_route
from pools.attachment.values import (
    AttachedGateway,
    AttachedPool,
    Attachments,
    Condition,
    ServiceRef,
)
from pools.model import HTTPRoute, InferencePool, ObjectName, World

OWN_PICKERS: frozenset[str] = frozenset({"poolpilot-extproc"})
"""Services that are endpoint pickers of ours: ``name`` in any namespace, or ``namespace/name``."""


def attach(world: World, own_pickers: Collection[str] = OWN_PICKERS) -> Attachments:
    """Who belongs to whom in a World. For repeated use see :class:`Attacher`.

    Read from an API server (``World.of_cluster``), the rules of the Gateway API hold to the letter.
    Of files it is known that one person wrote them all: every route may attach to every Gateway and
    name everything, Services are found by DNS, and our own picker serves all pools.
    """
    return Attacher(own_pickers).attach(world)


@dataclass(frozen=True, slots=True)
class _Last:
    inputs: tuple[object, ...]
    """Of all that does not belong to a single route."""
    routes: tuple[HTTPRoute, ...]
    references: References
    outcomes: Mapping[ObjectName, RouteOutcome]
    attachments: Attachments


class Attacher:
    """Attaches one World after the other, making anew only what changed.

    The result is the same as :func:`attach`'s, and the same object as long as nothing that matters
    here changes: endpoints come and go without a cost.
    """

    def __init__(self, own_pickers: Collection[str] = OWN_PICKERS) -> None:
        self._own_pickers = frozenset(own_pickers)
        self._last: _Last | None = None

    def attach(self, world: World) -> Attachments:
        inputs = (
            world.gateways,
            world.pools,
            world.certificates,
            world.grants,
            world.namespaces,
            world.of_cluster,
            world.unread,
        )
        last = self._last
        if last is not None and (last.inputs != inputs or _services_changed(last, world)):
            last = None
        if last is not None and last.routes == world.routes:
            return last.attachments
        references = References(world, self._own_pickers)
        gateways = {one.name: attach_gateway(one, references) for one in world.gateways}
        outcomes = _routes(world, gateways, references, last.outcomes if last else {})
        attachments = _attachments(world, gateways, references, outcomes)
        self._last = _Last(inputs, world.routes, references, outcomes, attachments)
        return attachments


def _services_changed(last: _Last, world: World) -> bool:
    return any(
        (now := world.services.get(name)) is not before
        and service_facts(now) != service_facts(before)
        for name, before in last.references.services.items()
    )


def _routes(
    world: World,
    attached: Mapping[ObjectName, AttachedGateway],
    references: References,
    before: Mapping[ObjectName, RouteOutcome],
) -> dict[ObjectName, RouteOutcome]:
    gateways = {gateway.name: gateway for gateway in world.gateways}
    served = {
        name: frozenset(one.listener.name for one in gateway.served)
        for name, gateway in attached.items()
    }
    outcomes: dict[ObjectName, RouteOutcome] = {}
    for route in world.routes:
        known = before.get(route.name)
        if known is None or (known.attached.route is not route and known.attached.route != route):
            known = attach_route(route, world, gateways, served, references)
        else:
            for service in known.services:
                references.find(service)
        outcomes[route.name] = known
    return outcomes


def _attachments(
    world: World,
    gateways: Mapping[ObjectName, AttachedGateway],
    references: References,
    outcomes: Mapping[ObjectName, RouteOutcome],
) -> Attachments:
    counts = Counter(joined for outcome in outcomes.values() for joined in outcome.listeners)
    counted = {name: _with_routes(gateway, counts) for name, gateway in gateways.items()}
    routes = {name: outcome.attached for name, outcome in outcomes.items()}
    return Attachments(counted, routes, _pools(world, references, outcomes.values()))


def _with_routes(
    gateway: AttachedGateway, counts: Mapping[tuple[ObjectName, str], int]
) -> AttachedGateway:
    """``counts``: how many routes are attached, by Gateway and listener."""
    listeners = tuple(
        replace(one, routes=counts.get((gateway.name, one.listener.name), 0))
        for one in gateway.listeners
    )
    return replace(gateway, listeners=listeners)


def _pools(
    world: World, references: References, outcomes: Iterable[RouteOutcome]
) -> dict[ObjectName, AttachedPool]:
    users: dict[ObjectName, dict[ObjectName, bool]] = {name: {} for name in world.pools}
    """By pool and Gateway: whether a route that names the pool is accepted."""
    for outcome in outcomes:
        for pool in outcome.pools:
            of_pool = users.get(pool)
            if of_pool is not None:
                for parent in outcome.attached.parents:
                    gateway = parent.parent.gateway
                    of_pool[gateway] = parent.accepted or of_pool.get(gateway, False)
    return {
        name: _pool(pool, references.picker(pool), users[name])
        for name, pool in world.pools.items()
    }


def _pool(
    pool: InferencePool,
    picker: ServiceRef | Refusal | None,
    users: Mapping[ObjectName, bool],
) -> AttachedPool:
    invalid = picker.message if isinstance(picker, Refusal) else ""
    resolved = Condition("ResolvedRefs", True, "ResolvedRefs")
    if isinstance(picker, Refusal):
        resolved = Condition("ResolvedRefs", False, picker.reason, picker.message)
    parents = {
        gateway: (_accepted(gateway, accepted=accepted), resolved)
        for gateway, accepted in sorted(users.items())
    }
    return AttachedPool(
        pool.name, parents, picker if isinstance(picker, ServiceRef) else None, invalid
    )


def _accepted(gateway: ObjectName, *, accepted: bool) -> Condition:
    if accepted:
        return Condition("Accepted", True, "Accepted")
    return Condition(
        "Accepted",
        False,
        "HTTPRouteNotAccepted",
        f"Gateway {gateway} accepts none of the HTTPRoutes that name this pool; their status says"
        " why",
    )
