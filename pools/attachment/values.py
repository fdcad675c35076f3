"""What attachment comes to, in the words of the Gateway API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pools.model import (
    GatewayListener,
    HTTPRoute,
    ObjectName,
    ParentRef,
    RouteBackend,
    TlsCertificate,
    World,
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a status, without its times."""

    type: str
    status: bool
    reason: str
    message: str = ""


def holds(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of this type is there and true."""
    return any(one.status for one in conditions if one.type == kind)


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

    @property
    def served(self) -> tuple[AttachedListener, ...]:
        return tuple(one for one in self.listeners if one.served)


@dataclass(frozen=True, slots=True)
class AttachedParent:
    """What one ``parentRef`` of a route came to."""

    parent: ParentRef
    sections: frozenset[str]
    """Names of the listeners that serve the route by this reference."""
    conditions: tuple[Condition, ...]
    """``Accepted`` and ``ResolvedRefs``; ``PartiallyInvalid`` where rules are refused."""

    @property
    def accepted(self) -> bool:
        return holds(self.conditions, "Accepted")


@dataclass(frozen=True, slots=True)
class AttachedRoute:
    route: HTTPRoute
    parents: tuple[AttachedParent, ...]
    """Only those that name Gateways of ours. A route of a file that names none belongs to all of
    them, as if it had named each."""
    lost: Mapping[RouteBackend, str] = field(default_factory=dict)
    """Backends that cannot be used, and why: their share is answered with 500."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Rules (by their place) that must not be served, and why: their requests are answered with
    500."""

    def sections(self, gateway: ObjectName) -> frozenset[str]:
        """The listeners of ``gateway`` that serve the route."""
        names: frozenset[str] = frozenset()
        return names.union(*(p.sections for p in self.parents if p.parent.gateway == gateway))


@dataclass(frozen=True, slots=True, order=True)
class ServiceRef:
    """One port of a Service."""

    name: ObjectName
    port: int

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class AttachedPool:
    """What each Gateway that sends requests to a pool says of it, and who picks for it."""

    name: ObjectName
    parents: Mapping[ObjectName, tuple[Condition, ...]]
    """By Gateway: ``Accepted`` and ``ResolvedRefs``. Gateways of whose routes one may send requests
    to the pool, accepted or not."""
    picker: ServiceRef | None = None
    """The endpoint picker of somebody else; None: our own."""
    invalid: str = ""
    """Why the endpoint picker that the pool names cannot be had: its requests are answered with
    500, and ``picker`` says nothing."""


@dataclass(frozen=True, slots=True)
class Attachments:
    """Of every Gateway, route and pool of a World."""

    gateways: Mapping[ObjectName, AttachedGateway]
    """Empty: there is one listener without a name, which takes every route, whatever its
    ``parentRefs`` say."""
    routes: Mapping[ObjectName, AttachedRoute]
    pools: Mapping[ObjectName, AttachedPool]


@dataclass(frozen=True, slots=True)
class AttachedWorld:
    """A World, and who belongs to whom in it."""

    world: World
    attachments: Attachments
