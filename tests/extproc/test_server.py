"""The endpoint picker as a server, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc.aio
import pytest
from aiohttp import web

from extproc.config.memory import memory_limit
from extproc.config.settings import PickerConfig, TransportKind
from extproc.exchange.settings import ExchangeSettings
from extproc.picking.scraping import ScrapeSettings
from extproc.service.access_log import METHOD as ACCESS_LOG
from extproc.service.ext_proc import METHOD as EXT_PROC
from extproc.service.server import EndpointPickerServer
from extproc.transport.h2 import Limits
from extproc.transport.native import Upkeep
from extproc.wire import access_log_pb2, ext_proc_pb2, health_pb2
from pools.model import Endpoint, InferencePool, ObjectName, World
from pools.tasks import PartEndedError

POOL = ObjectName("default", "llama")
CONFIG = PickerConfig(
    address="127.0.0.1:0",
    health_address="127.0.0.1:0",
    http_address="127.0.0.1:0",
    scrape=ScrapeSettings(interval=0.05),
    request_log_share=1.0,
)


class Worlds:
    """A source that yields what it is given."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[World | None] = asyncio.Queue()

    def give(self, world: World | None) -> None:
        self._queue.put_nowait(world)

    async def worlds(self) -> AsyncIterator[World]:
        while (world := await self._queue.get()) is not None:
            yield world


def world(*endpoints: Endpoint) -> World:
    return World(pools={POOL: InferencePool(POOL, (8000,))}, endpoints={POOL: endpoints})


POD = Endpoint("127.0.0.1", 9, "pod")


@asynccontextmanager
async def running(
    worlds: Worlds, config: PickerConfig = CONFIG
) -> AsyncIterator[EndpointPickerServer]:
    server = EndpointPickerServer(worlds, config)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(grace=0)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110  # nothing of a socket sets an event
            await asyncio.sleep(0.01)


async def get(server: EndpointPickerServer, path: str) -> tuple[int, str]:
    url = f"http://{server.http_address}{path}"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.text()


async def is_ready(server: EndpointPickerServer) -> bool:
    return (await get(server, "/readyz"))[0] == 200


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[Any]:
    """Untyped, as messages are bytes here."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


async def serving(address: str, service: str = "") -> bool:
    async with channel_to(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        asked = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        answer = health_pb2.HealthCheckResponse.FromString(await check(asked))
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def headers_of(path: str, end: bool) -> bytes:
    request = ext_proc_pb2.ProcessingRequest()
    request.protocol_config.request_body_mode = ext_proc_pb2.ProcessingMode.FULL_DUPLEX_STREAMED
    request.request_headers.end_of_stream = end
    for name, value in ((":path", path), (":method", "POST"), ("x-request-id", "r-1")):
        request.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    return request.SerializeToString()


def body_of(document: dict[str, object]) -> bytes:
    request = ext_proc_pb2.ProcessingRequest()
    request.request_body.body = json.dumps(document).encode()
    request.request_body.end_of_stream = True
    return request.SerializeToString()


async def ask(address: str, prompt: str = "hi") -> ext_proc_pb2.ProcessingResponse:
    """What Envoy is told first about a completion request."""
    async with channel_to(address) as channel:
        call = channel.stream_stream(EXT_PROC)(metadata=(("x-inference-pool", str(POOL)),))
        await call.write(headers_of("/v1/completions", end=False))
        await call.write(body_of({"model": "m", "prompt": prompt}))
        answer = await call.read()
        await call.done_writing()
        return ext_proc_pb2.ProcessingResponse.FromString(answer)


@pytest.mark.parametrize("transport", list(TransportKind))
async def test_it_is_ready_with_the_first_world_and_not_before(transport: TransportKind) -> None:
    worlds = Worlds()
    config = PickerConfig(
        address="127.0.0.1:0",
        health_address="127.0.0.1:0",
        http_address="127.0.0.1:0",
        transport=transport,
    )
    async with running(worlds, config) as server:
        assert not await serving(server.address)
        assert not await serving(server.health_address, "readiness")
        assert await serving(server.health_address, "liveness")
        assert not await is_ready(server)
        answer = await ask(server.address)
        assert answer.immediate_response.status.code == 503
        worlds.give(world(POD))
        await eventually(lambda: is_ready(server))
        assert await serving(server.address, "envoy.service.ext_proc.v3.ExternalProcessor")
        assert await serving(server.health_address, "readiness")


@pytest.mark.parametrize("transport", list(TransportKind))
async def test_a_request_is_routed_and_its_end_settles_it(transport: TransportKind) -> None:
    worlds = Worlds()
    config = PickerConfig("127.0.0.1:0", None, "127.0.0.1:0", transport)
    worlds.give(world(POD))
    async with running(worlds, config) as server:
        await eventually(lambda: is_ready(server))
        answer = await ask(server.address)
        metadata = answer.dynamic_metadata.fields
        lb = metadata["envoy.lb"].struct_value.fields
        assert lb["x-gateway-destination-endpoint"].string_value == POD.key
        pick_id = metadata["poolpilot"].struct_value.fields["pick"].string_value
        assert len(server.director.ledger) == 1

        ended = access_log_pb2.StreamAccessLogsMessage()
        entry = ended.http_logs.log_entry.add()
        entry.common_properties.access_log_type = access_log_pb2.DownstreamEnd
        ours = entry.common_properties.metadata.filter_metadata["poolpilot"]
        ours.fields["pick"].string_value = pick_id
        entry.response.response_code.value = 200
        async with channel_to(server.address) as channel:
            log = channel.stream_unary(ACCESS_LOG)()
            await log.write(ended.SerializeToString())

            async def settled() -> bool:
                return len(server.director.ledger) == 0

            await eventually(settled)
            log.cancel()
        status, text = await get(server, f"/debug/decisions/{pick_id}")
        assert status == 200
        assert json.loads(text)["completed"]["code"] == 200
        assert 'poolpilot_responses_total{code="200"' in (await get(server, "/metrics"))[1]


async def test_the_pods_metrics_are_read_and_followed() -> None:
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text="vllm:num_requests_waiting 3\nvllm:kv_cache_usage_perc 0.5\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    [(_, port)] = runner.addresses
    pod = Endpoint("127.0.0.1", 8000, "pod", metrics_port=port)
    worlds = Worlds()
    worlds.give(world(pod))
    async with running(worlds) as server:

        async def scraped() -> bool:
            _, text = await get(server, "/debug/endpoints")
            waiting: list[int] = [row["waiting"] for row in json.loads(text)["endpoints"]]
            return waiting == [3]

        await eventually(scraped)
        worlds.give(world())

        async def gone() -> bool:
            _, text = await get(server, "/debug/endpoints")
            return not json.loads(text)["endpoints"]

        await eventually(gone)
    await runner.cleanup()


async def test_a_world_that_cannot_be_taken_over_leaves_the_last_one_in_force() -> None:
    worlds = Worlds()
    worlds.give(world(POD))
    async with running(worlds) as server:
        await eventually(lambda: is_ready(server))
        good = world()
        worlds.give(World(revision=8, pools=good.pools, endpoints={POOL: (None,)}))  # type: ignore[dict-item]  # on purpose

        async def shown() -> bool:
            return "revision 8" in str(json.loads((await get(server, "/debug"))[1])["error"])

        await eventually(shown)
        assert await is_ready(server)
        assert list(server.director.fleet.members) == [POD.key]
        worlds.give(good)

        async def taken_over() -> bool:
            return not server.director.fleet.members

        await eventually(taken_over)
        assert json.loads((await get(server, "/debug"))[1])["error"] is None


async def test_stopping_says_so_first_and_lets_what_is_open_finish() -> None:
    worlds = Worlds()
    worlds.give(world(POD))
    async with running(worlds) as server:
        await eventually(lambda: is_ready(server))
        async with channel_to(server.address) as channel:
            log = channel.stream_unary(ACCESS_LOG)()
            await log.write(access_log_pb2.StreamAccessLogsMessage().SerializeToString())
            call = channel.stream_stream(EXT_PROC)(metadata=(("x-inference-pool", str(POOL)),))
            await call.write(headers_of("/v1/completions", end=False))
            await eventually(lambda: serving(server.health_address))
            stopping = asyncio.create_task(server.stop(grace=30))

            async def not_ready() -> bool:
                return not server.health.ready

            await eventually(not_ready)
            worlds.give(world(POD, Endpoint("127.0.0.2", 9, "new")))

            async def taken_over() -> bool:
                return len(server.director.fleet.members) == 2

            await eventually(taken_over)
            assert not server.health.ready
            await call.write(body_of({"model": "m", "prompt": "hi"}))
            answer = ext_proc_pb2.ProcessingResponse.FromString(await call.read())
            assert answer.WhichOneof("response") == "request_headers"
            await call.done_writing()
            async with asyncio.timeout(10):  # and the log stream, which never ends, holds up nobody
                await stopping


@pytest.mark.parametrize("transport", list(TransportKind))
async def test_who_watches_health_while_the_server_stops_is_told_and_holds_up_nobody(
    transport: TransportKind,
) -> None:
    worlds = Worlds()
    worlds.give(world(POD))
    async with running(worlds, dataclasses.replace(CONFIG, transport=transport)) as server:
        await eventually(lambda: is_ready(server))
        async with channel_to(server.address) as channel, channel_to(server.health_address) as to:
            call = channel.stream_stream(EXT_PROC)(metadata=(("x-inference-pool", str(POOL)),))
            await call.write(headers_of("/v1/completions", end=False))
            await serving(server.health_address)  # the headers have arrived before this answer
            stopping = asyncio.create_task(server.stop(grace=1000))

            async def not_ready() -> bool:
                return not server.health.ready

            await eventually(not_ready)
            watch = to.unary_stream("/grpc.health.v1.Health/Watch")(b"")
            told = health_pb2.HealthCheckResponse.FromString(await watch.read())
            assert told.status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await watch.code() is grpc.StatusCode.UNAVAILABLE
            assert await serving(server.health_address, "liveness"), "probes are answered still"
            await call.write(body_of({"model": "m", "prompt": "hi"}))
            await call.read()
            await call.done_writing()
            async with asyncio.timeout(10):
                await stopping


class SlowToStop:
    """A server with something in progress that takes all the time it gets."""

    address = "127.0.0.1:0"

    def __init__(self, overrun: float = 0.0) -> None:
        self._overrun = overrun
        self.given: float | None = None

    async def stop(self, grace: float) -> None:
        self.given = grace
        await asyncio.sleep(grace + self._overrun)


class SlowTraces:
    """Spans for a collector that hangs."""

    given: float | None = None

    def close(self, within: float) -> None:
        self.given = within


@pytest.mark.looptime
@pytest.mark.parametrize(("grace", "first", "second"), [(30, 30, 0), (0, 0, 0)])
async def test_all_servers_share_one_grace_period(
    grace: float, first: float, second: float
) -> None:
    server = EndpointPickerServer(Worlds(), CONFIG)
    serving, probes, traces = SlowToStop(overrun=1), SlowToStop(overrun=1), SlowTraces()
    server._serving = [serving, probes]
    server._traces = traces  # type: ignore[assignment]  # what stands in for it needs no package
    began = asyncio.get_running_loop().time()
    await server.stop(grace)
    assert (serving.given, probes.given) == (first, second)
    assert asyncio.get_running_loop().time() - began == pytest.approx(grace + 1)
    assert traces.given == 0.5, "spans cannot wait for a collector that hangs"


@pytest.mark.looptime
async def test_the_last_spans_get_some_of_a_grace_period_that_nobody_needs() -> None:
    server = EndpointPickerServer(Worlds(), CONFIG)
    traces = SlowTraces()
    server._traces = traces  # type: ignore[assignment]  # what stands in for it needs no package
    await server.stop(30)
    assert traces.given == 5


async def test_it_stops_with_an_error_when_its_source_ends() -> None:
    worlds = Worlds()
    worlds.give(world(POD))
    worlds.give(None)
    with pytest.raises(PartEndedError, match="source ended by itself"):
        async with asyncio.timeout(10):
            await EndpointPickerServer(worlds, CONFIG).run(grace=0)


async def test_it_stops_with_an_error_when_its_http_server_ends() -> None:
    """It would go on without pages, metrics and probes."""
    server = EndpointPickerServer(Worlds(), CONFIG)
    running = asyncio.create_task(server.run(grace=0))

    async def answers() -> bool:
        try:
            async with aiohttp.ClientSession() as session:
                url = f"http://{server.http_address}/healthz"
                return (await session.get(url)).status == 200
        except RuntimeError:  # it does not listen yet
            return False

    await eventually(answers)
    server._http._server.should_exit = True
    with pytest.raises(PartEndedError, match="HTTP server ended by itself"):
        async with asyncio.timeout(10):
            await running


async def test_it_stops_with_an_error_when_nobody_reads_the_metrics_of_a_pod_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> float:
        raise ArithmeticError("no delay")

    monkeypatch.setattr(ScrapeSettings, "delay_before_next", broken)
    worlds = Worlds()
    worlds.give(world(POD))
    with pytest.raises(PartEndedError, match=r"scraper ended: scrape .*:9 ended: no delay"):
        async with asyncio.timeout(10):
            await EndpointPickerServer(worlds, CONFIG).run(grace=0)


async def test_it_runs_until_cancelled_and_leaves_nothing_behind() -> None:
    worlds = Worlds()
    before = asyncio.all_tasks()
    server = EndpointPickerServer(worlds, CONFIG)
    task = asyncio.create_task(server.run(grace=0))
    worlds.give(world(POD))

    async def ready() -> bool:
        return server.health.ready

    await eventually(ready)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {task.get_name() for task in asyncio.all_tasks() - before} == set()


async def test_limits_of_the_transport_are_those_that_were_set() -> None:
    config = dataclasses.replace(CONFIG, upkeep=Upkeep(max_connections=1))
    async with running(Worlds(), config) as server:
        host, _, port = server.address.rpartition(":")
        first, _ = await asyncio.open_connection(host, int(port))
        assert await first.read(1), "the server's settings"
        second, _ = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionResetError):
            assert await second.read() == b""


def test_a_message_may_hold_a_body_of_the_largest_size() -> None:
    config = PickerConfig(exchange=ExchangeSettings(body_limit=200 << 20))
    assert config.transport_limits.max_message > 200 << 20
    small = PickerConfig(limits=Limits(max_message=50 << 20))
    assert small.transport_limits.max_message == 50 << 20


def test_all_bodies_together_may_take_a_quarter_of_the_memory_unless_told_otherwise() -> None:
    assert PickerConfig().bytes_held == max(memory_limit() // 4, 32 << 20)
    assert PickerConfig(held_limit=64 << 20).bytes_held == 64 << 20
    much = ExchangeSettings(body_limit=2 * memory_limit())
    assert PickerConfig(exchange=much).bytes_held == much.body_limit, "room for one"


@pytest.mark.parametrize("name", ["body_limit", "pick_timeout", "upload_timeout"])
def test_limits_of_an_exchange_that_cannot_work_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ExchangeSettings(**{name: 0})  # type: ignore[arg-type]  # the names are of numbers


async def test_the_page_of_settings_shows_them_and_no_password() -> None:
    config = dataclasses.replace(CONFIG, upkeep=Upkeep(max_connections=7))
    async with running(Worlds(), config) as server:
        _, text = await get(server, "/debug/config")
    shown = json.loads(text)["config"]
    assert shown["upkeep"]["max_connections"] == 7
    assert shown["exchange"]["body_limit"] == 32 << 20
    assert shown["transport"] == "native"
    traced = str(dataclasses.replace(CONFIG, trace_collector="http://me:hunter2@otel:4318").shown())
    assert "otel:4318" in traced
    assert "hunter2" not in traced


async def test_a_taken_address_is_an_error_that_names_it() -> None:
    async with running(Worlds()) as first:
        taken = first.http_address
        config = PickerConfig("127.0.0.1:0", None, taken)
        with pytest.raises(OSError, match=taken):
            await EndpointPickerServer(Worlds(), config).start()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"address": "9002"}, "address"),
        ({"http_address": "localhost"}, "http_address"),
        ({"profile": "best"}, "filter-tree, least-load"),
        ({"held_limit": 1000}, "held_limit"),
        ({"endpoints_per_pick": 0}, "endpoints_per_pick"),
        ({"in_flight_expiry": 0}, "in_flight_expiry"),
        ({"remembered_decisions": 0}, "remembered_decisions"),
        ({"request_log_share": 2}, "request_log_share"),
        ({"drain_delay": -1}, "drain_delay"),
        ({"transport": TransportKind.GRPCIO, "limits": Limits(max_streams=5)}, "native transport"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(
    settings: dict[str, object], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        PickerConfig(**settings)  # type: ignore[arg-type]  # wrong on purpose
