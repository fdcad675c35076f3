"""Requests that wait for room: a real Envoy, simulated pods of small capacity, and the picker."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from e2e.live import OneWorld
from e2e.static_envoy import POOL, Envoy, configuration, eventually, running_envoy
from extproc.config.settings import PickerConfig
from extproc.picking.admission.admitting_picker import AdmittingPicker
from extproc.picking.scraping import ScrapeSettings
from extproc.service.server import EndpointPickerServer
from pools.model import Endpoint, InferenceObjective, InferencePool, ObjectName, World
from sim.config import PodConfig
from sim.pod import Pod

pytestmark = pytest.mark.asyncio(loop_scope="module")

CAPACITY = 2
"""Of each of the two pods."""
ROOM = 2 * CAPACITY
TOKENS = 24
"""Of an answer, which takes about 0.3 s."""
OBJECTIVES = {"urgent": 10, "batch": -1}
HEAD = """\
apiVersion: poolpilot.dev/v1alpha1
kind: SchedulingProfiles
default: least-load
"""
SHIPPED_SMALL = """\
admission:
  saturation: {concurrency: {maxConcurrency: 2}}
  defaultBand: {maxRequests: 20, ttlSeconds: 10}
"""
"""What tests find, and leave."""


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]
    at: float


@dataclass
class Gateway:
    envoy: Envoy
    server: EndpointPickerServer
    http: aiohttp.ClientSession
    profiles: Path

    async def configure(self, text: str, *, wrong: bool = False) -> None:
        """Edit the profiles file, and wait until that has been seen."""
        file = self.server._profiles
        assert file is not None
        before = file.current
        self.profiles.write_text(HEAD + text)
        if wrong:
            await eventually(lambda: bool(file.problems))
        else:
            await eventually(lambda: file.current is not before)
            # What follows the file is told in the same step of the loop or the next.
            await eventually(lambda: self.admission.on == (file.current.admission is not None))

    @property
    def admission(self) -> AdmittingPicker:
        assert self.server.admission is not None
        return self.server.admission

    @property
    def waiting(self) -> int:
        return self.admission.usage.requests

    @property
    def in_flight(self) -> int:
        members = self.server.director.fleet.members.values()
        return sum(member.candidate.in_flight for member in members)

    async def ask(self, objective: str = "", tokens: int = TOKENS, **headers: str) -> Answer:
        url = f"{self.envoy.listeners['plain']}/full_duplex_streamed/v1/completions"
        body = {"model": "small", "prompt": "Hi", "max_tokens": tokens}
        if objective:
            headers["x-gateway-inference-objective"] = objective
        async with self.http.post(url, json=body, headers=headers) as response:
            told = await response.json()
            return Answer(response.status, response.headers, told, time.monotonic())

    def send(self, *args: Any, **more: Any) -> asyncio.Task[Answer]:
        return asyncio.create_task(self.ask(*args, **more))

    async def fill(self, tokens: int = TOKENS) -> list[asyncio.Task[Answer]]:
        """As many requests as there is room for, all under way."""
        sent = [self.send(tokens=tokens) for _ in range(ROOM)]
        await eventually(lambda: self.in_flight == ROOM)
        return sent

    async def debug(self, path: str) -> Any:
        async with self.http.get(f"http://{self.server.http_address}{path}") as response:
            return await response.json()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        pods = [Pod(PodConfig(port=0, name=f"pod-{n}", model="small")) for n in range(2)]
        for pod in pods:
            await stack.enter_async_context(pod)
        endpoints = tuple(Endpoint("127.0.0.1", pod.port, pod.config.name) for pod in pods)
        world = World(
            pools={POOL: InferencePool(POOL, (8000,))},
            endpoints={POOL: endpoints},
            objectives=tuple(
                InferenceObjective(ObjectName(POOL.namespace, name), POOL, priority)
                for name, priority in OBJECTIVES.items()
            ),
        )
        profiles = tmp_path_factory.mktemp("profiles") / "profiles.yaml"
        profiles.write_text(HEAD + SHIPPED_SMALL)
        config = PickerConfig(
            address="127.0.0.1:0",
            health_address=None,
            http_address="127.0.0.1:0",
            profiles=profiles,
            scrape=ScrapeSettings(interval=0.05),
        )
        server = EndpointPickerServer(OneWorld(world), config)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        folder: Path = tmp_path_factory.mktemp("envoy")
        addresses = [endpoint.key for endpoint in endpoints]
        envoy = await stack.enter_async_context(
            running_envoy(configuration(addresses, server.address), folder)
        )
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=20)
            )
        )
        await eventually(lambda: len(server.director.fleet.members) == 2)
        yield Gateway(envoy, server, http, profiles)


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: Gateway) -> AsyncIterator[Gateway]:
    yield running
    await eventually(lambda: running.in_flight == running.waiting == 0)
    assert running.admission.dispatched == len(running.server.director.ledger) == 0
    assert running.admission.usage.size == 0


async def test_a_burst_waits_its_turn_and_the_pods_never_get_more_than_they_take(
    gateway: Gateway,
) -> None:
    sent = [
        gateway.send(**{"x-gateway-inference-fairness-id": "tenant-a"}) for _ in range(3 * ROOM)
    ]
    await eventually(lambda: gateway.waiting == 2 * ROOM)
    [queue] = (await gateway.debug("/debug/queues"))["queues"]
    assert queue["waiting"] == 2 * ROOM
    assert queue["saturation"] == 1.0
    assert queue["bands"][0]["longest_flows"][0]["flow"] == "tenant-a"
    most = 0
    while gateway.waiting:
        most = max(most, gateway.in_flight)
        await asyncio.sleep(0.01)
    assert most == ROOM
    assert {answer.status for answer in await asyncio.gather(*sent)} == {200}
    decisions = (await gateway.debug(f"/debug/decisions?limit={3 * ROOM}"))["decisions"]
    waited = [decision["queued_ms"] for decision in decisions]
    assert sum(ms > 0 for ms in waited) == 2 * ROOM
    assert max(waited) > 300


async def test_a_client_that_hangs_up_leaves_the_queue(gateway: Gateway) -> None:
    sent = await gateway.fill()
    gone = [gateway.send() for _ in range(3)]
    await eventually(lambda: gateway.waiting == 3)
    for request in gone:
        request.cancel()
    await eventually(lambda: gateway.waiting == 0)
    assert gateway.in_flight == ROOM
    assert {answer.status for answer in await asyncio.gather(*sent)} == {200}


async def test_sheddable_requests_get_429_and_when_to_come_back(gateway: Gateway) -> None:
    sent = await gateway.fill()
    answer = await gateway.ask("batch")
    assert answer.status == 429
    assert answer.headers["x-poolpilot-reason"] == answer.body["error"]["code"] == "shed"
    assert answer.body["error"]["type"] == "rate_limit_error"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    await asyncio.gather(*sent)
    assert (await gateway.ask("batch")).status == 200


async def test_the_urgent_request_overtakes_those_that_wait(gateway: Gateway) -> None:
    sent = await gateway.fill()
    normal = [gateway.send() for _ in range(ROOM + 2)]
    await eventually(lambda: gateway.waiting == ROOM + 2)
    urgent = gateway.send("urgent")
    first = await urgent
    assert first.status == 200
    answers = await asyncio.gather(*normal)
    assert sum(answer.at < first.at for answer in answers) < ROOM
    await asyncio.gather(*sent)


async def test_who_waits_too_long_and_who_finds_no_place_is_told_so(gateway: Gateway) -> None:
    sent = await gateway.fill(tokens=80)
    late = gateway.send(**{"x-poolpilot-queue-timeout": "0.2"})
    await eventually(lambda: gateway.waiting == 1)
    waiting = [gateway.send() for _ in range(19)]
    await eventually(lambda: gateway.waiting == 20)
    full = await gateway.ask()
    assert (full.status, full.headers["x-poolpilot-reason"]) == (429, "queue-full")
    timed_out = await late
    assert (timed_out.status, timed_out.headers["x-poolpilot-reason"]) == (429, "queue-timeout")
    assert int(timed_out.headers["retry-after"]) >= 1
    for request in waiting:
        request.cancel()
    assert {answer.status for answer in await asyncio.gather(*sent)} == {200}


def p90(seconds: list[float]) -> float:
    assert len(seconds) >= 20
    return sorted(seconds)[len(seconds) * 9 // 10]


def section(slots: int, more: str = "") -> str:
    return (
        f"admission:\n  saturation: {{concurrency: {{maxConcurrency: {slots}}}}}\n"
        f"  defaultBand: {{ttlSeconds: 30{more}}}\n"
    )


async def bursts(gateway: Gateway, seconds: list[float]) -> None:
    """As many requests at once as two whole pools take, a quarter of what they can do in all."""
    headers = {"x-gateway-inference-fairness-id": "small"}
    for _ in range(3):
        began = time.monotonic()
        answers = await asyncio.gather(
            *(gateway.ask("", TOKENS, **headers) for _ in range(2 * ROOM))
        )
        assert {answer.status for answer in answers} == {200}
        seconds += [answer.at - began for answer in answers]
        await asyncio.sleep(max(0.0, 2.4 - (time.monotonic() - began)))


@pytest.mark.parametrize("fairness", ["round-robin", "tokens"])
async def test_a_flood_leaves_a_flow_as_well_off_as_alone_with_half_of_the_pods(
    gateway: Gateway, fairness: str
) -> None:
    await gateway.configure(section(CAPACITY // 2))
    own_half: list[float] = []
    await bursts(gateway, own_half)
    await gateway.configure(section(CAPACITY, f", fairness: {fairness}"))
    flood: list[float] = []
    headers = {"x-gateway-inference-fairness-id": "flood"}
    over = asyncio.Event()

    async def flooding() -> None:
        while not over.is_set():
            began = time.monotonic()
            answer = await gateway.ask("", TOKENS, **headers)
            assert answer.status == 200
            flood.append(answer.at - began)

    clients = [asyncio.create_task(flooding()) for _ in range(10 * ROOM)]
    await eventually(lambda: len(flood) > 2 * ROOM)
    beside: list[float] = []
    await bursts(gateway, beside)
    over.set()
    await asyncio.gather(*clients)
    await gateway.configure(SHIPPED_SMALL)
    assert p90(beside) <= 1.1 * p90(own_half), "seconds from sending to the end of the answer"
    assert p90(flood) > 3 * p90(beside)


async def test_at_twice_the_load_the_urgent_keep_their_ttft_and_the_sheddable_get_429(
    gateway: Gateway,
) -> None:
    """A quarter of the room is kept for the urgent."""
    kept = "  bands: [{priority: 10, ttlSeconds: 30}]\n"
    await gateway.configure(section(2 * CAPACITY, ", ceiling: 0.75") + kept)

    async def urgent() -> list[float]:
        seconds = []
        for _ in range(40):
            began = time.monotonic()
            answer = await gateway.ask("urgent", tokens=1)
            assert answer.status == 200
            seconds.append(answer.at - began)
            await asyncio.sleep(0.05)
        return seconds

    alone = await urgent()
    over = asyncio.Event()
    batch: list[Answer] = []

    async def normal() -> None:
        while not over.is_set():
            assert (await gateway.ask()).status == 200

    async def sheddable() -> None:
        while not over.is_set():
            batch.append(await gateway.ask("batch"))
            await asyncio.sleep(0.1)

    # Of normal requests alone there are twice as many as the pods may have at once.
    clients = [asyncio.create_task(normal()) for _ in range(4 * ROOM)]
    await eventually(lambda: gateway.waiting >= ROOM)
    clients += [asyncio.create_task(sheddable()) for _ in range(ROOM)]
    double = await urgent()
    over.set()
    await asyncio.gather(*clients)
    await gateway.configure(SHIPPED_SMALL)
    # A request takes 0.3 s: nobody has waited for one to end.
    assert p90(double) < p90(alone) + 0.15
    assert sum(answer.status == 429 for answer in batch) > 0.9 * len(batch)


async def test_twenty_edits_of_the_file_under_load_and_no_request_fails(gateway: Gateway) -> None:
    statuses: Counter[int] = Counter()
    over = asyncio.Event()

    async def client(number: int) -> None:
        flow = {"x-gateway-inference-fairness-id": f"tenant-{number % 3}"}
        objective = ("", "urgent")[number % 2]
        while not over.is_set():
            statuses[(await gateway.ask(objective, tokens=4, **flow)).status] += 1

    edits = [
        section(1),
        section(4, ", fairness: tokens"),
        "",
        section(1, ", order: earliest-deadline"),
        section(2, ", ceiling: 0.5") + "  bands: [{priority: 10, ttlSeconds: 20}]\n",
        "admission: {defaultBand: {ttlSeconds: 30}}\n",
        section(3, ", fairness: tokens, order: earliest-deadline, maxRequests: 100"),
    ]
    await gateway.configure(section(2))
    clients = [asyncio.create_task(client(number)) for number in range(30)]
    waited = 0
    for number in range(20):
        before = statuses.total()
        await eventually(lambda before=before: statuses.total() >= before + 10)  # type: ignore[misc]
        waited = max(waited, gateway.waiting)
        if number % 5 == 4:
            await gateway.configure("admission: {headrom: 1}\n", wrong=True)
        else:
            await gateway.configure(edits[number % len(edits)])
    over.set()
    await asyncio.gather(*clients)
    await gateway.configure(SHIPPED_SMALL)
    assert set(statuses) == {200}
    assert statuses.total() > 200
    assert waited > 5
