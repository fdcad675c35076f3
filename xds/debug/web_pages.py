"""The files of the web pages. They come with the package and need nothing from elsewhere."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from xds.debug.answers import PageError

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SHELL = "index.html"


def shell(request: Request) -> Response:
    """The page that all views live in."""
    return asset(request, _SHELL)


def asset(request: Request, name: str) -> Response:
    """A file of the web pages. Raises PageError."""
    files = _files()
    if name not in files:
        raise PageError(404, f"no file {name}")
    body, media_type, etag = files[name]
    headers = {"cache-control": "no-cache", "etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    found = {}
    for file in resources.files("xds.debug").joinpath("web").iterdir():
        media_type = _TYPES.get("." + file.name.rpartition(".")[2])
        if media_type is not None:
            body = file.read_bytes()
            found[file.name] = body, media_type, f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return found
