"""What goes wrong between Envoy, the picker and the pods, each with its remedy.

Everything is as our xDS server configures it: a real Envoy, the real picker, pods that misbehave.
Only the choice of endpoints is scripted: the header ``x-order`` names pods in the order in which
the pick is to list them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from e2e.harness import eventually
from e2e.live import Envoy, envoy
from e2e.static_envoy import Pod, Seen, dead_endpoint
from extproc.config.settings import PickerConfig, TransportKind
from extproc.exchange import ExchangeSettings
from extproc.picking.director import Director
from extproc.picking.endpoint_health import HealthPolicy
from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.profile import Picker, Profile, SchedulingRequest
from extproc.picking.scraping import ScrapeSettings
from extproc.request import Completed, InferenceRequest, Outcome
from extproc.service.server import EndpointPickerServer
from poolpilot.demo.load import POD_HEADER
from poolpilot.demo.ports import LOOPBACK, Ports
from poolpilot.demo.quickstart import BASE_MODEL, endpoints
from poolpilot.demo.stack import Stack
from poolpilot.envoy_binary import find_envoy
from pools.files import FilesSource
from pools.model import (
    BodyMode,
    Endpoint,
    FailureMode,
    HTTPRoute,
    InferenceModel,
    InferencePool,
    ObjectName,
    RouteBackend,
    RouteMatch,
    RouteRule,
    TargetModel,
    ValueMatch,
    World,
)
from xds.bootstrap import BootstrapSettings, bootstrap
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.http import HttpConfig
from xds.translate import ExtProcSettings, SocketAddress, TranslateSettings, parse_target

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = ObjectName.parse
MODES = ("duplex", "buffered")
"""Pools that differ in how bodies reach the picker."""
AT_ONCE = 1300
"""More requests than Envoy lets through by itself (1,024)."""
PICK_TIMEOUT = 2.0
IDLE_TIMEOUT = 1.5
ROBUST = HealthPolicy(connect_failures=10**6, resets=10**6, errors=10**6, scrape_failures=10**6)
"""Nobody is taken out of picks, so that each test gets the endpoints that it orders."""
COMPLETION = {"model": "asked", "prompt": "Say hi"}
BACKGROUND = ("/metrics", "/is_paused")
"""Paths that the picker itself asks for."""


def scripted() -> Profile:
    """Lists endpoints as the request's header ``x-order`` says; without it, all there are."""

    def order(
        request: SchedulingRequest,
        candidates: Sequence[Candidate],
        scores: Sequence[float] | None,
        count: int,
    ) -> list[Candidate]:
        headers = request.request.headers if request.request is not None else {}
        by_name = {candidate.endpoint.name: candidate for candidate in candidates}
        wanted = headers.get("x-order", "").split(",")
        found = [by_name[name] for name in wanted if name in by_name]
        return found or list(candidates)[:count]

    return Profile("scripted", (), Picker("scripted", order))


class Worlds:
    """Tells both servers the same."""

    def __init__(self) -> None:
        self.now = World()
        self._queues: list[asyncio.Queue[World]] = []

    def say(self, world: World) -> None:
        self.now = world
        for queue in self._queues:
            queue.put_nowait(world)

    async def worlds(self) -> AsyncIterator[World]:
        queue: asyncio.Queue[World] = asyncio.Queue()
        self._queues.append(queue)
        queue.put_nowait(self.now)
        while True:
            yield await queue.get()


@dataclass
class Questions:
    """Between the protocol and the policy: holds back what a test wants held back."""

    director: Director
    hung: list[InferenceRequest] = field(default_factory=list)
    withdrawn: list[InferenceRequest] = field(default_factory=list)
    gathered: list[tuple[InferenceRequest, Callable[[Outcome], None]]] = field(default_factory=list)

    def pick(
        self, request: InferenceRequest, answer: Callable[[Outcome], None]
    ) -> Callable[[], None]:
        match request.headers.get("x-test"):
            case "hang":
                self.hung.append(request)
                return lambda: self.withdrawn.append(request)
            case "gather":
                self.gathered.append((request, answer))
                if len(self.gathered) == AT_ONCE:
                    for asked, tell in self.gathered:
                        self.director.pick(asked, tell)
                return lambda: None
        return self.director.pick(request, answer)

    def settle(self, completed: Completed) -> None:
        self.director.settle(completed)


@dataclass
class Resetter:
    """Accepts a connection, reads the request, and resets it."""

    requests: int = 0
    address: str = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Resetter]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            self.requests += 1
        raw: socket.socket = writer.get_extra_info("socket")
        # Zero seconds of lingering: the connection ends with a reset instead of a farewell.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An address that never answers a connection attempt: its backlog is full."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        host, port = listener.getsockname()
        yield f"{host}:{port}"


@dataclass
class Site:
    """Envoy, both servers, and pods of every kind."""

    envoy: Envoy
    url: str
    server: EndpointPickerServer
    questions: Questions
    worlds: Worlds
    pods: dict[str, Pod]
    resetter: Resetter
    addresses: dict[str, str]
    http: aiohttp.ClientSession

    async def post(
        self, pool: str, order: str = "", body: Any = COMPLETION, **headers: str
    ) -> tuple[int, str]:
        """Status, and the pod's name or the error's code."""
        sent = {"x-pool": pool, **({"x-order": order} if order else {})}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        url = f"{self.url}/v1/completions"
        async with self.http.post(url, data=data, headers=sent) as response:
            text = await response.text()
            pod = response.headers.get("x-pod")
            if pod is not None:
                return response.status, self.name_of(pod)
            return response.status, str(json.loads(text)["error"]["code"])

    def name_of(self, address: str) -> str:
        return next(name for name, known in self.addresses.items() if known == address)

    def received(self) -> list[Seen]:
        """Inference requests that pods have got."""
        asked = [request for pod in self.pods.values() for request in pod.requests]
        return [request for request in asked if request.path not in BACKGROUND]

    async def in_flight(self) -> int:
        url = f"http://{self.server.http_address}/debug/endpoints"
        async with self.http.get(url) as response:
            return sum(row["in_flight"] for row in (await response.json())["endpoints"])

    async def has_nothing_in_flight(self) -> bool:
        return await self.in_flight() == 0

    async def last_decision(self) -> dict[str, Any]:
        """The newest decision, once it is known how its request ended."""
        url = f"http://{self.server.http_address}/debug/decisions?limit=1"
        newest: dict[str, Any] = {}

        async def completed() -> bool:
            async with self.http.get(url) as response:
                newest.update((await response.json())["decisions"][0])
            return newest["completed"] is not None

        await eventually(completed, "Envoy tells how the request ended")
        return newest


def pools_and_routes(addresses: dict[str, str]) -> World:
    def endpoint(name: str) -> Endpoint:
        host, _, port = addresses[name].rpartition(":")
        return Endpoint(host, int(port), name)

    def pool(name: str, **more: Any) -> InferencePool:
        return InferencePool(NAME(name), (8000,), **more)

    opens = {"failure_mode": FailureMode.FAIL_OPEN}
    buffered = {"body_mode": BodyMode.BUFFERED}
    several = tuple(addresses)
    few = ("dead", "dead-too", "a", "b")
    members = [
        (pool("duplex"), several),
        (pool("buffered", **buffered, **opens), several),
        (pool("duplex-open", **opens), several),
        (pool("few-duplex"), few),
        (pool("few-buffered", **buffered), few),
        (pool("heavy"), ("a",)),
        (pool("light"), ("b",)),
    ]
    rules = [
        RouteRule(
            (RouteMatch(headers=(ValueMatch("x-pool", one.name.name),)),),
            (RouteBackend(one.name),),
        )
        for one, _ in members
    ]
    rules.append(
        RouteRule(
            (RouteMatch(headers=(ValueMatch("x-pool", "weighted"),)),),
            (RouteBackend(NAME("heavy"), weight=70), RouteBackend(NAME("light"), weight=30)),
        )
    )
    return World(
        pools={one.name: one for one, _ in members},
        endpoints={
            one.name: tuple(sorted(map(endpoint, names), key=lambda e: e.key))
            for one, names in members
        },
        models=tuple(
            # Of the weighted two, only the light one's model is written down.
            InferenceModel(one, one, "asked", targets=(TargetModel(target),))
            for one, target in (
                (NAME("duplex"), "told"),
                (NAME("buffered"), "a-much-longer-name"),
                (NAME("light"), "asked"),
            )
        ),
        routes=(HTTPRoute(NAME("all"), rules=tuple(rules)),),
    )


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        pods = {
            name: await stack.enter_async_context(Pod().running()) for name in ("a", "b", "asleep")
        }
        pods["asleep"].status = 503
        resetter = await stack.enter_async_context(Resetter().running())
        addresses = {name: pod.address for name, pod in pods.items()}
        addresses["resets"] = resetter.address
        addresses["dead"] = stack.enter_context(dead_endpoint())
        addresses["dead-too"] = stack.enter_context(dead_endpoint())
        addresses["black-hole"] = stack.enter_context(black_hole())
        worlds = Worlds()
        worlds.say(pools_and_routes(addresses))
        server = EndpointPickerServer(
            worlds,
            PickerConfig(
                address="127.0.0.1:0",
                health_address=None,
                http_address="127.0.0.1:0",
                transport=TransportKind.NATIVE,
                exchange=ExchangeSettings(pick_timeout=PICK_TIMEOUT),
                endpoints_per_pick=2,
                scrape=ScrapeSettings(interval=60),
                health=ROBUST,
                models_interval=0,
            ),
        )
        server.director.fleet.use(lambda pool: scripted())
        questions = Questions(server.director)
        # Where the server puts traces around its picker, there is room for this too.
        patch.setattr(server, "_traced", lambda picker: questions)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        control = ControlPlane(
            worlds,
            TranslateSettings(
                listen_address="127.0.0.1",
                listen_port=0,
                ext_proc=ExtProcSettings((parse_target(server.address),)),
            ),
            XdsServerConfig(port=0),
            HttpConfig(port=0),
        )
        await control.start()
        stack.push_async_callback(control.stop, 0)
        config = bootstrap(BootstrapSettings(xds=(SocketAddress("127.0.0.1", control.port),)))
        folder: Path = tmp_path_factory.mktemp("envoy")
        proxy = await stack.enter_async_context(envoy(config, folder))
        await eventually(proxy.listening, "a listener is active")

        async def picker_is_healthy() -> bool:
            return await proxy.stat("cluster.ext-proc.membership_healthy") == 1

        await eventually(picker_is_healthy, "Envoy finds the picker healthy")
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=30)
            )
        )
        yield Site(
            proxy,
            await proxy.url(),
            server,
            questions,
            worlds,
            pods,
            resetter,
            addresses,
            http,
        )


@pytest_asyncio.fixture(loop_scope="module")
async def site(running: Site) -> AsyncIterator[Site]:
    """As new before each test; afterwards nothing is in flight and no request went by the
    picker."""
    for pod in running.pods.values():
        pod.requests.clear()
        pod.reply = None
    running.resetter.requests = 0
    questions = running.questions
    for memory in (questions.hung, questions.withdrawn, questions.gathered):
        memory.clear()
    yield running
    await eventually(running.has_nothing_in_flight, "the picker settles every request")
    assert await running.envoy.stat("http.inference.ext_proc.failure_mode_allowed") == 0
    assert await running.envoy.stat("http.inference.ext_proc.spurious_msgs_received") == 0


# -- pods ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", MODES)
async def test_dead_then_live_is_answered_by_live(site: Site, pool: str) -> None:
    for _ in range(10):
        assert await site.post(pool, "dead,b") == (200, "b")
    decision = await site.last_decision()
    assert decision["endpoints"] == [site.addresses["dead"], site.addresses["b"]]
    assert decision["completed"]["attempts"] == 2
    assert decision["completed"]["served"] == site.addresses["b"]


@pytest.mark.parametrize("pool", ["few-duplex", "few-buffered"])
async def test_an_exhausted_list_is_followed_by_envoys_own_choice(site: Site, pool: str) -> None:
    answers = [await site.post(pool, "dead,dead-too") for _ in range(20)]
    assert {status for status, _ in answers} == {200}
    assert {pod for _, pod in answers} <= {"a", "b"}


async def test_a_pod_that_swallows_connections_costs_the_connect_timeout_and_no_more(
    site: Site,
) -> None:
    began = time.monotonic()
    assert await site.post("duplex", "black-hole,a") == (200, "a")
    assert 0.9 < time.monotonic() - began < 2.5


@pytest.mark.parametrize("pool", MODES)
async def test_a_pod_that_resets_is_not_asked_twice_and_no_other_runs_the_prompt(
    site: Site, pool: str
) -> None:
    assert await site.post(pool, "resets,a") == (503, "connection_lost")
    assert site.resetter.requests == 1
    assert site.received() == []
    decision = await site.last_decision()
    assert decision["completed"]["flags"] == ["UC"]


@pytest.mark.parametrize("pool", MODES)
async def test_a_pod_that_answers_503_is_followed_by_the_next(site: Site, pool: str) -> None:
    for _ in range(5):
        assert await site.post(pool, "asleep,b") == (200, "b")
    assert len(site.pods["asleep"].requests) == 5


async def test_a_draining_pod_gets_no_new_request_and_finishes_the_one_it_has(site: Site) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    class Slow(web.StreamResponse):
        async def prepare(self, request: Any) -> Any:
            self.headers["x-pod"] = site.addresses["a"]
            writer = await super().prepare(request)
            await self.write(b"data: one\n\n")
            begun.set()
            await finish.wait()
            await self.write(b"data: [DONE]\n\n")
            return writer

    site.pods["a"].reply = lambda _: Slow()
    long = asyncio.create_task(site.post("duplex", "a,b"))
    await begun.wait()
    site.pods["a"].reply = None
    before = site.worlds.now
    duplex = NAME("duplex")
    site.worlds.say(
        replace(
            before,
            endpoints={
                **before.endpoints,
                duplex: tuple(
                    replace(e, draining=e.name == "a") for e in before.endpoints_of(duplex)
                ),
            },
        )
    )
    try:

        async def drains() -> bool:
            hosts = await site.envoy.hosts("pool/default/duplex")
            member = site.server.director.fleet.members[site.addresses["a"]]
            return hosts[site.addresses["a"]] == "DRAINING" and member.candidate.endpoint.draining

        await eventually(drains, "both servers and Envoy know that the pod drains")
        for _ in range(10):
            assert await site.post("duplex", "a,b") == (200, "b")
        assert not long.done()
        finish.set()
        assert await long == (200, "a")
    finally:
        site.worlds.say(before)
        await eventually(
            lambda: (
                not any(
                    member.candidate.endpoint.draining
                    for member in site.server.director.fleet.members.values()
                )
            ),
            "the pod is back",
        )


# -- clients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", MODES)
async def test_a_destination_header_of_the_client_has_no_effect(site: Site, pool: str) -> None:
    forged = {"x_gateway_destination_endpoint": site.addresses["a"]}
    for _ in range(5):
        assert await site.post(pool, "b", **forged) == (200, "b")
    for seen in site.received():
        told = seen.headers["x-gateway-destination-endpoint"].split(",")
        assert told[0] == site.addresses["b"]


@pytest.mark.parametrize("pool", MODES)
@pytest.mark.parametrize("chunked", [False, True])
async def test_after_a_rewrite_the_pod_gets_exactly_the_bytes_that_are_announced(
    site: Site, pool: str, chunked: bool
) -> None:
    sent = b'{ "seed": 1e2,"model":"asked", "prompt": "\\u0041' + b"x" * 300_000 + b'"}'
    name = {"duplex": b"told", "buffered": b"a-much-longer-name"}[pool]
    wanted = sent.replace(b"asked", name)

    async def in_chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(sent), 50_000):
            yield sent[at : at + 50_000]

    for _ in range(3):  # a wrong length would spoil the next request on the pod's connection
        body = in_chunks() if chunked else sent
        assert await site.post(pool, "a", body) == (200, "a")
    for seen in site.received():
        assert seen.body == wanted
        length = seen.headers.get("content-length")
        assert length == str(len(wanted)) or (
            length is None and seen.headers["transfer-encoding"] == "chunked"
        )
    assert len(site.received()) == 3


@pytest.mark.parametrize("pool", MODES)
async def test_a_websocket_is_let_through_at_once_and_talks(site: Site, pool: str) -> None:
    headers = {"x-pool": pool, "x-order": "b"}
    async with site.http.ws_connect(f"{site.url}/realtime", headers=headers) as talk:
        for word in ("one", "two"):
            await talk.send_str(word)
            heard = await talk.receive_str(timeout=5)
            assert heard == f"{site.addresses['b']} heard {word}"


async def test_a_weighted_choice_stays_with_the_pool_that_envoy_chose(site: Site) -> None:
    """Although the model's name leads to one of the two."""
    answers = Counter([await site.post("weighted") for _ in range(200)])
    assert answers.keys() == {(200, "a"), (200, "b")}
    assert 110 <= answers[200, "a"] <= 170
    url = f"http://{site.server.http_address}/debug/decisions?limit=200"
    async with site.http.get(url) as response:
        decisions = (await response.json())["decisions"]
    picked = Counter(decision["pool"] for decision in decisions)
    assert picked == {
        "default/heavy": answers[200, "a"],
        "default/light": answers[200, "b"],
    }


# -- the picker ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [*MODES, "duplex-open"])
async def test_a_picker_that_hangs_is_bounded_by_its_own_deadline(site: Site, pool: str) -> None:
    began = time.monotonic()
    assert await site.post(pool, x_test="hang") == (503, "pick-timeout")
    assert PICK_TIMEOUT <= time.monotonic() - began < PICK_TIMEOUT + 1
    assert site.questions.withdrawn == site.questions.hung
    assert site.received() == []


async def test_more_requests_at_once_than_envoys_default_limits_all_reach_the_picker(
    site: Site,
) -> None:
    """On a pool that fails open, where a bypass would be silent."""
    answers = await asyncio.gather(
        *(site.post("duplex-open", "a,b", x_test="gather") for _ in range(AT_ONCE))
    )
    assert Counter(answers) == {(200, "a"): AT_ONCE}
    assert len(site.questions.gathered) == AT_ONCE
    for name in ("upstream_rq_active_overflow", "upstream_rq_pending_overflow"):
        assert await site.envoy.stat(f"cluster.ext-proc.{name}") == 0
    assert await site.envoy.stat("http.inference.ext_proc.streams_failed") == 0


TO_OPEN = {"x-pool": "open"}
_MANIFESTS = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: {name}
  annotations:
    poolpilot.dev/request-body-mode: {body_mode}
spec:
  selector:
    matchLabels:
      app: {name}
  targetPorts:
  - number: 8000
  endpointPickerRef:
    name: extproc
    failureMode: {failure_mode}
    port:
      number: 9002
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {name}
spec:
  rules:
  - matches:
    - headers:
      - name: x-pool
        value: {name}
    backendRefs:
    - group: inference.networking.k8s.io
      kind: InferencePool
      name: {name}
---
"""


class WithoutXds(Stack):
    """A stack whose xDS server is the test's own, with patience of its own."""

    def start_xds(self) -> None:
        pass


@pytest_asyncio.fixture(loop_scope="module")
async def processes(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    """A picker that can be stopped and killed, and an Envoy with little patience. The parameter:
    seconds that it waits for an answer, where that is limited."""
    stack = WithoutXds(
        tmp_path,
        Ports.free(2),
        ["pod-0", "pod-1"],
        find_envoy(),
        delta=True,
        pod_options=("--time-scale=200",),
        extproc_options=["--transport=native"],
    )
    stack.write(
        {
            "pools.yaml": _MANIFESTS.format(
                name="closed", failure_mode="FailClose", body_mode="FullDuplexStreamed"
            )
            + _MANIFESTS.format(name="open", failure_mode="FailOpen", body_mode="Buffered"),
            "closed.yaml": endpoints(stack.placed("pod-0"), "closed"),
            "open.yaml": endpoints(stack.placed(), "open"),
        }
    )
    control = ControlPlane(
        FilesSource(stack.manifests),
        TranslateSettings(
            listen_address=LOOPBACK,
            listen_port=stack.ports.listener.port,
            reuse_port=False,
            ext_proc=ExtProcSettings(
                (SocketAddress(LOOPBACK, stack.ports.extproc.port),),
                message_timeout=getattr(request, "param", 10.0),
            ),
            stream_idle_timeout=IDLE_TIMEOUT,
        ),
        XdsServerConfig(port=stack.ports.xds.port),
        HttpConfig(port=stack.ports.xds_http.port),
    )
    try:
        stack.start()
        await control.start()
        await stack.ready(60)
        yield stack
    finally:
        stack.stop()
        await control.stop(0)


async def test_a_picker_that_is_frozen_is_bounded_by_envoys_idle_timeout_and_passed_over(
    processes: Stack,
) -> None:
    picker = processes.children["extproc"]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:

        async def ask(pool: str) -> tuple[int, str]:
            url, headers = f"{processes.url}/v1/completions", {"x-pool": pool}
            body = {"model": BASE_MODEL, "prompt": "Hi", "max_tokens": 4}
            async with http.post(url, json=body, headers=headers) as response:
                answer = await response.json()
                return response.status, answer.get("error", {}).get("code", "")

        async def in_flight() -> int:
            async with http.get(f"{processes.extproc_url}/debug/endpoints") as response:
                return sum(row["in_flight"] for row in (await response.json())["endpoints"])

        async def nothing_in_flight() -> bool:
            return await in_flight() == 0

        assert await ask("closed") == await ask("open") == (200, "")
        picker.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert await ask("closed") == (504, "idle_timeout")
            assert time.monotonic() - began < IDLE_TIMEOUT + 1.5

            async def it_opens() -> bool:
                return await ask("open") == (200, "")

            await eventually(it_opens, "Envoy's health check finds the picker dead")
            began = time.monotonic()
            assert [await ask("open") for _ in range(30)] == [(200, "")] * 30
            assert await ask("closed") == (503, "picker_failed")
            assert time.monotonic() - began < IDLE_TIMEOUT, "nobody waits for it any more"
        finally:
            picker.signal(signal.SIGCONT)

        async def it_is_asked_again() -> bool:
            return await ask("closed") == (200, "")

        await eventually(it_is_asked_again, "Envoy's health check finds the picker alive")
        await eventually(nothing_in_flight, "what was asked while it was frozen is settled")


@pytest.mark.parametrize("processes", [1.0], indirect=True)
async def test_a_pick_that_envoy_never_saw_is_settled(processes: Stack) -> None:
    """Envoy goes on without it, or its client has gone, while the picker is frozen."""
    picker = processes.children["extproc"]
    good = json.dumps({"model": BASE_MODEL, "prompt": "Hi", "max_tokens": 4})
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:

        async def ask(pool: str, data: str, request_id: str, patience: float = 30) -> int:
            headers = {"x-pool": pool, "x-request-id": request_id}
            headers["content-type"] = "application/json"
            async with http.post(
                f"{processes.url}/v1/completions",
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=patience),
            ) as response:
                return response.status

        async def picks() -> list[dict[str, Any]]:
            url = f"{processes.extproc_url}/debug/decisions"
            async with http.get(url) as response:
                decisions = (await response.json())["decisions"]
            return [one for one in decisions if one["outcome"] == "routed"]

        async def all_over() -> bool:
            made = await picks()
            return len(made) == 3 and all(one["completed"] for one in made)

        assert await ask("closed", "not JSON", "again") == 400
        assert await ask("closed", good, "before") == 200
        picker.signal(signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                await ask("closed", good, "again", patience=0.5)
            async with http.get(f"{processes.url}/v1/models", headers=TO_OPEN) as response:
                assert response.status == 200
        finally:
            picker.signal(signal.SIGCONT)
        await eventually(all_over, "the picks that were made when it was too late are settled")


async def test_while_a_pool_fails_open_a_client_still_cannot_choose_its_pod(
    processes: Stack,
) -> None:
    """Right after a kill -9: thirty of thirty are answered, and by any pod."""
    processes.children["extproc"].kill()
    forged = {**TO_OPEN, "x-gateway-destination-endpoint": processes.pod_address("pod-0")}
    body = {"model": BASE_MODEL, "prompt": "Hi", "max_tokens": 4}
    answers: Counter[tuple[int, str]] = Counter()
    async with aiohttp.ClientSession() as http:
        for _ in range(30):
            async with http.post(
                f"{processes.url}/v1/completions", json=body, headers=forged
            ) as response:
                answers[response.status, response.headers[POD_HEADER]] += 1
    assert answers.keys() == {(200, "pod-0"), (200, "pod-1")}
