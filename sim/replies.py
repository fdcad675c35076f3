"""JSON in and out of the pod's handlers."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from sim.openai import ApiError

JSON = "application/json"

_Self = TypeVar("_Self")
_T = TypeVar("_T")
_Handler = Callable[[_Self, web.Request], Awaitable[web.StreamResponse]]


def refusing(handler: _Handler[_Self]) -> _Handler[_Self]:
    """Turns an ApiError of the handler into its answer."""

    @functools.wraps(handler)
    async def wrapped(self: _Self, request: web.Request) -> web.StreamResponse:
        try:
            return await handler(self, request)
        except ApiError as error:
            return web.Response(status=error.status, body=error.body, content_type=JSON)

    return wrapped


async def read_json(request: web.Request, kind: type[_T]) -> _T:
    """The body as a struct. ApiError (400) says what is wrong with it."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"Invalid request body: {error}") from None


def json_reply(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type=JSON)
