"""Which IP addresses a model server can have, and which only look like one."""

from __future__ import annotations

import ipaddress
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")


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
