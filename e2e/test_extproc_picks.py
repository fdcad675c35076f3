"""The whole endpoint picker behind a real Envoy: the right pod, or the right refusal."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from e2e.static_envoy import (
    POOL,
    Envoy,
    Pod,
    Seen,
    configuration,
    dead_endpoint,
    eventually,
    running_envoy,
)
from extproc.config.settings import PickerConfig, TransportKind
from extproc.picking.scraping import ScrapeSettings
from extproc.service.server import EndpointPickerServer
from pools.model import (
    Criticality,
    Endpoint,
    InferenceModel,
    InferencePool,
    ObjectName,
    TargetModel,
    World,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODELS = (
    InferenceModel(
        ObjectName("default", "summary"),
        POOL,
        "summary",
        Criticality.CRITICAL,
        (TargetModel("tweet-summary"),),
    ),
    InferenceModel(ObjectName("default", "batch"), POOL, "batch", Criticality.SHEDDABLE),
)


class Worlds:
    """A source that yields what it is given."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[World] = asyncio.Queue()

    def give(self, *endpoints: Endpoint) -> None:
        pools = {POOL: InferencePool(POOL, (8000,))}
        self._queue.put_nowait(World(pools=pools, endpoints={POOL: endpoints}, models=MODELS))

    async def worlds(self) -> AsyncIterator[World]:
        while True:
            yield await self._queue.get()


class ModelServer:
    """A pod with vLLM's metrics."""

    def __init__(self) -> None:
        self.pod = Pod(reply=self._reply)
        self.waiting = 0
        self.kv_usage = 0.1
        self.adapters = ""

    @property
    def endpoint(self) -> Endpoint:
        host, _, port = self.pod.address.rpartition(":")
        return Endpoint(host, int(port), f"pod-{port}")

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of the completions it was asked for."""
        return [json.loads(seen.body) for seen in self.pod.requests if seen.body]

    def _reply(self, seen: Seen) -> web.Response:
        if seen.path != "/metrics":
            return web.json_response({"served_by": self.pod.address})
        labels = f'max_lora="2",running_lora_adapters="{self.adapters}",waiting_lora_adapters=""'
        return web.Response(
            text=f'vllm:num_requests_waiting{{model_name="llama"}} {self.waiting}\n'
            'vllm:num_requests_running{model_name="llama"} 1\n'
            f'vllm:kv_cache_usage_perc{{model_name="llama"}} {self.kv_usage}\n'
            f"vllm:lora_requests_info{{{labels}}} 1.8e+09\n"
        )


@dataclass
class Gateway:
    envoy: Envoy
    server: EndpointPickerServer
    worlds: Worlds
    pods: list[ModelServer]
    dead: Endpoint
    http: aiohttp.ClientSession

    async def complete(self, model: str) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        url = f"{self.envoy.listeners['plain']}/full_duplex_streamed/v1/completions"
        async with self.http.post(url, json={"model": model, "prompt": "Hi"}) as response:
            return response.status, await response.json(), response.headers

    async def settled(self) -> None:
        """The metrics that pods show now have been read, and all requests have ended."""
        members = self.server.director.fleet.members
        before = {key: member.scrapes for key, member in members.items()}
        await eventually(lambda: len(self.server.director.ledger) == 0)
        await eventually(
            lambda: all(members[key].scrapes > count + 1 for key, count in before.items())
        )


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=list(TransportKind))
async def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        pods = [ModelServer() for _ in range(3)]
        for model_server in pods:
            await stack.enter_async_context(model_server.pod.running())
        host, _, port = stack.enter_context(dead_endpoint()).rpartition(":")
        dead = Endpoint(host, int(port), "dead")
        worlds = Worlds()
        config = PickerConfig(
            address="127.0.0.1:0",
            health_address=None,
            http_address="127.0.0.1:0",
            transport=request.param,
            scrape=ScrapeSettings(interval=0.05),
        )
        server = EndpointPickerServer(worlds, config)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        folder: Path = tmp_path_factory.mktemp("envoy")
        addresses = [dead.key, *(each.pod.address for each in pods)]
        envoy = await stack.enter_async_context(
            running_envoy(configuration(addresses, server.address), folder)
        )
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        )
        yield Gateway(envoy, server, worlds, pods, dead, http)


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: Gateway) -> Gateway:
    """Three idle pods, whose metrics were read."""
    for model_server in running.pods:
        model_server.waiting, model_server.kv_usage, model_server.adapters = 0, 0.1, ""
        model_server.pod.requests.clear()
    # Out and in again: what an earlier test did to their health is forgotten.
    running.worlds.give()
    fleet = running.server.director.fleet
    await eventually(lambda: bool(fleet.pools) and not fleet.members)
    running.worlds.give(*(each.endpoint for each in running.pods))
    await eventually(lambda: len(fleet.members) == 3)
    await running.settled()
    return running


async def test_the_pod_that_has_the_adapter_is_chosen_and_asked_for_it(gateway: Gateway) -> None:
    holder = gateway.pods[1]
    holder.adapters, holder.waiting = "tweet-summary", 4
    await gateway.settled()
    for _ in range(10):
        status, body, _ = await gateway.complete("summary")
        assert (status, body["served_by"]) == (200, holder.pod.address)
    assert {asked["model"] for asked in holder.asked} == {"tweet-summary"}


async def test_an_idle_pool_shares_the_load(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(gateway.complete("llama") for _ in range(60)))
    served = Counter(body["served_by"] for _, body, _ in answers)
    assert len(served) == 3
    assert min(served.values()) >= 10


async def test_a_sheddable_request_is_429_while_all_are_saturated(gateway: Gateway) -> None:
    for each in gateway.pods:
        each.waiting, each.kv_usage = 20, 0.95
    await gateway.settled()
    status, body, headers = await gateway.complete("batch")
    assert (status, headers["x-poolpilot-reason"]) == (429, "shed")
    assert int(headers["retry-after"]) >= 1
    assert body["error"]["code"] == "shed"
    assert (await gateway.complete("summary"))[0] == 200
    gateway.pods[2].waiting, gateway.pods[2].kv_usage = 0, 0.2
    await gateway.settled()
    status, body, _ = await gateway.complete("batch")
    assert (status, body["served_by"]) == (200, gateway.pods[2].pod.address)


async def test_a_pool_without_endpoints_is_503(gateway: Gateway) -> None:
    gateway.worlds.give()
    await eventually(lambda: not gateway.server.director.fleet.members)
    for model in ("batch", "summary", "unknown"):
        status, body, headers = await gateway.complete(model)
        assert (status, headers["x-poolpilot-reason"]) == (503, "no-ready-endpoints")
        assert body["error"]["code"] == "no-ready-endpoints"


async def test_a_dead_pod_costs_no_request_and_is_soon_left_out(gateway: Gateway) -> None:
    gateway.worlds.give(gateway.dead, *(each.endpoint for each in gateway.pods))
    fleet = gateway.server.director.fleet
    await eventually(lambda: gateway.dead.key in fleet.members)
    health = fleet.members[gateway.dead.key].health
    for _ in range(200):
        assert (await gateway.complete("llama"))[0] == 200
        if health.out_until is not None:
            break
    await eventually(lambda: health.out_until is not None)
    assert health.fault == "passed-over"


async def test_what_became_of_a_request_can_be_read_back(gateway: Gateway) -> None:
    await gateway.complete("summary")
    await eventually(lambda: len(gateway.server.director.ledger) == 0)
    url = f"http://{gateway.server.http_address}/debug/decisions?model=summary&limit=1"
    async with gateway.http.get(url) as response:
        [decision] = (await response.json())["decisions"]
    assert decision["target_model"] == "tweet-summary"
    assert decision["priority"] == 1
    assert decision["completed"]["code"] == 200
    assert decision["completed"]["served"] == decision["endpoints"][0]
