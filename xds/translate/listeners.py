"""Listeners: where clients connect, and the filters that every request passes."""

from __future__ import annotations

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import (
    v3 as early,
)

from xds.resource import CLUSTER, LISTENER, ROUTE, Resource
from xds.translate.accesslogs import access_logs, error_bodies
from xds.translate.extproc import ext_proc_filter, picker_cluster_names
from xds.translate.features import Features
from xds.translate.names import (
    DESTINATION,
    EXPLANATION_HEADER,
    EXT_PROC_FILTER,
    POOL_HEADER,
    SERVED,
)
from xds.translate.pack import any_of, resource, seconds
from xds.translate.settings import MEBIBYTE, TranslateSettings
from xds.translate.usage import usage_filters

_CLIENTS_MAY_NOT_SEND = (DESTINATION, SERVED, POOL_HEADER, EXPLANATION_HEADER)


def http_listener(
    name: str,
    port: int,
    route_configuration: str,
    features: Features,
    settings: TranslateSettings,
    *,
    origin: str = "",
) -> Resource:
    """A plain-text HTTP/1.1 and HTTP/2 listener whose routes come over RDS, so that no change of a
    pool or route ever drains its connections."""
    message = listener.Listener(
        name=name,
        address=core.Address(
            socket_address=core.SocketAddress(
                address=settings.listen_address,
                port_value=port,
                ipv4_compat=settings.listen_address == "::",
            )
        ),
        enable_reuse_port=settings.reuse_port,
        per_connection_buffer_limit_bytes=(
            MEBIBYTE if features.request_body_limit else settings.body_limit
        ),
        filter_chains=[
            listener.FilterChain(
                filters=[
                    listener.Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=any_of(_manager(route_configuration, features, settings)),
                    )
                ]
            )
        ],
    )
    return resource(
        LISTENER,
        name,
        message,
        origin=origin,
        needs=(
            (ROUTE, route_configuration),
            *((CLUSTER, one) for one in picker_cluster_names(settings.ext_proc)),
        ),
    )


def _manager(
    route_configuration: str, features: Features, settings: TranslateSettings
) -> hcm.HttpConnectionManager:
    message = hcm.HttpConnectionManager(
        stat_prefix="inference",
        rds=hcm.Rds(
            config_source=core.ConfigSource(
                ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3
            ),
            route_config_name=route_configuration,
        ),
        http_filters=_filters(features, settings),
        access_log=access_logs(features, settings),
        local_reply_config=error_bodies(features),
        request_timeout=seconds(0),
        stream_idle_timeout=seconds(settings.stream_idle_timeout),
        upgrade_configs=[hcm.HttpConnectionManagerUpgradeConfig(upgrade_type="websocket")],
        use_remote_address=True,
        xff_num_trusted_hops=settings.trusted_proxies,
        # Nobody is internal: x-envoy-* headers of clients change no retries and no time-outs.
        internal_address_config=hcm.HttpConnectionManagerInternalAddressConfig(
            unix_sockets=False,
            cidr_ranges=[core.CidrRange(address_prefix="255.255.255.255", prefix_len=32)],
        ),
        generate_request_id=True,
        preserve_external_request_id=True,
        normalize_path=True,
        merge_slashes=False,
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=1024,
            initial_stream_window_size=MEBIBYTE,
            initial_connection_window_size=16 * MEBIBYTE,
        ),
    )
    if settings.trace_collector is not None and features.traces:
        # Its messages take long to import, and few need them.
        from xds.translate.tracing import tracing

        message.tracing = tracing(settings.trace_collector, settings.trace_share)
    if features.early_header_mutation:
        message.early_header_mutation_extensions = [
            core.TypedExtensionConfig(
                name="envoy.http.early_header_mutation.header_mutation",
                typed_config=any_of(
                    early.HeaderMutation(
                        mutations=[HeaderMutation(remove=name) for name in _CLIENTS_MAY_NOT_SEND]
                    )
                ),
            )
        ]
    return message


def _filters(features: Features, settings: TranslateSettings) -> list[hcm.HttpFilter]:
    return [
        *usage_filters(features, settings),
        hcm.HttpFilter(
            name=EXT_PROC_FILTER,
            typed_config=any_of(ext_proc_filter(settings.ext_proc, features)),
        ),
        hcm.HttpFilter(name="envoy.filters.http.router", typed_config=any_of(Router())),
    ]
