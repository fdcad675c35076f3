"""All that attachment reads of a World, apart from its routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pools.model import (
    Gateway,
    InferencePool,
    ObjectName,
    ReferenceGrant,
    Service,
    TlsCertificate,
    World,
)


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """What matters here of a Service: who answers there does not."""

    external: bool
    ports: Mapping[int, str]
    """Their ``appProtocol``, by number."""

    @classmethod
    def of(cls, service: Service) -> ServiceFacts:
        # Of two ports with one number (TCP and UDP) the first counts, as in ``Service.port``.
        ports: dict[int, str] = {}
        for one in service.ports:
            ports.setdefault(one.port, one.app_protocol)
        return cls(service.external, ports)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Attachment is given this instead of the World, so that it cannot depend on anything that is
    not compared here: of equal inputs, each route is attached as it was."""

    gateways: Mapping[ObjectName, Gateway]
    pools: Mapping[ObjectName, InferencePool]
    certificates: Mapping[ObjectName, TlsCertificate]
    services: Mapping[ObjectName, ServiceFacts]
    grants: tuple[ReferenceGrant, ...]
    namespaces: Mapping[str, Mapping[str, str]]
    of_cluster: bool
    unread: frozenset[str]

    @classmethod
    def of(cls, world: World) -> Inputs:
        return cls(
            {gateway.name: gateway for gateway in world.gateways},
            world.pools,
            world.certificates,
            {name: ServiceFacts.of(service) for name, service in world.services.items()},
            world.grants,
            world.namespaces,
            world.of_cluster,
            world.unread,
        )
