"""What tests and demos ask of a pod: to fail, to be unhealthy, to start anew, to tell its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web

from sim.failures import Orders
from sim.openai import ApiError
from sim.replies import json_reply, read_json, refusing


class Pod(Protocol):
    """What is changed and shown here."""

    orders: Orders
    healthy: bool

    @property
    def recent(self) -> Sequence[dict[str, Any]]: ...
    def state(self) -> dict[str, Any]: ...
    def reset(self) -> None: ...


class _FailBody(msgspec.Struct, forbid_unknown_fields=True):
    fail: str | None = None  # None: no more
    on: str = "inference"
    rate: float = 1.0
    count: int | None = None


class _HealthBody(msgspec.Struct, forbid_unknown_fields=True):
    healthy: bool


class Admin:
    """The handlers under /admin of one pod."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/admin/fail", self._fail),
            web.post("/admin/health", self._health),
            web.post("/admin/reset", self._reset),
            web.get("/admin/state", self._state),
            web.get("/admin/requests", self._requests),
        ]

    @refusing
    async def _fail(self, request: web.Request) -> web.Response:
        asked = await read_json(request, _FailBody)
        orders = self._pod.orders
        try:
            if asked.fail is None:
                orders.withdraw(asked.on)
            else:
                orders.place(asked.on, asked.fail, asked.rate, asked.count)
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        return json_reply(self._pod.state())

    @refusing
    async def _health(self, request: web.Request) -> web.Response:
        self._pod.healthy = (await read_json(request, _HealthBody)).healthy
        return json_reply(self._pod.state())

    async def _reset(self, request: web.Request) -> web.Response:
        self._pod.reset()
        return json_reply(self._pod.state())

    async def _state(self, request: web.Request) -> web.Response:
        return json_reply(self._pod.state())

    async def _requests(self, request: web.Request) -> web.Response:
        return json_reply(list(self._pod.recent))
