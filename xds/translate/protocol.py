"""How Envoy speaks to what is behind it: HTTP versions, and circuit breakers out of the way."""

from __future__ import annotations

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream
from envoy_data_plane.google.protobuf import Any

from xds.translate.pack import any_of, seconds

_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def http1_options(idle_timeout: float) -> dict[str, Any]:
    """HTTP/1.1 with connections that are closed after ``idle_timeout`` seconds without use."""
    return _options(
        upstream.HttpProtocolOptionsExplicitHttpConfig(
            http_protocol_options=core.Http1ProtocolOptions()
        ),
        idle_timeout,
    )


def http2_options(idle_timeout: float | None = None) -> dict[str, Any]:
    """HTTP/2 without negotiation, with pings that find a dead peer."""
    return _options(
        upstream.HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=core.Http2ProtocolOptions(
                connection_keepalive=core.KeepaliveSettings(
                    interval=seconds(30), timeout=seconds(5)
                )
            )
        ),
        idle_timeout,
    )


def _options(
    config: upstream.HttpProtocolOptionsExplicitHttpConfig, idle_timeout: float | None
) -> dict[str, Any]:
    message = upstream.HttpProtocolOptions(explicit_http_config=config)
    if idle_timeout is not None:
        message.common_http_protocol_options = core.HttpProtocolOptions(
            idle_timeout=seconds(idle_timeout)
        )
    return {_OPTIONS: any_of(message)}


def lifted_breakers() -> cluster.CircuitBreakers:
    """Limits that nobody reaches. Envoy's defaults (1,024 requests, 3 retries) skip the picker or
    fail requests under the load of one busy pool; admission is the picker's business."""
    return cluster.CircuitBreakers(
        thresholds=[
            cluster.CircuitBreakersThresholds(
                max_connections=1_000_000,
                max_pending_requests=1_000_000,
                max_requests=1_000_000,
                max_retries=1_000,
            )
        ]
    )
