"""Asking an Envoy's admin interface what it has.

Whoever may read these pages could make the server fetch URLs with it, so only loopback addresses
and those that the operator allowed are asked, only for a config dump, and only a config dump is
ever shown.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Collection
from urllib.parse import urlsplit

from inspection.answers import PageError
from pools.addresses import host_port, is_ip

PATH = "/config_dump?include_eds"
_LIMIT = 5.0
"""Seconds for the whole answer."""
_MOST_BYTES = 256 * 1024 * 1024


def admin_address(url: str, allowed: Collection[str] = ()) -> str:
    """``host:port`` of an Envoy admin that may be asked. Raises PageError for any other.

    ``allowed``: further addresses, as ``host:port``.
    """
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host, port = parts.hostname or "", parts.port or 80
    except ValueError as error:
        raise PageError(400, f"admin={url}: {error}") from error
    if parts.scheme != "http" or parts.username or parts.path not in ("", "/") or parts.query:
        raise PageError(400, f"admin={url}: write http://127.0.0.1:19000")
    if host == "localhost":
        host = "127.0.0.1"  # Whatever a resolver says.
    address = host_port(host, port)
    if (is_ip(host) and ipaddress.ip_address(host).is_loopback) or address in allowed:
        return address
    raise PageError(
        403,
        f"this server asks no Envoy admin at {address}: it is not on this machine. Start the "
        f"server with --envoy-admin {address}, or run `poolpilot diff --admin URL` where it can "
        "be reached",
    )


async def fetch_dump(address: str) -> dict[str, object]:
    """The config dump of the Envoy whose admin listens at ``host:port``. Raises PageError."""
    # A server that is never asked this starts without it.
    import aiohttp

    url = f"http://{address}{PATH}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_LIMIT)) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            # Nothing of an answer that is not a dump is passed on, its status included.
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise PageError(502, f"the config dump at {address} is too large to compare")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        reason = str(error) or "no answer in time"
        raise PageError(502, f"the Envoy admin at {address} does not answer: {reason}") from error
    try:
        document = await asyncio.to_thread(json.loads, body)
    except ValueError:
        document = None
    if not isinstance(document, dict) or "configs" not in document:
        raise PageError(502, f"what listens at {address} is not an Envoy admin")
    return document
