"""The discovery services: gRPC names, methods, and the type that each of them speaks of."""

from __future__ import annotations

from dataclasses import dataclass

from xds import resource as types


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    type_url: str | None
    """None: aggregated."""
    sotw: str | None
    """Method for State-of-the-World; None where a type is defined for Delta only."""
    delta: str


SERVICES = (
    Service(
        "envoy.service.discovery.v3.AggregatedDiscoveryService",
        None,
        "StreamAggregatedResources",
        "DeltaAggregatedResources",
    ),
    Service(
        "envoy.service.listener.v3.ListenerDiscoveryService",
        types.LISTENER,
        "StreamListeners",
        "DeltaListeners",
    ),
    Service(
        "envoy.service.route.v3.RouteDiscoveryService",
        types.ROUTE,
        "StreamRoutes",
        "DeltaRoutes",
    ),
    Service(
        "envoy.service.route.v3.ScopedRoutesDiscoveryService",
        types.SCOPED_ROUTE,
        "StreamScopedRoutes",
        "DeltaScopedRoutes",
    ),
    Service(
        "envoy.service.route.v3.VirtualHostDiscoveryService",
        types.VIRTUAL_HOST,
        None,
        "DeltaVirtualHosts",
    ),
    Service(
        "envoy.service.cluster.v3.ClusterDiscoveryService",
        types.CLUSTER,
        "StreamClusters",
        "DeltaClusters",
    ),
    Service(
        "envoy.service.endpoint.v3.EndpointDiscoveryService",
        types.ENDPOINT,
        "StreamEndpoints",
        "DeltaEndpoints",
    ),
    Service(
        "envoy.service.secret.v3.SecretDiscoveryService",
        types.SECRET,
        "StreamSecrets",
        "DeltaSecrets",
    ),
    Service(
        "envoy.service.runtime.v3.RuntimeDiscoveryService",
        types.RUNTIME,
        "StreamRuntime",
        "DeltaRuntime",
    ),
    Service(
        "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
        types.EXTENSION_CONFIG,
        "StreamExtensionConfigs",
        "DeltaExtensionConfigs",
    ),
)

CLIENT_STATUS = "envoy.service.status.v3.ClientStatusDiscoveryService"
