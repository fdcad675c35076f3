"""Who belongs to whom: what the Gateway API makes of a World's Gateways, routes and pools.

Two readers must never differ on this: the translation, which serves it, and the status that is
written back, which tells users what is served. Everything here is a pure function of the World.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pools.model import (
    GatewayListener,
    HTTPRoute,
    ObjectName,
    ParentRef,
    RouteBackend,
    TlsCertificate,
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a status, without its times."""

    type: str
    status: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class AttachedListener:
    """A listener with what became of it."""

    listener: GatewayListener
    served: bool
    """It takes requests. Otherwise the conditions say why not."""
    certificates: tuple[TlsCertificate, ...] = ()
    """Those that can be shown, of an HTTPS listener; at least one where it is served."""
    routes: int = 0
    """How many are attached."""
    conditions: tuple[Condition, ...] = ()
    """``Accepted``, ``Programmed``, ``ResolvedRefs``, ``Conflicted``."""


@dataclass(frozen=True, slots=True)
class AttachedGateway:
    name: ObjectName
    listeners: tuple[AttachedListener, ...]
    conditions: tuple[Condition, ...]
    """``Accepted`` and ``Programmed``."""


@dataclass(frozen=True, slots=True)
class AttachedParent:
    """What one ``parentRef`` of a route came to."""

    parent: ParentRef
    sections: frozenset[str]
    """Names of the listeners that serve the route by this reference."""
    conditions: tuple[Condition, ...]
    """``Accepted`` and ``ResolvedRefs``."""


@dataclass(frozen=True, slots=True)
class AttachedRoute:
    route: HTTPRoute
    parents: tuple[AttachedParent, ...]
    """Only those that name Gateways of ours."""
    lost: Mapping[RouteBackend, str] = field(default_factory=dict)
    """Backends that cannot be used, and why: their share is answered with 500."""

    def sections(self, gateway: ObjectName) -> frozenset[str]:
        """The listeners of ``gateway`` that serve the route."""
        names: frozenset[str] = frozenset()
        return names.union(*(p.sections for p in self.parents if p.parent.gateway == gateway))


@dataclass(frozen=True, slots=True)
class AttachedPool:
    """What each Gateway that sends requests to a pool says of it."""

    name: ObjectName
    parents: Mapping[ObjectName, tuple[Condition, ...]]
    """By Gateway: ``Accepted`` and ``ResolvedRefs``."""


@dataclass(frozen=True, slots=True)
class Attachments:
    gateways: Mapping[ObjectName, AttachedGateway]
    routes: Mapping[ObjectName, AttachedRoute]
    pools: Mapping[ObjectName, AttachedPool]
