"""The loop that holds a Lease, on a server in memory and by virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from pools.kubernetes.connection import ApiError, Connection, UnreachableError
from pools.kubernetes.credentials import Credentials
from pools.kubernetes.status.election import DURATION, Election
from pools.kubernetes.status.elector import FORBIDDEN_RETRY, Elector

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@dataclass
class Server:
    """One Lease, with resource versions."""

    lease: dict[str, Any] | None = None
    version: int = 0
    failures: list[Exception] = field(default_factory=list)
    """Of the next requests."""
    requests: int = 0
    hangs: bool = False

    async def answer(self, method: str, document: dict[str, Any] | None) -> bytes:
        self.requests += 1
        if self.hangs:
            await asyncio.sleep(3600)
        if self.failures:
            raise self.failures.pop(0)
        if document is not None:
            there = self.lease["metadata"]["resourceVersion"] if self.lease else None
            if document["metadata"].get("resourceVersion") != there:
                raise ApiError(409, "Conflict", "somebody was quicker")
            self.version += 1
            metadata = {**document["metadata"], "resourceVersion": str(self.version)}
            self.lease = {**document, "metadata": metadata}
        if self.lease is None:
            raise ApiError(404, "NotFound", "no such lease")
        return json.dumps(self.lease).encode()

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""


class ToServer(Connection):
    def __init__(self, server: Server) -> None:
        super().__init__(Credentials())
        self._server = server

    async def get(self, path: str, parameters: Any = None) -> bytes:
        return await self._server.answer("GET", None)

    async def send(self, method: str, path: str, body: bytes, content_type: str = "") -> bytes:
        return await self._server.answer(method, json.loads(body))


@asynccontextmanager
async def replica(server: Server, identity: str) -> AsyncIterator[Elector]:
    elector = Elector(
        ToServer(server),
        Election(identity),
        "poolpilot",
        "lease",
        clock=asyncio.get_running_loop().time,
        now=lambda: NOW,
        on_change=lambda: None,
    )
    task = asyncio.create_task(elector.run())
    try:
        yield elector
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


pytestmark = pytest.mark.looptime


async def test_it_leads_renews_and_gives_the_lease_back() -> None:
    server = Server()
    async with replica(server, "one") as one:
        await asyncio.sleep(1)
        assert one.leads()
        assert server.holder == "one"
        before = server.version
        for _ in range(60):
            await asyncio.sleep(1)
            assert one.leads()
        assert server.version - before == 12, "every 5 seconds"
    assert server.holder == ""


@pytest.mark.parametrize(
    "error", [UnreachableError("reset"), ApiError(500, "InternalError", "etcd")]
)
async def test_one_renewal_that_fails_does_not_cost_the_lease(error: Exception) -> None:
    server = Server()
    async with replica(server, "one") as one:
        await asyncio.sleep(1)
        server.failures = [error]
        for _ in range(30):
            await asyncio.sleep(1)
            assert one.leads()
        assert not server.failures


async def test_a_server_that_does_not_answer_ends_the_lead_in_time() -> None:
    server = Server()
    async with replica(server, "one") as one:
        await asyncio.sleep(1)
        server.hangs = True
        await asyncio.sleep(10)
        assert not one.leads()
        server.hangs = False
        await asyncio.sleep(5)
        assert one.leads(), "nobody took it meanwhile"


async def test_the_second_waits_and_follows_at_once_when_the_first_ends() -> None:
    server = Server()
    async with replica(server, "two") as two:
        async with replica(server, "one") as one:
            await asyncio.sleep(40)
            assert one.leads() != two.leads()
            leader = "one" if one.leads() else "two"
            assert server.holder == leader
        await asyncio.sleep(3)
        assert two.leads()


async def test_the_second_follows_a_first_that_vanished() -> None:
    server = Server()
    async with replica(server, "one"):
        await asyncio.sleep(1)
        server.failures = [UnreachableError("killed")]  # of its last words
    assert server.holder == "one"
    async with replica(server, "two") as two:
        await asyncio.sleep(DURATION - 1)
        assert not two.leads()
        await asyncio.sleep(3)
        assert two.leads()


async def test_what_is_forbidden_is_not_asked_for_again_and_again() -> None:
    server = Server(failures=[ApiError(403, "Forbidden", "no leases for you")] * 100)
    async with replica(server, "one") as one:
        await asyncio.sleep(FORBIDDEN_RETRY * 2.5)
        assert not one.leads()
        assert server.requests == 3
