"""Addresses: as text, ``host:port`` with brackets around IPv6, and which of them a model server can
have."""

from __future__ import annotations

import ipaddress
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")


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


def no_host(address: str) -> str:
    """Why nobody can have this address; empty: a host can. Raises ValueError for what is none."""
    ip = _plain(address)
    if ip.is_unspecified:
        return "is unspecified"
    if ip.is_multicast:
        return "is a multicast address"
    if ip == _BROADCAST:
        return "is the broadcast address"
    return ""


def near(address: str) -> str:
    """Why this address means another host, or another service, for whoever uses it: that of the
    user's own machine or link. Empty: it does not. Raises ValueError for what is no address.

    What the Kubernetes API server refuses in EndpointSlices (``ValidateNonSpecialIP``): requests to
    them come from Envoy, and would reach its own admin port or a cloud's metadata service.
    """
    ip = _plain(address)
    if ip.is_loopback:
        return "is a loopback address"
    if ip.is_link_local:
        return "is a link-local address"
    return ""


def _plain(address: str) -> IPAddress:
    """``::ffff:127.0.0.1`` is 127.0.0.1 to the kernel, but not to Python."""
    ip = ipaddress.ip_address(address)
    return (isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped) or ip
