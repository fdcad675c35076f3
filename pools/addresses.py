"""Addresses as text: ``host:port``, with brackets around IPv6."""

from __future__ import annotations

import ipaddress


def is_ip(address: str) -> bool:
    """Whether ``address`` is a literal IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def host_port(host: str, port: int) -> str:
    """Join the two, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text: str) -> tuple[str, int]:
    """The reverse of :func:`host_port`. Host and port may be empty and 0, where that means any.

    :raises ValueError: it is neither ``host:port`` nor ``[ipv6]:port``.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, [address]:port")
    if not colon or not port.isascii() or not port.isdigit():
        raise ValueError(f"{text!r} is not of the form host:port, or [address]:port for IPv6")
    if int(port) > 65_535:
        raise ValueError(f"{text!r}: ports go from 1 to 65535")
    return host, int(port)
