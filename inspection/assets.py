"""The files of the web pages. They come with the packages and need nothing from elsewhere.

A server has its own views in ``web/`` of a package of its own; what they are made of is in
``inspection/web/``. Both are served under ``/assets/``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from inspection.answers import PageError

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SHELL = "index.html"
_UI = '<li><a href="/ui">/ui</a> (these pages)</li>'
_PAGES_OF_ALL = ("/debug/events", "/metrics", "/healthz", "/readyz")

_File = tuple[bytes, str, str]
"""Content, type and ETag."""


class WebPages:
    """The pages of one server."""

    def __init__(self, package: str, server: str, pages: Iterable[str]) -> None:
        """``package`` has their files in ``web/``; ``server`` is its name for people. ``pages``:
        paths of the server's own JSON, for who has no JavaScript."""
        self._package = package
        self._server = server
        self._pages = (*pages, *_PAGES_OF_ALL)
        self._files: dict[str, _File] | None = None

    def shell(self, request: Request) -> Response:
        """The page that all views live in."""
        return self.asset(request, _SHELL)

    def asset(self, request: Request, name: str) -> Response:
        """A file. Raises PageError."""
        if self._files is None:
            # A server whose pages nobody opens does not read them.
            self._files = _files_of(__package__) | _files_of(self._package)
            self._files[_SHELL] = self._filled(self._files[_SHELL][0])
        if name not in self._files:
            raise PageError(404, f"no file {name}")
        body, media_type, etag = self._files[name]
        headers = {"cache-control": "no-cache", "etag": etag}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=media_type, headers=headers)

    def _filled(self, shell: bytes) -> _File:
        links = [_UI, *(f'<li><a href="{path}">{path}</a></li>' for path in self._pages)]
        text = shell.decode().replace("{{server}}", self._server)
        return _file(text.replace("{{pages}}", "\n".join(links)).encode(), _TYPES[".html"])


def _files_of(package: str) -> dict[str, _File]:
    """By name."""
    found = {}
    for file in resources.files(package).joinpath("web").iterdir():
        media_type = _TYPES.get("." + file.name.rpartition(".")[2])
        if media_type is not None:
            found[file.name] = _file(file.read_bytes(), media_type)
    return found


def _file(body: bytes, media_type: str) -> _File:
    return body, media_type, f'"{hashlib.sha256(body).hexdigest()[:16]}"'
