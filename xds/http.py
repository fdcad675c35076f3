"""Where the pages beside the xDS server are served, and to whom."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from pools.addresses import host_port


@dataclass(frozen=True, slots=True)
class HttpConfig:
    host: str = "127.0.0.1"
    """These pages show the whole configuration to whoever reaches them."""
    port: int = 18001
    """0: any free one."""
    names: tuple[str, ...] = ()
    """Host names, beside localhost, under which the pages may be asked for."""
    envoy_admins: tuple[str, ...] = ()
    """Envoy admin addresses (``host:port``), beside those on loopback, that the pages may ask."""


def bind(config: HttpConfig) -> socket.socket:
    """Take the port. Raises OSError, naming the address, when it is taken."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((config.host, config.port))
    except OSError as error:
        bound.close()
        where = host_port(config.host, config.port)
        raise OSError(error.errno, f"HTTP on {where}: {error.strerror}") from error
    return bound
