"""Hostnames of listeners and routes, with wildcards as the Gateway API has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

ANY_HOST = "*"


def covers(pattern: str, hostname: str) -> bool:
    """Whether every request for ``hostname`` (which may be a wildcard itself) is also one for
    ``pattern``. A wildcard stands for one or more labels."""
    if pattern in (ANY_HOST, hostname):
        return True
    return pattern.startswith("*.") and hostname.removeprefix("*").endswith(pattern[1:])


def covering(hostname: str) -> Iterator[str]:
    """Every pattern that covers ``hostname``, each once."""
    yield hostname
    if hostname != ANY_HOST:
        yield ANY_HOST
    rest = hostname.removeprefix("*.") if hostname.startswith("*.") else hostname
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"


def shared_hostname(one: str, other: str) -> str | None:
    """The more specific of two hostnames if they have requests in common, else None."""
    one, other = one.lower(), other.lower()
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def share_any(hostnames: Iterable[str], other: str | None) -> bool:
    """Whether one of a route's hostnames (none: any) has requests in common with a listener's
    (None: any)."""
    return any(
        shared_hostname(hostname or ANY_HOST, other or ANY_HOST) is not None
        for hostname in (tuple(hostnames) or (ANY_HOST,))
    )
