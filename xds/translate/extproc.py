"""How Envoy asks the endpoint picker: the filter, what each route changes of it, and the cluster.

Requests stream to the picker in full duplex and back; responses never pass through it. How a
request ended reaches the picker by the gRPC access log instead (``listeners``).
"""

from __future__ import annotations

import re

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.extensions.retry.priority.previous_priorities.v3 import (
    PreviousPrioritiesConfig,
)
from envoy_data_plane.envoy.type import v3 as kind
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from pools.addresses import is_ip
from pools.contract import DESTINATION, LB_NAMESPACE, OWN_NAMESPACE, POOL_METADATA, SUBSET_NAMESPACE
from pools.model import (
    BodyMode,
    FailureMode,
)
from xds.resource import CLUSTER, Resource
from xds.translate.features import Features
from xds.translate.names import EXT_PROC_CLUSTER, picker_cluster
from xds.translate.pack import any_of, resource, seconds
from xds.translate.protocol import http2_options, lifted_breakers
from xds.translate.settings import ExtProcSettings, Pipe, SocketAddress, TargetAddress
from xds.translate.table import PoolTarget

_BODY_MODES = {
    BodyMode.FULL_DUPLEX_STREAMED: ext_proc.ProcessingModeBodySendMode.FULL_DUPLEX_STREAMED,
    BodyMode.BUFFERED: ext_proc.ProcessingModeBodySendMode.BUFFERED,
    BodyMode.STREAMED: ext_proc.ProcessingModeBodySendMode.STREAMED,
    BodyMode.NONE: ext_proc.ProcessingModeBodySendMode.NONE,
}


def ext_proc_filter(settings: ExtProcSettings, features: Features) -> ext_proc.ExternalProcessor:
    """Asks our picker. Of the ext-proc filters of a listener one is at work for a request: two in
    full duplex lose body bytes."""
    patterns = settings.settable_headers
    if not any(re.fullmatch(pattern, DESTINATION) for pattern in patterns):
        patterns = (DESTINATION, *patterns)
    message = _filter(settings, features)
    # Names are matched as a whole anyway; without the anchor the program is longer.
    names = f"^(?:{'|'.join(patterns)})"
    message.mutation_rules = HeaderMutationRules(
        disallow_all=True, allow_expression=matcher.RegexMatcher(regex=names)
    )
    return message


def pool_picker_filter(settings: ExtProcSettings, features: Features) -> ext_proc.ExternalProcessor:
    """Asks the pickers of pools that have one of their own: which one, routes say. They may change
    what Envoy lets pickers change by itself, in responses as well."""
    return _filter(settings, features)


def _filter(settings: ExtProcSettings, features: Features) -> ext_proc.ExternalProcessor:
    message = ext_proc.ExternalProcessor(
        grpc_service=core.GrpcService(
            envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=EXT_PROC_CLUSTER),
            timeout=seconds(0),
        ),
        processing_mode=_processing_mode(_body_mode(BodyMode.FULL_DUPLEX_STREAMED, features)),
        message_timeout=seconds(settings.message_timeout),
        forward_rules=ext_proc.HeaderForwardingRules(
            disallowed_headers=matcher.ListStringMatcher(
                patterns=[
                    matcher.StringMatcher(exact=name, ignore_case=True)
                    for name in settings.hidden_headers
                ]
            )
        ),
        metadata_options=ext_proc.MetadataOptions(
            receiving_namespaces=ext_proc.MetadataOptionsMetadataNamespaces(
                untyped=[LB_NAMESPACE, OWN_NAMESPACE]
            ),
            forwarding_namespaces=ext_proc.MetadataOptionsMetadataNamespaces(
                untyped=[LB_NAMESPACE, SUBSET_NAMESPACE]
            ),
        ),
    )
    if len(settings.targets) > 1 and message.grpc_service is not None:
        message.grpc_service.retry_policy = _next_replica()
    if features.status_on_error:
        message.status_on_error = kind.HttpStatus(code=kind.StatusCode.ServiceUnavailable)
    if features.content_length:
        message.allow_content_length_header = True
    return message


def _next_replica() -> core.RetryPolicy:
    """Until the health check has noticed, the next replica is asked where one does not answer."""
    return core.RetryPolicy(
        retry_on="connect-failure,refused-stream,unavailable,reset",
        num_retries=1,
        retry_priority=core.RetryPolicyRetryPriority(
            name="envoy.retry_priorities.previous_priorities",
            typed_config=any_of(PreviousPrioritiesConfig(update_frequency=1)),
        ),
    )


def per_route(
    target: PoolTarget, features: Features, *, upgrade: bool = False
) -> ext_proc.ExtProcPerRoute:
    """What the routes to a pool tell the picker, and what they do without it. ``upgrade``: for
    requests that become a WebSocket."""
    mode = BodyMode.NONE if upgrade and buffers(target, features) else _mode_of(target, features)
    overrides = ext_proc.ExtProcOverrides(
        grpc_initial_metadata=[core.HeaderValue(key=POOL_METADATA, value=str(target.pool))],
        processing_mode=_processing_mode(mode),
    )
    if target.picker is not None:
        overrides.grpc_service = core.GrpcService(
            envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=picker_cluster(target.picker)),
            timeout=seconds(0),
        )
        _show_responses(overrides.processing_mode, features)
    if features.route_failure_mode:
        overrides.failure_mode_allow = target.failure_mode is FailureMode.FAIL_OPEN
    return ext_proc.ExtProcPerRoute(overrides=overrides)


def buffers(target: PoolTarget, features: Features) -> bool:
    """Whether Envoy holds bodies until they end. That of a WebSocket never does."""
    return _mode_of(target, features) is BodyMode.BUFFERED


def _mode_of(target: PoolTarget, features: Features) -> BodyMode:
    opens = target.failure_mode is FailureMode.FAIL_OPEN and features.route_failure_mode
    mode = _body_mode(target.body_mode, features)
    if opens and not features.full_duplex_fail_open and mode is BodyMode.FULL_DUPLEX_STREAMED:
        return BodyMode.BUFFERED
    return mode


def without_pool(body_mode: BodyMode, features: Features) -> ext_proc.ExtProcPerRoute:
    """For a route whose pool the picker is to find. Without the picker there is no pool to open to,
    so it fails closed."""
    overrides = ext_proc.ExtProcOverrides(
        processing_mode=_processing_mode(_body_mode(body_mode, features))
    )
    if features.route_failure_mode:
        overrides.failure_mode_allow = False
    return ext_proc.ExtProcPerRoute(overrides=overrides)


def disabled() -> ext_proc.ExtProcPerRoute:
    """For routes that lead to no pool."""
    return ext_proc.ExtProcPerRoute(disabled=True)


def _body_mode(mode: BodyMode, features: Features) -> BodyMode:
    if mode is BodyMode.FULL_DUPLEX_STREAMED and not features.full_duplex:
        return BodyMode.BUFFERED
    return mode


def _processing_mode(mode: BodyMode) -> ext_proc.ProcessingMode:
    send, skip = (
        ext_proc.ProcessingModeHeaderSendMode.SEND,
        ext_proc.ProcessingModeHeaderSendMode.SKIP,
    )
    return ext_proc.ProcessingMode(
        request_header_mode=send,
        request_body_mode=_BODY_MODES[mode],
        # Full duplex demands the trailers: they may be what ends the body.
        request_trailer_mode=send if mode is BodyMode.FULL_DUPLEX_STREAMED else skip,
        response_header_mode=skip,
        response_body_mode=ext_proc.ProcessingModeBodySendMode.NONE,
        response_trailer_mode=skip,
    )


def _show_responses(mode: ext_proc.ProcessingMode | None, features: Features) -> None:
    """A picker that is not ours reads no access log: it learns from the response itself which
    endpoint served (the endpoint picker protocol has gateways report it), and when it ended."""
    assert mode is not None
    mode.response_header_mode = ext_proc.ProcessingModeHeaderSendMode.SEND
    if features.full_duplex:
        mode.response_body_mode = ext_proc.ProcessingModeBodySendMode.FULL_DUPLEX_STREAMED
        mode.response_trailer_mode = ext_proc.ProcessingModeHeaderSendMode.SEND


def picker_clusters(settings: ExtProcSettings) -> list[Resource]:
    """The clusters of the picker: one for the exchanges and, where there are replicas, one for the
    access log of each.

    Exchanges go to the first replica that is healthy, in the order in which they are listed: only a
    picker that makes all picks counts all that is under way. An access log stream stays where it
    was opened, also when the replica before it comes back; so every replica is told of every end,
    and takes from it what it had picked itself.
    """
    exchanges = _cluster(settings, EXT_PROC_CLUSTER, settings.targets)
    if len(settings.targets) == 1:
        return [exchanges]
    return [
        exchanges,
        *(
            _cluster(settings, name, (target,))
            for name, target in zip(log_clusters(settings), settings.targets, strict=True)
        ),
    ]


def picker_cluster_names(settings: ExtProcSettings) -> tuple[str, ...]:
    return tuple(dict.fromkeys((EXT_PROC_CLUSTER, *log_clusters(settings))))


def log_clusters(settings: ExtProcSettings) -> tuple[str, ...]:
    """Names of the clusters that access logs go to."""
    if len(settings.targets) == 1:
        return (EXT_PROC_CLUSTER,)
    return tuple(f"{EXT_PROC_CLUSTER}/{number}" for number, _ in enumerate(settings.targets))


def _cluster(settings: ExtProcSettings, name: str, targets: tuple[TargetAddress, ...]) -> Resource:
    """Its health check together with the panic threshold 0 makes a dead picker fail at once, open
    or closed as the pool says: with the default threshold requests would still be sent to it, and a
    full-duplex exchange fails closed once a body chunk was sent.

    A priority gives away nothing as long as one address of it is healthy: by Envoy's default factor
    of 1.4, one dead address of two would send 30 % of the exchanges on.
    """
    by_dns = settings.resolved_by_dns
    check = core.HealthCheck(
        timeout=seconds(settings.health_timeout),
        interval=seconds(settings.health_interval),
        no_traffic_interval=seconds(settings.health_interval),
        unhealthy_threshold=2,
        healthy_threshold=1,
        grpc_health_check=core.HealthCheckGrpcHealthCheck(
            service_name="envoy.service.ext_proc.v3.ExternalProcessor"
        ),
    )
    message = cluster.Cluster(
        name=name,
        type=cluster.ClusterDiscoveryType.STRICT_DNS
        if by_dns
        else cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=seconds(1),
        lb_policy=cluster.ClusterLbPolicy.LEAST_REQUEST,
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                endpoint.LocalityLbEndpoints(
                    priority=priority,
                    lb_endpoints=[
                        endpoint.LbEndpoint(endpoint=_endpoint(target, settings.health_port))
                    ],
                )
                for priority, target in enumerate(targets)
            ],
            policy=endpoint.ClusterLoadAssignmentPolicy(overprovisioning_factor=_KEEPS_ALL),
        ),
        typed_extension_protocol_options=http2_options(),
        circuit_breakers=lifted_breakers(),
        health_checks=[check],
        # An address that DNS no longer gives is gone, although it may still answer for a moment.
        ignore_health_on_host_removal=True,
        common_lb_config=cluster.ClusterCommonLbConfig(
            healthy_panic_threshold=kind.Percent(value=0.0),
            # By default Envoy may keep back for a second what it knows of a host's health.
            update_merge_window=seconds(0),
        ),
    )
    if by_dns:
        message.dns_lookup_family = cluster.ClusterDnsLookupFamily.V4_PREFERRED
    if settings.tls is not None:
        # Costs its import only where it is used.
        from xds.translate.certificates import picker_tls

        hosts = [t.host for t in targets if isinstance(t, SocketAddress) and not is_ip(t.host)]
        message.transport_socket = picker_tls(settings.tls, hosts)
    return resource(CLUSTER, name, message)


_KEEPS_ALL = 100_000
"""Percent: one healthy address of a thousand is enough for its priority."""


def _endpoint(target: TargetAddress, health_port: int | None) -> endpoint.Endpoint:
    if isinstance(target, Pipe):
        return endpoint.Endpoint(address=core.Address(pipe=core.Pipe(path=target.path)))
    message = endpoint.Endpoint(
        address=core.Address(
            socket_address=core.SocketAddress(address=target.host, port_value=target.port)
        )
    )
    if health_port is not None:
        message.health_check_config = endpoint.EndpointHealthCheckConfig(port_value=health_port)
    return message
