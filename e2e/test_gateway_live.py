"""From kubectl to a request, on the whole path: a real API server, our two servers, a real Envoy.

Pods are addresses of the loopback network, of which one server answers all.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from e2e.harness import eventually
from e2e.kube.api_server import ApiServer, pod_object, pod_status
from e2e.live import Led, led
from extproc.config.settings import PickerConfig
from extproc.picking.scraping import ScrapeSettings
from extproc.service.server import EndpointPickerServer
from poolpilot.demo.ports import Reservation, reserve
from pools.kubernetes import PICKER_KINDS, KubernetesSettings, KubernetesSource, Timing
from xds.translate import ExtProcSettings, SocketAddress, TranslateSettings

PROMPT = 1.0
"""Seconds within which a change must be in effect, counted from when kubectl is done."""
STALE = 2.0
"""Seconds after which no request may come to a pod that is gone."""
PODS, GONE_AT_ONCE, ROUNDS = 1000, 100, 2
_numbers = itertools.count()
Made = dict[str, Any]


@dataclass
class Answers:
    """What clients that never stop asking have got."""

    at: list[tuple[float, str]] = field(default_factory=list)
    """When and from which address."""
    failures: list[str] = field(default_factory=list)

    def after(self, moment: float) -> Counter[str]:
        return Counter(address for when, address in self.at if when > moment)


class Cluster:
    """One namespace of the API server, and the way to ask for what it describes."""

    def __init__(self, server: ApiServer, name: str, pod_port: int, listen: Reservation) -> None:
        self.server, self.name, self.pod_port, self.port = server, name, pod_port, listen.port
        self.led: Led | None = None
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(16)
        self._count = itertools.count(1)

    async def apply(self, *objects: Made) -> None:
        text = yaml.safe_dump_all(objects)
        await asyncio.to_thread(self.server.apply, text, namespace=self.name)

    async def delete(self, *what: str) -> None:
        arguments = ("delete", f"--namespace={self.name}", "--now", *what)
        await asyncio.to_thread(self.server.kubectl, *arguments)

    def gateway(self, **listeners: int) -> tuple[Made, Made]:
        group = "gateway.networking.k8s.io/v1"
        return (
            {
                "apiVersion": group,
                "kind": "GatewayClass",
                "metadata": {"name": self.name},
                "spec": {"controllerName": "poolpilot.dev/gateway-controller"},
            },
            {
                "apiVersion": group,
                "kind": "Gateway",
                "metadata": {"name": "edge"},
                "spec": {
                    "gatewayClassName": self.name,
                    "listeners": [
                        {"name": name, "port": port, "protocol": "HTTP"}
                        for name, port in listeners.items()
                    ],
                },
            },
        )

    def pool(self, name: str) -> Made:
        return {
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "targetPorts": [{"number": self.pod_port}],
                # Ours, in whatever namespace it runs.
                "endpointPickerRef": {"name": "poolpilot-extproc", "port": {"number": 9002}},
            },
        }

    def route(self, path: str, *pools: str) -> Made:
        group = "inference.networking.k8s.io"
        return {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "llm"},
            "spec": {
                "parentRefs": [{"name": "edge"}],
                "rules": [
                    {
                        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
                        "backendRefs": [
                            {"group": group, "kind": "InferencePool", "name": one} for one in pools
                        ],
                    }
                ],
            },
        }

    def address(self) -> str:
        """One that no pod had before."""
        number = next(self._count)
        return f"127.{101 + os.getpid() % 100}.{number // 250}.{number % 250 + 1}"

    async def add_pods(self, app: str, count: int) -> dict[str, str]:
        """Ready pods, by address."""
        made: dict[str, str] = {}

        async def one() -> None:
            address = self.address()
            name = f"pod-{address.replace('.', '-')}"
            await self._send("POST", "", pod_object(name, {"app": app}))
            status = {"status": pod_status(address)}
            await self._send("PATCH", f"/{name}/status", status, "application/merge-patch+json")
            made[address] = name

        await asyncio.gather(*(one() for _ in range(count)))
        return made

    async def remove_pods(self, names: list[str]) -> None:
        await asyncio.gather(
            *(self._send("DELETE", f"/{name}", {"gracePeriodSeconds": 0}) for name in names)
        )

    async def _send(
        self, method: str, path: str, body: object, kind: str = "application/json"
    ) -> None:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self.server.client_tls())
            self._session = aiohttp.ClientSession(self.server.url, connector=connector)
        async with (
            self._slots,
            self._session.request(
                method,
                f"/api/v1/namespaces/{self.name}/pods{path}",
                data=json.dumps(body),
                headers={"Content-Type": kind},
            ) as answer,
        ):
            assert answer.status < 300, await answer.text()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, path: str, port: int | None = None) -> tuple[int, str]:
        """Status, and the address of the pod that answered. Status 0: nobody listens."""
        url = f"http://127.0.0.1:{port or self.port}{path}"
        body = {"model": "m", "prompt": "San Francisco"}
        try:
            async with aiohttp.ClientSession() as client, client.post(url, json=body) as answer:
                return answer.status, answer.headers.get("x-address", "")
        except aiohttp.ClientConnectionError:
            return 0, ""

    async def becomes(
        self, path: str, status: int, what: str, limit: float = PROMPT, port: int | None = None
    ) -> None:
        async def holds() -> bool:
            return (await self.ask(path, port))[0] == status

        await eventually(holds, what, limit)

    @asynccontextmanager
    async def traffic(self, path: str, clients: int = 4) -> AsyncIterator[Answers]:
        answers = Answers()
        url = f"http://127.0.0.1:{self.port}{path}"
        body = {"model": "m", "prompt": "San Francisco"}

        async def keeps_asking(client: aiohttp.ClientSession) -> None:
            while True:
                asked = time.monotonic()
                try:
                    async with client.post(url, json=body) as answer:
                        text = await answer.text()
                        if answer.status != 200:
                            answers.failures.append(f"{answer.status} {text}")
                            continue
                        answers.at.append((asked, answer.headers["x-address"]))
                except aiohttp.ClientError as error:
                    answers.failures.append(repr(error))
                # As fast as this process can would leave the servers in it no time.
                await asyncio.sleep(0.002)

        async with aiohttp.ClientSession() as client:
            tasks = [asyncio.create_task(keeps_asking(client)) for _ in range(clients)]
            try:
                yield answers
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(request: web.Request) -> web.Response:
    if request.path == "/metrics":
        return web.Response(text="vllm:num_requests_waiting 0\nvllm:num_requests_running 0\n")
    await request.read()
    assert request.transport is not None
    address = request.transport.get_extra_info("sockname")[0]
    return web.Response(text="{}", headers={"x-address": address})


@asynccontextmanager
async def pods() -> AsyncIterator[int]:
    """A server on every loopback address; yields its port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
def listen() -> Iterator[Reservation]:
    held = reserve()
    yield held
    held.close()


@pytest.fixture
async def cluster(
    api_server: ApiServer, listen: Reservation, tmp_path: Path
) -> AsyncIterator[Cluster]:
    name = f"live-{next(_numbers)}"
    await asyncio.to_thread(api_server.kubectl, "create", "namespace", name)
    watched = KubernetesSettings(
        api_server.kubeconfig, namespaces=(name,), timing=Timing(discovery=0.5, longest_retry=0.5)
    )
    async with AsyncExitStack() as stack:
        pod_port = await stack.enter_async_context(pods())
        picker = EndpointPickerServer(
            KubernetesSource(
                KubernetesSettings(
                    api_server.kubeconfig,
                    namespaces=(name,),
                    kinds=PICKER_KINDS,
                    timing=watched.timing,
                )
            ),
            PickerConfig(
                address="127.0.0.1:0",
                health_address=None,
                http_address=None,
                scrape=ScrapeSettings(interval=10),
                models_interval=0,
            ),
        )
        await picker.start()
        stack.push_async_callback(picker.stop, 0)
        target = SocketAddress.parse(picker.address)
        settings = TranslateSettings(
            listen_address="127.0.0.1",
            reuse_port=False,
            access_log=False,
            ext_proc=ExtProcSettings((target,), health_interval=0.2),
        )
        described = Cluster(api_server, name, pod_port, listen)
        stack.push_async_callback(described.close)
        await described.apply(*described.gateway(http=described.port))
        described.led = await stack.enter_async_context(
            led(KubernetesSource(watched), tmp_path, f"{name}/edge", settings=settings)
        )
        yield described
    await asyncio.to_thread(api_server.kubectl, "delete", "gatewayclass", name)
    await asyncio.to_thread(api_server.kubectl, "delete", "namespace", name, "--wait=false")


async def test_what_kubectl_does_is_in_effect_within_a_second(cluster: Cluster) -> None:
    await cluster.becomes("/v1/completions", 404, "the Gateway listens", 20)
    first = await cluster.add_pods("llama", 2)
    await cluster.apply(cluster.pool("llama"), cluster.route("/v1", "llama"))
    await cluster.becomes("/v1/completions", 200, "pool, pods and route are there")

    await cluster.apply(cluster.route("/other", "llama"))
    await cluster.becomes("/v1/completions", 404, "the route has changed")
    await cluster.becomes("/other/v1/completions", 200, "to this")

    second = await cluster.add_pods("llama", 1)

    async def answered_by_new() -> bool:
        return {(await cluster.ask("/other/v1"))[1] for _ in range(6)} >= second.keys()

    await eventually(answered_by_new, "the new pod is sent requests", PROMPT)
    await cluster.remove_pods(list(first.values()))

    async def answered_by_new_alone() -> bool:
        return {(await cluster.ask("/other/v1"))[1] for _ in range(6)} == second.keys()

    await eventually(answered_by_new_alone, "the deleted pods are not", PROMPT)

    with contextlib.closing(reserve()) as another:
        await cluster.apply(*cluster.gateway(http=cluster.port, more=another.port))
        await cluster.becomes("/other/v1", 200, "a new listener listens", port=another.port)
        await cluster.apply(*cluster.gateway(http=cluster.port))
        await cluster.becomes("/other/v1", 0, "it is gone", port=another.port)

    await cluster.delete("inferencepool", "llama")
    await cluster.becomes("/other/v1", 500, "the pool is gone")
    await cluster.apply(cluster.pool("llama"))
    await cluster.becomes("/other/v1", 200, "it is back")
    await cluster.delete("httproute", "llm")
    await cluster.becomes("/other/v1", 404, "the route is gone")
    await cluster.delete("gateway", "edge")
    await cluster.becomes("/other/v1", 0, "the Gateway is gone")
    await cluster.apply(*cluster.gateway(http=cluster.port))
    await cluster.becomes("/other/v1", 404, "it is back")


async def test_no_request_is_lost_while_the_api_server_dies_and_comes_back(
    cluster: Cluster,
) -> None:
    before = await cluster.add_pods("llama", 3)
    await cluster.apply(cluster.pool("llama"), cluster.route("/", "llama"))
    await cluster.becomes("/v1", 200, "it serves", 20)
    assert cluster.led is not None
    provider = cluster.led.control.provider
    async with cluster.traffic("/v1") as answers:
        cluster.server.kill()
        await eventually(
            lambda: (
                provider.world is not None
                and any("cannot be reached" in one.message for one in provider.world.problems)
            ),
            "the outage is noticed",
        )
        during = time.monotonic()
        await eventually(lambda: len(answers.after(during)) == 3, "all pods go on answering")
        # A server that has just started knows no version before its own start: watches get a 410.
        cluster.server.launch()
        await asyncio.to_thread(cluster.server.wait_ready)
        new = await cluster.add_pods("llama", 1)
        await cluster.remove_pods([next(iter(before.values()))])
        gone = next(iter(before))

        def follows() -> bool:
            seen = answers.after(time.monotonic() - 0.3)
            return seen.keys() >= new.keys() and gone not in seen

        await eventually(follows, "what changes afterwards is followed")
    assert answers.failures == []
    assert {address for _, address in answers.at} == before.keys() | new.keys()


async def test_a_thousand_pods_churn_and_no_request_is_lost_or_comes_to_one_that_is_gone(
    cluster: Cluster,
) -> None:
    await cluster.apply(cluster.pool("llama"), cluster.route("/", "llama"))
    alive = await cluster.add_pods("llama", PODS)
    await cluster.becomes("/v1", 200, "it serves", 20)
    gone: dict[str, float] = {}
    async with cluster.traffic("/v1", clients=3) as answers:
        for _ in range(ROUNDS):
            leaving = random.sample(sorted(alive), GONE_AT_ONCE)
            await cluster.remove_pods([alive.pop(address) for address in leaving])
            gone.update(dict.fromkeys(leaving, time.monotonic()))
            alive.update(await cluster.add_pods("llama", GONE_AT_ONCE))
        churned = time.monotonic()
        await eventually(
            lambda: answers.after(churned + STALE).total() > 300 or bool(answers.failures),
            "requests go on after the churn",
        )
    assert answers.failures == []
    stale = [
        f"{address}, {when - gone[address]:.1f} s after it went"
        for when, address in answers.at
        if when > gone.get(address, when) + STALE
    ]
    assert stale == []
    assert cluster.led is not None
    (proxy,) = cluster.led.envoys.values()
    known = await proxy.hosts(f"pool/{cluster.name}/llama")
    assert {one.rpartition(":")[0] for one in known} == alive.keys()
