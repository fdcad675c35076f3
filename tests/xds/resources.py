"""Small hand-made resources, authored with envoy-data-plane as a user of the library would."""

from __future__ import annotations

from datetime import timedelta

import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
from envoy_data_plane.google.protobuf import Any

from xds.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource
from xds.wire import endpoint_pb2

ADS = core.ConfigSource(ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3)


def cluster(
    name: str,
    *,
    timeout: float = 1.0,
    policy: str = "ROUND_ROBIN",
    source: core.ConfigSource = ADS,
) -> Resource:
    """An EDS cluster whose endpoints come from ``source``.

    A negative time-out breaks one of Envoy's validation rules; a policy of ``CLUSTER_PROVIDED`` is
    only refused when Envoy builds the cluster.
    """
    message = cluster_v3.Cluster(
        name=name,
        type=cluster_v3.ClusterDiscoveryType.EDS,
        eds_cluster_config=cluster_v3.ClusterEdsClusterConfig(eds_config=source),
        connect_timeout=timedelta(seconds=timeout),
        lb_policy=cluster_v3.ClusterLbPolicy[policy],
    )
    return Resource(CLUSTER, name, bytes(message), needs=((ENDPOINT, name),), origin=f"test:{name}")


def endpoints(name: str, *ports: int, host: str = "127.0.0.1") -> Resource:
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    locality = message.endpoints.add()
    # gRPC's own client, unlike Envoy, wants a locality with a weight.
    locality.locality.region = "here"
    locality.load_balancing_weight.value = 1
    for port in ports:
        address = locality.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = host, port
    return Resource(ENDPOINT, name, message.SerializeToString())


def route(name: str, **clusters: str) -> Resource:
    """``route("r", default="a", b="b")`` sends /b to cluster b and the rest to a."""
    host = route_v3.VirtualHost(
        name="all",
        domains=["*"],
        routes=[
            route_v3.Route(
                match=route_v3.RouteMatch(prefix="/" if path == "default" else f"/{path}"),
                route=route_v3.RouteAction(cluster=target),
            )
            for path, target in sorted(clusters.items(), key=lambda pair: pair[0] == "default")
        ],
    )
    message = route_v3.RouteConfiguration(
        name=name,
        virtual_hosts=[host],
        validate_clusters=False,
    )
    needs = tuple((CLUSTER, target) for target in dict.fromkeys(clusters.values()))
    return Resource(ROUTE, name, bytes(message), needs=needs)


def router() -> hcm_v3.HttpFilter:
    return hcm_v3.HttpFilter(
        name="envoy.filters.http.router", typed_config=Any.pack(router_v3.Router())
    )


def listener(name: str, route_name: str, *, source: core.ConfigSource = ADS) -> Resource:
    """A listener on a free port."""
    manager = hcm_v3.HttpConnectionManager(
        stat_prefix=name,
        rds=hcm_v3.Rds(config_source=source, route_config_name=route_name),
        http_filters=[router()],
    )
    return managed_listener(name, manager, (ROUTE, route_name))


def managed_listener(
    name: str,
    manager: hcm_v3.HttpConnectionManager,
    *needs: tuple[str, str],
    tls: core.TransportSocket | None = None,
) -> Resource:
    """A listener on a free port, with this connection manager."""
    message = listener_v3.Listener(
        name=name,
        address=core.Address(socket_address=core.SocketAddress(address="127.0.0.1", port_value=0)),
        filter_chains=[
            listener_v3.FilterChain(
                transport_socket=tls,
                filters=[
                    listener_v3.Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=Any.pack(manager),
                    )
                ],
            )
        ],
    )
    return Resource(LISTENER, name, bytes(message), needs=needs)
