"""gRPC as the xDS server uses it: options, addresses, and the discovery services as methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from pools.addresses import host_port
from xds.config import XdsServerConfig
from xds.services import Service
from xds.tls import CertificateFiles

Context = grpc.aio.ServicerContext[Any, Any]
Serve = Callable[[Service, bool, Context], Awaitable[None]]
"""Serves one stream of a service; the second argument is whether it speaks Delta."""


def options(config: XdsServerConfig) -> list[tuple[str, int]]:
    chosen = [
        # With it, a second server on this port would silently take half of the clients.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.limits.message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", int(config.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(config.keepalive_timeout_seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # Envoy's own keepalive pings must not count as an attack.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
        ("grpc.http2.max_ping_strikes", 0),
    ]
    if config.max_connection_age_seconds is not None:
        chosen.append(("grpc.max_connection_age_ms", int(config.max_connection_age_seconds * 1000)))
        # Streams of xDS never end by themselves: to wait for them longer only puts it off.
        chosen.append(("grpc.max_connection_age_grace_ms", 500))
    return chosen


def listen(server: grpc.aio.Server, config: XdsServerConfig) -> int:
    """Returns the port. Raises OSError where the address cannot be had, TlsError for bad
    certificates."""
    address = host_port(config.host, config.port)
    try:
        if config.tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, CertificateFiles(config.tls).credentials())
    except RuntimeError as error:
        raise OSError(
            f"the xDS server cannot listen on {address}: is the port in use, or is the address "
            "not one of this machine? Choose another with the port or host setting"
        ) from error


def service_handler(service: Service, serve: Serve) -> grpc.GenericRpcHandler[bytes, bytes]:
    def method(delta: bool) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def handle(_requests: object, context: Context) -> None:
            await serve(service, delta, context)

        return grpc.stream_stream_rpc_method_handler(handle)

    methods = {service.delta: method(True)}
    if service.sotw is not None:
        methods[service.sotw] = method(False)
    return grpc.method_handlers_generic_handler(service.name, methods)


def peer_address(context: Context) -> str:
    """``ipv4:10.0.0.1:1234`` without the port."""
    peer = context.peer()
    head, colon, port = peer.rpartition(":")
    return head if colon and port.isdigit() else peer
