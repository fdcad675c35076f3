"""Attachment of a whole World."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from pools.attachment.inputs import Inputs
from pools.attachment.listeners import attach_gateway
from pools.attachment.resolver import Refusal, Resolver
from pools.attachment.routes import RouteOutcome, attach_route
from pools.attachment.values import (
    AttachedGateway,
    AttachedPool,
    AttachedWorld,
    Attachments,
    Condition,
    ServiceRef,
)
from pools.model import HTTPRoute, InferencePool, ObjectName, World
from pools.well_known import OWN_PICKER

OWN_PICKERS: frozenset[str] = frozenset({OWN_PICKER})
"""Services that are endpoint pickers of ours: ``name`` in any namespace, or ``namespace/name``."""


def attach(world: World, own_pickers: Collection[str] = OWN_PICKERS) -> AttachedWorld:
    """Who belongs to whom in a World. For repeated use see :class:`Attacher`.

    Read from an API server (``World.of_cluster``), the rules of the Gateway API hold to the letter.
    Of files it is known that one person wrote them all: every route may attach to every Gateway and
    name everything, Services are found by DNS, and our own picker serves all pools.
    """
    return Attacher(own_pickers).attach(world)


@dataclass(frozen=True, slots=True)
class _Last:
    inputs: Inputs
    routes: tuple[HTTPRoute, ...]
    outcomes: Mapping[ObjectName, RouteOutcome]
    attachments: Attachments


class Attacher:
    """Attaches one World after the other, making anew only what changed.

    The result is equal to :func:`attach`'s, with the same attachments as before as long as nothing
    that matters here changes: endpoints come and go without a cost.
    """

    def __init__(self, own_pickers: Collection[str] = OWN_PICKERS) -> None:
        self._own_pickers = frozenset(own_pickers)
        self._last: _Last | None = None

    def attach(self, world: World) -> AttachedWorld:
        return AttachedWorld(world, self._attachments(Inputs.of(world), world.routes))

    def _attachments(self, inputs: Inputs, routes: tuple[HTTPRoute, ...]) -> Attachments:
        last = self._last if self._last is not None and self._last.inputs == inputs else None
        if last is not None and last.routes == routes:
            return last.attachments
        resolver = Resolver(inputs, self._own_pickers)
        gateways = {name: attach_gateway(one, resolver) for name, one in inputs.gateways.items()}
        outcomes = _routes(inputs, routes, gateways, resolver, last.outcomes if last else {})
        attachments = _attachments(inputs, gateways, resolver, outcomes)
        self._last = _Last(inputs, routes, outcomes, attachments)
        return attachments


def _routes(
    inputs: Inputs,
    routes: Iterable[HTTPRoute],
    attached: Mapping[ObjectName, AttachedGateway],
    resolver: Resolver,
    before: Mapping[ObjectName, RouteOutcome],
) -> dict[ObjectName, RouteOutcome]:
    served = {
        name: frozenset(one.listener.name for one in gateway.served)
        for name, gateway in attached.items()
    }
    outcomes: dict[ObjectName, RouteOutcome] = {}
    for route in routes:
        known = before.get(route.name)
        if known is None or known.attached.route != route:
            known = attach_route(route, inputs, served, resolver)
        outcomes[route.name] = known
    return outcomes


def _attachments(
    inputs: Inputs,
    gateways: Mapping[ObjectName, AttachedGateway],
    resolver: Resolver,
    outcomes: Mapping[ObjectName, RouteOutcome],
) -> Attachments:
    counts = Counter(joined for outcome in outcomes.values() for joined in outcome.listeners)
    counted = {name: _with_routes(gateway, counts) for name, gateway in gateways.items()}
    routes = {name: outcome.attached for name, outcome in outcomes.items()}
    return Attachments(counted, routes, _pools(inputs, resolver, outcomes.values()))


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
    inputs: Inputs, resolver: Resolver, outcomes: Iterable[RouteOutcome]
) -> dict[ObjectName, AttachedPool]:
    users: dict[ObjectName, dict[ObjectName, bool]] = {name: {} for name in inputs.pools}
    """By pool and Gateway: whether a route that names the pool is accepted."""
    for outcome in outcomes:
        for pool in outcome.pools:
            of_pool = users.get(pool)
            if of_pool is not None:
                for parent in outcome.attached.parents:
                    gateway = parent.parent.gateway
                    of_pool[gateway] = parent.accepted or of_pool.get(gateway, False)
    return {
        name: _pool(pool, resolver.picker(pool), users[name]) for name, pool in inputs.pools.items()
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
