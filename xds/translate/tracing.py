"""Traces by Envoy itself: OpenTelemetry over HTTP, with a child span for each ext-proc exchange."""

from __future__ import annotations

import betterproto2
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.trace import v3 as trace
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.tracers.opentelemetry.samplers import v3 as samplers
from envoy_data_plane.envoy.type.v3 import FractionalPercent, FractionalPercentDenominatorType

from pools.addresses import host_port, is_ip
from xds.resource import CLUSTER, Resource
from xds.translate.names import TRACE_CLUSTER
from xds.translate.pack import any_of, resource, seconds
from xds.translate.settings import SocketAddress


def tracing(collector: SocketAddress, share: float) -> hcm.HttpConnectionManagerTracing:
    """A span for each request of a client whose trace is sampled, and for a share of the others."""
    uri = f"http://{host_port(collector.host, collector.port)}/v1/traces"
    config = trace.OpenTelemetryConfig(
        service_name="envoy",
        sampler=_sampler(
            "parent_based",
            samplers.ParentBasedSamplerConfig(
                wrapped_sampler=_sampler(
                    "trace_id_ratio_based",
                    samplers.TraceIdRatioBasedSamplerConfig(
                        sampling_percentage=FractionalPercent(
                            numerator=round(share * 1_000_000),
                            denominator=FractionalPercentDenominatorType.MILLION,
                        )
                    ),
                )
            ),
        ),
        http_service=core.HttpService(
            http_uri=core.HttpUri(uri=uri, cluster=TRACE_CLUSTER, timeout=seconds(5))
        ),
    )
    return hcm.HttpConnectionManagerTracing(
        # The sampler decides. Envoy's own percentages would overrule what a client's trace says.
        spawn_upstream_span=True,
        provider=trace.TracingHttp(name="envoy.tracers.opentelemetry", typed_config=any_of(config)),
    )


def _sampler(name: str, config: betterproto2.Message) -> core.TypedExtensionConfig:
    return core.TypedExtensionConfig(
        name=f"envoy.tracers.opentelemetry.samplers.{name}", typed_config=any_of(config)
    )


def collector_cluster(collector: SocketAddress) -> Resource:
    by_ip = is_ip(collector.host)
    message = cluster.Cluster(
        name=TRACE_CLUSTER,
        type=cluster.ClusterDiscoveryType.STATIC
        if by_ip
        else cluster.ClusterDiscoveryType.STRICT_DNS,
        connect_timeout=seconds(1),
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=TRACE_CLUSTER,
            endpoints=[
                endpoint.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint.LbEndpoint(
                            endpoint=endpoint.Endpoint(
                                address=core.Address(
                                    socket_address=core.SocketAddress(
                                        address=collector.host, port_value=collector.port
                                    )
                                )
                            )
                        )
                    ]
                )
            ],
        ),
    )
    if not by_ip:
        message.dns_lookup_family = cluster.ClusterDnsLookupFamily.V4_PREFERRED
    return resource(CLUSTER, TRACE_CLUSTER, message)
