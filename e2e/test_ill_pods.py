"""Pods that are not what they seem: dead ones, ones that say no, full ones, slow routes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from e2e.harness import eventually
from e2e.live import OneWorld, envoy
from extproc.config.settings import PickerConfig
from extproc.service.server import EndpointPickerServer
from pools.model import (
    BackendKind,
    Endpoint,
    HTTPRoute,
    InferencePool,
    ObjectName,
    PathMatch,
    PathMatchType,
    RouteBackend,
    RouteMatch,
    RouteRule,
    World,
)
from xds.bootstrap import static_bootstrap
from xds.translate import ExtProcSettings, TranslateSettings, parse_target, translate
from xds.translate.render import render_static

POOL = ObjectName("default", "llama")
SERVICE_TIME = 0.2
LONG = 0.5
"""Seconds of service: long beside what a busy machine adds, where it is throughput that counts."""


@dataclass
class Pod:
    """A model server with metrics like vLLM's."""

    address: str
    says_no: int = 0
    """The status with which it answers everything at once; 0: it works."""
    capacity: int = 10**6
    """Requests at a time; more are answered with :attr:`when_full`."""
    when_full: int = 503
    service_time: float = 0.01
    running: int = 0
    answered: int = 0
    """Requests, well or not."""
    port: int = 0
    _runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.address, self.port, self.address)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, self.port).start()
        self.port = self._runner.addresses[0][1]

    async def die(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        if request.path == "/metrics":
            return web.Response(
                text=f'vllm:num_requests_running{{engine="0"}} {self.running}\n'
                'vllm:num_requests_waiting{engine="0"} 0\nvllm:kv_cache_usage_perc{engine="0"} 0\n'
            )
        await request.read()
        self.answered += 1
        if self.says_no:
            return web.json_response({}, status=self.says_no)
        if self.running >= self.capacity:
            return web.json_response({}, status=self.when_full)
        self.running += 1
        try:
            await asyncio.sleep(self.service_time)
        finally:
            self.running -= 1
        return web.json_response({})


@dataclass
class Gateway:
    """Our configuration in a real Envoy, and our picker, before some pods."""

    client: httpx.AsyncClient
    envoy: str
    picker: EndpointPickerServer
    _traffic: set[asyncio.Task[None]] = field(default_factory=set)

    async def ask(self) -> int:
        words = " ".join(random.choices(("tell", "me", "of", "cats", "and", "dogs"), k=12))
        got = await self.client.post(
            f"{self.envoy}/v1/completions", json={"model": "base", "prompt": words}
        )
        return got.status_code

    async def traffic(self, rate: float, seconds: float) -> Counter[int]:
        """Statuses of an open loop of ``rate`` requests a second."""
        statuses: Counter[int] = Counter()

        async def one() -> None:
            statuses[await self.ask()] += 1

        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
                group.create_task(one())
        return statuses

    @property
    def ejections(self) -> dict[str, str]:
        """Who was taken out, and the last reason."""
        return {
            key: member.health.fault.value
            for key, member in self.picker.director.fleet.members.items()
            if member.health.fault is not None
        }


@contextlib.asynccontextmanager
async def gateway(
    directory: Path,
    pods: Sequence[Pod],
    profile: str = "default",
    request_timeout: float | None = None,
) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        for pod in pods:
            await pod.start()
            stack.push_async_callback(pod.die)
        routes: tuple[HTTPRoute, ...] = ()
        if request_timeout is not None:
            rule = RouteRule(
                (RouteMatch(PathMatch(PathMatchType.PREFIX, "/")),),
                (RouteBackend(POOL, BackendKind.INFERENCE_POOL),),
                request_timeout=request_timeout,
            )
            routes = (HTTPRoute(ObjectName("default", "route"), rules=(rule,)),)
        world = World(
            pools={POOL: InferencePool(POOL, (8000,))},
            endpoints={POOL: tuple(pod.endpoint for pod in pods)},
            routes=routes,
        )
        picker = EndpointPickerServer(
            OneWorld(world),
            PickerConfig(
                address="127.0.0.1:0", health_address=None, http_address=None, profile=profile
            ),
        )
        await picker.start()
        stack.push_async_callback(picker.stop, 0)
        settings = TranslateSettings(
            ext_proc=ExtProcSettings(targets=(parse_target(picker.address),), health_interval=0.1)
        )
        static: Any = render_static(translate(world, settings))
        static["listeners"][0]["address"]["socket_address"].update(
            address="127.0.0.1", port_value=0
        )
        proxy = await stack.enter_async_context(envoy(static_bootstrap(static), directory))
        await eventually(proxy.listening, "a listener is active")
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
        client = httpx.AsyncClient(trust_env=False, timeout=30, limits=limits)
        ready = Gateway(await stack.enter_async_context(client), await proxy.url(), picker)

        async def is_answered() -> bool:
            return (await ready.ask()) not in (0, 503)

        await eventually(is_answered, "Envoy and the picker have found each other")
        await eventually(
            lambda: all(
                member.scrapes > member.scrape_failures
                for member in picker.director.fleet.members.values()
            ),
            "all are scraped",
        )
        for pod in pods:
            pod.answered = 0
        yield ready


def loopbacks(count: int) -> list[str]:
    return [f"127.0.{9 + n // 250}.{1 + n % 250}" for n in range(count)]


async def test_47_of_50_die_and_after_two_seconds_hardly_a_request_fails(tmp_path: Path) -> None:
    pods = [Pod(address) for address in loopbacks(50)]
    async with gateway(tmp_path, pods) as ready:
        await asyncio.gather(*(pod.die() for pod in pods[3:]))
        await ready.traffic(60, 2)
        statuses = await ready.traffic(60, 5)
        assert statuses.total() == 300
        assert statuses.total() - statuses[200] <= 3, statuses


async def test_a_pod_that_came_back_gets_its_share_again(tmp_path: Path) -> None:
    pods = [Pod(address) for address in loopbacks(4)]
    async with gateway(tmp_path, pods) as ready:
        await pods[0].die()
        await ready.traffic(40, 1.5)
        assert pods[0].endpoint.key in ready.ejections
        await pods[0].start()
        pods[0].answered = 0
        statuses = await ready.traffic(40, 2)
        assert statuses == {200: 80}
        assert pods[0].answered > 0


@pytest.mark.parametrize(
    ("status", "profile"), [(404, "default"), (401, "least-load"), (429, "default")]
)
async def test_a_pod_that_says_no_at_once_does_not_draw_the_traffic(
    tmp_path: Path, status: int, profile: str
) -> None:
    pods = [Pod(address, service_time=SERVICE_TIME) for address in loopbacks(4)]
    async with gateway(tmp_path, pods, profile) as ready:
        pods[1].says_no = status
        statuses = await ready.traffic(25, 6)
        share = statuses[status] / statuses.total()
        assert statuses[200] + statuses[status] == 150, statuses
        assert share <= 0.15, (statuses, ready.ejections)


@pytest.mark.parametrize("when_full", [503, 429])
async def test_pods_that_are_full_are_not_ill(tmp_path: Path, when_full: int) -> None:
    pods = [
        Pod(address, capacity=4, when_full=when_full, service_time=LONG) for address in loopbacks(4)
    ]
    possible = 4 * 4 / LONG
    async with gateway(tmp_path, pods) as ready:
        statuses = await ready.traffic(1.3 * possible, 4)
        assert ready.ejections == {}
        assert statuses[200] >= 0.9 * 4 * possible, statuses


async def test_a_time_out_of_the_route_is_no_fault_of_the_pods(tmp_path: Path) -> None:
    pods = [Pod(address, service_time=1.0) for address in loopbacks(3)]
    async with gateway(tmp_path, pods, request_timeout=0.3) as ready:
        statuses = await ready.traffic(20, 3)
        assert statuses == {504: 60}
        assert ready.ejections == {}


async def test_a_pod_that_alone_overruns_the_routes_time_is_taken_out(tmp_path: Path) -> None:
    pods = [Pod(address) for address in loopbacks(3)]
    async with gateway(tmp_path, pods, request_timeout=0.3) as ready:
        pods[0].service_time = 30.0
        await ready.traffic(20, 3)
        assert ready.ejections == {pods[0].endpoint.key: "outlier"}
