"""What routes, Gateways and pools refer to: of all that a cluster has, only that matters."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pools.model import (
    BackendKind,
    EndpointSlice,
    Gateway,
    HTTPRoute,
    InferencePool,
    Namespace,
    ObjectName,
    Service,
    TlsCertificate,
)


@dataclass(frozen=True, slots=True)
class References:
    """Names of what may or may not exist."""

    services: frozenset[ObjectName] = frozenset()
    certificates: frozenset[ObjectName] = frozenset()
    namespaces: frozenset[str] = frozenset()
    """Those of routes: their labels decide where these may attach."""

    @classmethod
    def of(
        cls,
        pools: Iterable[InferencePool],
        routes: Collection[HTTPRoute],
        gateways: Iterable[Gateway],
    ) -> References:
        services = {
            backend.name
            for route in routes
            for rule in route.rules
            for backend in rule.backends
            if backend.kind is BackendKind.SERVICE and not backend.unknown_kind
        }
        for pool in pools:
            if pool.picker is not None and (pool.picker.group, pool.picker.kind) == ("", "Service"):
                services.add(ObjectName(pool.name.namespace, pool.picker.name))
        return cls(
            frozenset(services),
            frozenset(
                ref.name
                for gateway in gateways
                for listener in gateway.listeners
                for ref in listener.certificates
                if not ref.unknown_kind
            ),
            frozenset(route.name.namespace for route in routes),
        )

    def concern(self, value: object) -> bool:
        """Whether ``value`` matters. What is not there to be referred to always does."""
        match value:
            case Service():
                return value.name in self.services
            case EndpointSlice():
                return value.service in self.services
            case TlsCertificate():
                return value.name in self.certificates
            case Namespace():
                return value.name.name in self.namespaces
        return True
