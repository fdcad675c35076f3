"""Pages by path, as an application that only those may read who the guard lets through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from inspection.answers import PageError, failure
from inspection.guard import Guard

Page = Callable[[Request], Awaitable[Response]]
"""May raise PageError, which becomes an answer that says what to ask for instead."""


def application_of(pages: Mapping[str, Page], names: Collection[str]) -> Starlette:
    """``pages``: by path, as Starlette writes them. ``names``: see :class:`Guard`."""
    return Starlette(
        routes=[Route(path, _explained(page)) for path, page in pages.items()],
        middleware=[Middleware(Guard, names=tuple(names))],
    )


def _explained(page: Page) -> Page:
    async def handle(request: Request) -> Response:
        try:
            return await page(request)
        except PageError as error:
            return failure(error.status, str(error))

    return handle
