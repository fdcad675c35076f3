"""One server, one real Envoy that listens to it, and what they lead to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.xds.envoy import Envoy, envoy, until
from xds.config import XdsServerConfig
from xds.grouped import GroupedSnapshots
from xds.resource import Resource
from xds.server import XdsServer
from xds.status import StreamStatus


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    port = str(writer.get_extra_info("sockname")[1])
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(port)}\r\n\r\n"
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write((head + port).encode())
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    """The port of an HTTP server that says 200 to everything, and its port."""
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Scene:
    def __init__(self, server: XdsServer, snapshots: GroupedSnapshots, proxy: Envoy) -> None:
        self.server = server
        self.snapshots = snapshots
        self.envoy = proxy

    def publish(self, *resources: Resource, cause: str = "test") -> None:
        self.snapshots.publish("test", resources, cause)

    @property
    def stream(self) -> StreamStatus:
        return self.server.status().nodes[0].streams[0]

    async def converged(self, limit: float = 5.0) -> float:
        wanted = self.snapshots.snapshot(self.stream.node)

        def there() -> bool:
            newest = self.server.status().groups[0].history[0]
            return newest.snapshot is wanted and bool(newest.acked)

        return await until(there, "the node has acknowledged the newest snapshot", limit)

    async def active(self, name: str, limit: float = 5.0) -> float:
        async def there() -> bool:
            return name in await self.envoy.clusters()

        return await until(there, f"cluster {name} is active", limit)

    async def listens(self, name: str = "l") -> int:
        port = 0

        async def there() -> bool:
            nonlocal port
            port = await self.envoy.port(name)
            return port != 0

        await until(there, f"listener {name}")
        return port


@asynccontextmanager
async def scene(
    directory: Path,
    first: list[Resource],
    *,
    delta: bool,
    config: XdsServerConfig | None = None,
    node: str = "envoy-1",
    amend: Callable[[dict[str, Any]], None] = lambda _bootstrap: None,
) -> AsyncIterator[Scene]:
    """A server that publishes ``first``, and an Envoy that has all of it. The port of ``config``
    is not used."""
    snapshots = GroupedSnapshots(lambda node: node.cluster)
    server = XdsServer(snapshots, replace(config or XdsServerConfig(), port=0))
    snapshots.listen(server.refresh)
    await server.start()
    snapshots.publish("test", first, "start")
    try:
        async with envoy(directory, server.port, delta=delta, node=node, amend=amend) as proxy:
            here = Scene(server, snapshots, proxy)
            await until(lambda: bool(server.status().nodes), "Envoy connects")
            await here.converged(limit=10)
            yield here
    finally:
        await server.stop(0)
