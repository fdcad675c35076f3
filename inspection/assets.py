"""The files of the web pages. They come with the packages and need nothing from elsewhere.

A server has its own views in ``web/`` of a package of its own; what they are made of is in
``inspection/web/``. Both are served under ``/assets/``.
"""

from __future__ import annotations

import hashlib
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


class WebPages:
    """The pages of one server."""

    def __init__(self, package: str) -> None:
        """``package`` has their files in ``web/``."""
        self._package = package
        self._files: dict[str, tuple[bytes, str, str]] | None = None

    def shell(self, request: Request) -> Response:
        """The page that all views live in."""
        return self.asset(request, _SHELL)

    def asset(self, request: Request, name: str) -> Response:
        """A file. Raises PageError."""
        if self._files is None:
            # A server whose pages nobody opens does not read them.
            self._files = _files_of(__package__) | _files_of(self._package)
        if name not in self._files:
            raise PageError(404, f"no file {name}")
        body, media_type, etag = self._files[name]
        headers = {"cache-control": "no-cache", "etag": etag}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=media_type, headers=headers)


def _files_of(package: str) -> dict[str, tuple[bytes, str, str]]:
    """Content, type and ETag by name."""
    found = {}
    for file in resources.files(package).joinpath("web").iterdir():
        media_type = _TYPES.get("." + file.name.rpartition(".")[2])
        if media_type is not None:
            body = file.read_bytes()
            found[file.name] = body, media_type, f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return found
