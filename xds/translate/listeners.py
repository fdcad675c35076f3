"""Listeners: where clients connect, and the filters that every request passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import (
    v3 as early,
)
from envoy_data_plane.google.protobuf import Any

from pools.contract import DESTINATION, EXPLANATION_HEADER, POOL_HEADER, SERVED
from pools.model import ObjectName
from xds.resource import CLUSTER, LISTENER, ROUTE, SECRET, Resource
from xds.translate.accesslogs import access_logs, error_bodies
from xds.translate.extproc import ext_proc_filter, picker_cluster_names, pool_picker_filter
from xds.translate.features import Features
from xds.translate.names import EXT_PROC_FILTER, POOL_PICKER_FILTER, certificate_secret
from xds.translate.pack import any_of, resource, seconds
from xds.translate.settings import MEBIBYTE, TranslateSettings
from xds.translate.usage import usage_filters

_CLIENTS_MAY_NOT_SEND = (DESTINATION, SERVED, POOL_HEADER, EXPLANATION_HEADER)


@dataclass(frozen=True, slots=True)
class Chain:
    """What of a port's connections share their routes: all of them, or with TLS those that were
    opened for one listener's name."""

    routes: str
    """Name of the route configuration."""
    hostname: str | None = None
    """Which name a TLS client must have asked for; None: any, or none."""
    certificates: tuple[ObjectName, ...] = ()
    """Empty: no TLS."""


def http_listener(
    name: str,
    port: int,
    chains: Sequence[Chain],
    features: Features,
    settings: TranslateSettings,
    *,
    pool_pickers: bool = False,
    origin: str = "",
) -> Resource:
    """An HTTP/1.1 and HTTP/2 listener whose routes come over RDS and certificates over SDS, so that
    no change of a pool, route or certificate ever drains its connections. ``pool_pickers``: whether
    pools may have pickers of their own."""
    tls = any(chain.certificates for chain in chains)
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
    )
    if tls:
        message.listener_filters = [
            listener.ListenerFilter(
                name="envoy.filters.listener.tls_inspector", typed_config=any_of(TlsInspector())
            )
        ]
    shared = _manager(features, settings, pool_pickers=pool_pickers)
    message.filter_chains = [_chain(chain, shared) for chain in chains]
    return resource(
        LISTENER,
        name,
        message,
        origin=origin,
        needs=(
            *((ROUTE, chain.routes) for chain in chains),
            *(
                (SECRET, certificate_secret(one))
                for one in dict.fromkeys(one for chain in chains for one in chain.certificates)
            ),
            *((CLUSTER, one) for one in picker_cluster_names(settings.ext_proc)),
        ),
    )


def _chain(chain: Chain, shared: bytes) -> listener.FilterChain:
    """``shared``: what the connection managers of all chains have in common."""
    rds = hcm.Rds(
        config_source=core.ConfigSource(
            ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3
        ),
        route_config_name=chain.routes,
    )
    manager = any_of(hcm.HttpConnectionManager(rds=rds))
    message = listener.FilterChain(
        filters=[
            listener.Filter(
                name="envoy.filters.network.http_connection_manager",
                typed_config=Any(type_url=manager.type_url, value=shared + manager.value),
            )
        ]
    )
    if chain.certificates:
        message.name = chain.routes
        message.filter_chain_match = listener.FilterChainMatch(
            transport_protocol="tls", server_names=[chain.hostname] if chain.hostname else []
        )
        # Its messages take long to import, and not everyone needs them.
        from xds.translate.certificates import downstream_tls

        message.transport_socket = downstream_tls(chain.certificates)
        message.transport_socket_connect_timeout = seconds(_HANDSHAKE_TIMEOUT)
    return message


_HANDSHAKE_TIMEOUT = 10.0


def _manager(features: Features, settings: TranslateSettings, *, pool_pickers: bool) -> bytes:
    message = hcm.HttpConnectionManager(
        stat_prefix="inference",
        http_filters=_filters(features, settings, pool_pickers=pool_pickers),
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
    return bytes(message)


def _filters(
    features: Features, settings: TranslateSettings, *, pool_pickers: bool
) -> list[hcm.HttpFilter]:
    filters = [
        *usage_filters(features, settings),
        hcm.HttpFilter(
            name=EXT_PROC_FILTER,
            typed_config=any_of(ext_proc_filter(settings.ext_proc, features)),
        ),
    ]
    if pool_pickers and features.pool_pickers:
        filters.append(
            hcm.HttpFilter(
                name=POOL_PICKER_FILTER,
                typed_config=any_of(pool_picker_filter(settings.ext_proc, features)),
                disabled=True,
            )
        )
    filters.append(hcm.HttpFilter(name="envoy.filters.http.router", typed_config=any_of(Router())))
    return filters
