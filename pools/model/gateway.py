"""Gateways: where clients connect, and which routes they find there."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from pools.model.labels import LabelSelector
from pools.model.objects import ObjectName, Origin


class ListenerProtocol(enum.StrEnum):
    HTTP = "HTTP"
    HTTPS = "HTTPS"


class NamespacesFrom(enum.StrEnum):
    ALL = "All"
    SAME = "Same"
    SELECTOR = "Selector"
    NONE = "None"


@dataclass(frozen=True, slots=True)
class AllowedRoutes:
    """Which HTTPRoutes may attach to a listener."""

    namespaces: NamespacesFrom = NamespacesFrom.SAME
    selector: LabelSelector = field(default_factory=LabelSelector)
    """Of namespaces, with ``SELECTOR``."""
    http_routes: bool = True
    """Whether HTTPRoute is among the allowed kinds."""
    unknown_kinds: tuple[str, ...] = ()
    """Allowed kinds of routes that are none of ours."""


@dataclass(frozen=True, slots=True)
class CertificateRef:
    """The Secret with a listener's certificate."""

    name: ObjectName
    unknown_kind: str = ""
    """``group/kind`` of a reference to something other than a Secret."""


@dataclass(frozen=True, slots=True)
class ListenerProblem:
    """In the words of the Gateway API: a reason of the listener's ``Accepted`` condition."""

    reason: str
    """``UnsupportedProtocol``, ``UnsupportedValue`` or ``Invalid``."""
    message: str


@dataclass(frozen=True, slots=True)
class GatewayListener:
    name: str
    port: int
    protocol: ListenerProtocol = ListenerProtocol.HTTP
    hostname: str | None = None
    certificates: tuple[CertificateRef, ...] = ()
    """Of an HTTPS listener: Secrets, the first that fits the client's name is shown."""
    allowed: AllowedRoutes = AllowedRoutes()
    problem: ListenerProblem | None = None
    """Why it cannot be served, whatever else is there."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A set of listeners that one group of Envoys serves."""

    name: ObjectName
    listeners: tuple[GatewayListener, ...]
    origin: Origin | None = None
    class_name: str = ""


@dataclass(frozen=True, slots=True)
class GatewayClass:
    """Whose the Gateways of one class are."""

    name: ObjectName
    controller: str
    """Such as ``poolpilot.dev/gateway-controller``."""
    origin: Origin | None = None
