"""Who may read the pages in a browser.

The pages ask for no password, so they listen on loopback. What protects them there from a web site
that the operator happens to look at: no CORS header is ever sent, and a request under a foreign
name is refused (a site can point its own name at 127.0.0.1: DNS rebinding).
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inspection.answers import failure
from pools.addresses import is_ip

UNGUARDED = frozenset({"/metrics", "/healthz", "/readyz"})
"""Asked for by machines, under whatever name a cluster gives this server."""

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def is_trusted(host: str, names: Collection[str]) -> bool:
    """Whether a request with this Host header may be answered.

    Trusted are IP addresses, localhost, names without a dot (nobody on the internet can own one)
    and ``names``.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    name = name.rstrip(".")
    if not name:
        return False
    if is_ip(name) or "." not in name or name.endswith(".localhost"):
        return True
    return name in {known.lower().rstrip(".") for known in names}


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        host = Headers(scope=scope).get("host", "")
        if scope["path"] in UNGUARDED or is_trusted(host, self._names):
            await self._app(scope, receive, guarded)
            return
        refusal = failure(
            421,
            f"these pages are not served under the name {host!r}; use an IP address or localhost, "
            "or allow the name with --http-name",
        )
        await refusal(scope, receive, guarded)
