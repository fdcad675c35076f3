"""Kinds of Kubernetes itself, of which little matters here, and grants to refer to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pools.model.objects import ObjectName, Origin


@dataclass(frozen=True, slots=True)
class TlsCertificate:
    """A Secret of type ``kubernetes.io/tls``. Its parts are never printed."""

    name: ObjectName
    chain: bytes = field(repr=False)
    """PEM."""
    key: bytes = field(repr=False)
    """PEM."""
    problem: str = ""
    """Why it cannot be used; then chain and key are empty."""
    origin: Origin | None = None
    expires: float | None = None
    """When the first certificate of the chain does, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service, and who answers there."""

    port: int
    name: str = ""
    app_protocol: str = ""
    """Such as ``kubernetes.io/h2c``."""
    addresses: tuple[tuple[str, int], ...] = ()
    """IP address and port of those that are ready, sorted; of those that still serve while they
    end, where none is ready."""


@dataclass(frozen=True, slots=True)
class Service:
    """An ordinary Service with what its EndpointSlices say."""

    name: ObjectName
    ports: tuple[ServicePort, ...] = ()
    external: bool = False
    """Of type ExternalName: nothing may be sent there."""
    origin: Origin | None = None

    def port(self, number: int | None) -> ServicePort | None:
        return next((port for port in self.ports if port.port == number), None)


@dataclass(frozen=True, slots=True)
class ReferenceGrant:
    """Objects ``to`` in its own namespace may be named by objects ``sources`` in others."""

    name: ObjectName
    sources: tuple[tuple[str, str, str], ...]
    """Group, kind and namespace."""
    targets: tuple[tuple[str, str, str | None], ...]
    """Group, kind and name; None: every name."""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Some of the addresses that answer for a Service."""

    name: ObjectName
    service: ObjectName | None = None
    ready: tuple[str, ...] = ()
    """IP addresses."""
    ending: tuple[str, ...] = ()
    """Of those that still serve, though they are asked to end."""
    ports: tuple[tuple[str, int], ...] = ()
    """Names, which are those of the Service's ports, and numbers; TCP only."""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Namespace:
    name: ObjectName
    """Without a namespace."""
    labels: Mapping[str, str] = field(default_factory=dict)
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    name: ObjectName
    address: str = ""
    """Its primary IP address; empty until it has one."""
    labels: Mapping[str, str] = field(default_factory=dict)
    unready: str = ""
    """Why nothing may be sent to it; empty where it is Ready and not being deleted."""
    active_ports: str | None = None
    """The annotation, as it was written."""
    active_ports_key: str = ""
    origin: Origin | None = None
