"""Clusters: one per pool, per Service that an HTTPRoute names, and per picker of its own."""

from __future__ import annotations

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.load_balancing_policies.least_request.v3 import LeastRequest
from envoy_data_plane.envoy.extensions.load_balancing_policies.override_host import (
    v3 as override_host,
)
from envoy_data_plane.envoy.type import v3 as kind
from envoy_data_plane.envoy.type.metadata import v3 as metadata

from pools.attachment import ServiceRef
from pools.contract import DESTINATION, LB_NAMESPACE, SERVED
from pools.model import AppProtocol, InferencePool, ObjectName, ServicePort
from xds.resource import CLUSTER, ENDPOINT, Resource
from xds.translate.features import Features
from xds.translate.names import picker_cluster, pool_cluster, service_cluster
from xds.translate.pack import Memo, any_of, resource, seconds
from xds.translate.protocol import http1_options, http2_options, lifted_breakers
from xds.translate.settings import TranslateSettings


def cluster_of_pool(
    pool: InferencePool, features: Features, settings: TranslateSettings, memo: Memo[bytes]
) -> Resource:
    """A cluster that sends each request to the endpoint that the picker named."""
    name = pool_cluster(pool.name)
    own = cluster.Cluster(
        name=name,
        eds_cluster_config=_eds(),
        # In the names of metrics, Envoy ends that of a cluster at its first dot.
        alt_stat_name=name.replace(".", "_") if "." in name else "",
    )
    # What all pools have in common is serialised once and appended.
    shared = memo.get(
        ("shared by pool clusters", pool.app_protocol, features),
        settings,
        lambda: bytes(_shared(pool.app_protocol, features, settings)),
    )
    return resource(
        CLUSTER,
        name,
        bytes(own) + shared,
        origin=str(pool.origin or f"InferencePool {pool.name}"),
        needs=((ENDPOINT, name),),
    )


def _shared(
    protocol: AppProtocol, features: Features, settings: TranslateSettings
) -> cluster.Cluster:
    return cluster.Cluster(
        type=cluster.ClusterDiscoveryType.EDS,
        connect_timeout=seconds(settings.connect_timeout),
        per_connection_buffer_limit_bytes=1024 * 1024,
        typed_extension_protocol_options=(
            http2_options()
            if protocol is AppProtocol.H2C
            else http1_options(settings.pod_idle_timeout)
        ),
        circuit_breakers=lifted_breakers(),
        upstream_connection_options=cluster.UpstreamConnectionOptions(
            tcp_keepalive=core.TcpKeepalive(
                keepalive_probes=3, keepalive_time=30, keepalive_interval=5
            )
        ),
        load_balancing_policy=_balancing(features),
        outlier_detection=_outliers(),
    )


def _balancing(features: Features) -> cluster.LoadBalancingPolicy:
    fallback = _policy("envoy.load_balancing_policies.least_request", LeastRequest())
    if not features.override_host:
        return fallback
    # The metadata alone. With the header as a second source, retries would walk the same list once
    # more instead of going on to the fallback, and a client could send it.
    source = override_host.OverrideHostOverrideHostSource(metadata=_key(DESTINATION))
    policy = override_host.OverrideHost(override_host_sources=[source], fallback_policy=fallback)
    if features.selected_host:
        policy.selected_host_key = _key(SERVED)
    return _policy("envoy.load_balancing_policies.override_host", policy)


def _policy(
    name: str, config: LeastRequest | override_host.OverrideHost
) -> cluster.LoadBalancingPolicy:
    return cluster.LoadBalancingPolicy(
        policies=[
            cluster.LoadBalancingPolicyPolicy(
                typed_extension_config=core.TypedExtensionConfig(
                    name=name, typed_config=any_of(config)
                )
            )
        ]
    )


def _key(name: str) -> metadata.MetadataKey:
    return metadata.MetadataKey(key=LB_NAMESPACE, path=[metadata.MetadataKeyPathSegment(key=name)])


def _outliers() -> cluster.OutlierDetection:
    """For the fallback alone: a picked endpoint is used whether it was ejected or not.

    Only what says that a pod is not there counts (connections that fail, 502 to 504). A 500 may
    come from the prompt, and success rates compare pods whose work differs.
    """
    return cluster.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=3,
        enforcing_consecutive_local_origin_failure=100,
        consecutive_gateway_failure=5,
        enforcing_consecutive_gateway_failure=100,
        enforcing_consecutive_5xx=0,
        enforcing_success_rate=0,
        enforcing_local_origin_success_rate=0,
        interval=seconds(1),
        base_ejection_time=seconds(10),
        max_ejection_time=seconds(60),
        max_ejection_percent=50,
    )


def cluster_of_service(
    service: ObjectName, port: int, known: ServicePort | None, settings: TranslateSettings
) -> Resource:
    """A cluster for an ordinary Service. Its addresses come as endpoints where they are ``known``,
    else it is found by its DNS name."""
    name = service_cluster(service, port)
    h2c = known is not None and known.app_protocol == AppProtocol.H2C
    message = cluster.Cluster(
        name=name,
        connect_timeout=seconds(settings.connect_timeout),
        lb_policy=cluster.ClusterLbPolicy.LEAST_REQUEST,
        typed_extension_protocol_options=(
            http2_options() if h2c else http1_options(settings.pod_idle_timeout)
        ),
        circuit_breakers=lifted_breakers(),
    )
    if known is not None:
        message.type = cluster.ClusterDiscoveryType.EDS
        message.eds_cluster_config = _eds()
        needs: tuple[tuple[str, str], ...] = ((ENDPOINT, name),)
    else:
        host = f"{service.name}.{service.namespace}.svc.{settings.cluster_domain}"
        message.type = cluster.ClusterDiscoveryType.STRICT_DNS
        message.dns_lookup_family = cluster.ClusterDnsLookupFamily.V4_PREFERRED
        message.load_assignment = _one_host(name, host, port)
        needs = ()
    return resource(CLUSTER, name, message, origin=f"Service {service}", needs=needs)


def _one_host(name: str, host: str, port: int) -> endpoint.ClusterLoadAssignment:
    socket = core.SocketAddress(address=host, port_value=port)
    only = endpoint.LbEndpoint(
        endpoint=endpoint.Endpoint(address=core.Address(socket_address=socket))
    )
    return endpoint.ClusterLoadAssignment(
        cluster_name=name, endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=[only])]
    )


def _eds() -> cluster.ClusterEdsClusterConfig:
    return cluster.ClusterEdsClusterConfig(
        eds_config=core.ConfigSource(
            ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3
        )
    )


def cluster_of_picker(picker: ServiceRef, known: ServicePort) -> Resource:
    """A cluster for a picker that is not ours: gRPC over TLS, or plain where its Service says so.

    Such pickers seldom answer health checks on this port, so that it takes connections is all that
    is asked. A dead one must be noticed before the next request, since Envoy can no longer fail
    open once a piece of a body was sent.
    """
    name = picker_cluster(picker)
    message = cluster.Cluster(
        name=name,
        type=cluster.ClusterDiscoveryType.EDS,
        eds_cluster_config=_eds(),
        connect_timeout=seconds(1),
        lb_policy=cluster.ClusterLbPolicy.LEAST_REQUEST,
        typed_extension_protocol_options=http2_options(),
        circuit_breakers=lifted_breakers(),
        health_checks=[
            core.HealthCheck(
                timeout=seconds(1),
                interval=seconds(2),
                no_traffic_interval=seconds(2),
                unhealthy_threshold=1,
                healthy_threshold=1,
                tcp_health_check=core.HealthCheckTcpHealthCheck(),
            )
        ],
        ignore_health_on_host_removal=True,
        common_lb_config=cluster.ClusterCommonLbConfig(
            healthy_panic_threshold=kind.Percent(value=0.0),
            # By default Envoy may keep back for a second what it knows of a host's health.
            update_merge_window=seconds(0),
        ),
        outlier_detection=cluster.OutlierDetection(
            split_external_local_origin_errors=True,
            consecutive_local_origin_failure=1,
            enforcing_consecutive_local_origin_failure=100,
            enforcing_consecutive_5xx=0,
            enforcing_consecutive_gateway_failure=0,
            enforcing_success_rate=0,
            enforcing_local_origin_success_rate=0,
            interval=seconds(1),
            base_ejection_time=seconds(5),
            max_ejection_time=seconds(10),
            max_ejection_percent=100,
        ),
    )
    if known.app_protocol != AppProtocol.H2C:
        from xds.translate.certificates import unverified_tls

        message.transport_socket = unverified_tls()
    return resource(
        CLUSTER, name, message, origin=f"Service {picker.name}", needs=((ENDPOINT, name),)
    )
