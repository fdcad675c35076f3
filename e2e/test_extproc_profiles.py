"""Profiles edited while requests flow through a real Envoy."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from e2e.static_envoy import configuration, eventually, running_envoy
from e2e.test_extproc_picks import ModelServer, Worlds
from extproc.config.settings import PickerConfig, TransportKind
from extproc.picking.scraping import ScrapeSettings
from extproc.service.server import EndpointPickerServer

HEAD = "apiVersion: poolpilot.dev/v1alpha1\nkind: SchedulingProfiles\n"
SYSTEM = "All that the assistant has to know, at some length. " * 60


async def test_profiles_change_under_load_and_no_request_fails(tmp_path: Path) -> None:
    profiles = tmp_path / "profiles.yaml"
    profiles.write_text(HEAD)
    async with AsyncExitStack() as stack:
        pods = [ModelServer() for _ in range(3)]
        for each in pods:
            await stack.enter_async_context(each.pod.running())
        worlds = Worlds()
        config = PickerConfig(
            address="127.0.0.1:0",
            health_address=None,
            http_address="127.0.0.1:0",
            transport=TransportKind.NATIVE,
            scrape=ScrapeSettings(interval=0.05),
            profiles=profiles,
        )
        server = EndpointPickerServer(worlds, config)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        worlds.give(*(each.endpoint for each in pods))
        fleet = server.director.fleet
        await eventually(lambda: len(fleet.members) == 3)
        [view] = fleet.pools.values()
        envoy = await stack.enter_async_context(
            running_envoy(
                configuration([each.pod.address for each in pods], server.address), tmp_path
            )
        )
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        )
        url = f"{envoy.listeners['plain']}/full_duplex_streamed/v1/chat/completions"
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hi"}]
        statuses: Counter[int] = Counter()
        stopping = asyncio.Event()

        async def ask() -> str:
            async with http.post(url, json={"model": "llama", "messages": messages}) as response:
                statuses[response.status] += 1
                return str((await response.json()).get("served_by"))

        async def client() -> None:
            while not stopping.is_set():
                await ask()

        async def goes_on() -> None:
            """Twenty more requests were answered."""
            before = statuses.total()
            await eventually(lambda: statuses.total() >= before + 20)

        # One prompt: by default it stays with one pod.
        assert len({await ask() for _ in range(10)}) == 1
        clients = [asyncio.create_task(client()) for _ in range(4)]
        for name in ("round-robin", "weighted", "random", "default"):
            profiles.write_text(f"{HEAD}default: {name}\n")
            await eventually(lambda name=name: view.profile.name == name)  # type: ignore[misc]
            await goes_on()
            profiles.write_text(f"{HEAD}default: nobody\n")
            await goes_on()
            assert view.profile.name == name
        profiles.write_text(f"{HEAD}default: round-robin\n")
        await eventually(lambda: view.profile.name == "round-robin")
        stopping.set()
        await asyncio.gather(*clients)
        assert len({await ask() for _ in range(3)}) == 3
        assert set(statuses) == {200}
        await eventually(lambda: len(server.director.ledger) == 0)
        assert all(m.candidate.in_flight == 0 for m in fleet.members.values())
