"""Our transport and the real Envoy: over TCP, TLS and a Unix socket, with a handler that does what
the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from e2e.static_envoy import Envoy, Pod, configuration, eventually, running_envoy
from extproc.transport.api import Stream
from extproc.transport.h2 import Limits
from extproc.transport.h2.limits import Rate
from extproc.transport.native import NativeServer, Upkeep, serve_native
from extproc.transport.tls import TlsFiles
from extproc.wire import encode
from extproc.wire import ext_proc_pb2 as pb
from tests.extproc.test_native_server import write_certificate

PATH = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
LIMIT = 60.0
DUPLEX = "full_duplex_streamed"


@dataclass
class Script:
    """What the handlers do, and what became of them."""

    pod: str = ""
    hold: asyncio.Event | None = None
    """Answers wait for this."""
    started: int = 0
    closed: int = 0
    metadata: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, stream: Stream) -> Scripted:
        self.started += 1
        self.metadata.append(dict(stream.metadata))
        return Scripted(self, stream)


class Scripted:
    """Sends every request to the pod, with its body as it came."""

    def __init__(self, script: Script, stream: Stream) -> None:
        self._script = script
        self._stream = stream
        self._task: asyncio.Task[None] | None = None

    def on_message(self, message: bytes) -> None:
        request = pb.ProcessingRequest.FromString(message)
        if request.HasField("request_headers"):
            answer = encode.headers_response(self._script.pod, "pick-1")
        elif request.HasField("request_body"):
            body = request.request_body
            answer = encode.streamed_body(body.body, body.end_of_stream)
        else:
            answer = encode.REQUEST_TRAILERS_CONTINUE
        if self._script.hold is None:
            self._stream.send(answer)
        else:
            self._task = asyncio.create_task(self._later(self._task, answer))

    async def _later(self, before: asyncio.Task[None] | None, answer: bytes) -> None:
        assert self._script.hold is not None
        await self._script.hold.wait()
        if before is not None:
            await before
        self._stream.send(answer)

    def on_half_close(self) -> None:
        self._stream.finish()

    def on_closed(self) -> None:
        self._script.closed += 1


@dataclass
class World:
    script: Script
    pod: Pod
    server: NativeServer
    envoy: Envoy
    http: aiohttp.ClientSession

    async def post(self, body: bytes, mode: str = DUPLEX) -> int:
        url = f"{self.envoy.listeners['plain']}/{mode}/v1/completions"
        async with self.http.post(url, data=body) as response:
            await response.read()
            return response.status


def link_over(kind: str, folder: Path) -> tuple[str, TlsFiles | None]:
    """Where the server listens, and with which certificate."""
    if kind == "unix":
        return f"unix:{folder / 'picker.sock'}", None
    return "127.0.0.1:0", write_certificate(folder, "picker") if kind == "tls" else None


def point_at(cluster: dict[str, Any], server: NativeServer, tls: TlsFiles | None) -> None:
    """Have Envoy's cluster lead to the server."""
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    if server.address.startswith("/"):
        endpoint["address"] = {"pipe": {"path": server.address}}
    if tls is not None:
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "localhost",
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "validation_context": {
                        "trusted_ca": {"filename": str(tls.certificate)},
                        "match_typed_subject_alt_names": [
                            {"san_type": "DNS", "matcher": {"exact": "localhost"}}
                        ],
                    },
                },
            },
        }


@asynccontextmanager
async def world(folder: Path, kind: str = "tcp", **options: Any) -> AsyncIterator[World]:
    script = Script()
    address, tls = link_over(kind, folder)
    async with Pod().running() as pod:
        script.pod = pod.address
        server = await serve_native({PATH: script}, address, tls=tls, **options)
        config = configuration(
            [pod.address], server.address if ":" in server.address else "127.0.0.1:1"
        )
        for listener in config["static_resources"]["listeners"]:
            hcm = listener["filter_chains"][0]["filters"][0]["typed_config"]
            hcm["access_log"] = []  # it would go to the same cluster, and is not served here
        picker = config["static_resources"]["clusters"][1]
        point_at(picker, server, tls)
        try:
            async with (
                running_envoy(config, folder) as envoy,
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(LIMIT)) as http,
            ):
                yield World(script, pod, server, envoy, http)
        finally:
            async with asyncio.timeout(LIMIT):
                await server.stop(0)


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix"])
async def test_bodies_of_all_sizes_come_through_whole(kind: str, tmp_path: Path) -> None:
    async with world(tmp_path, kind) as here:
        for size in (0, 1, 2_000, 70_000, 4_000_000):
            body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            assert await here.post(body) == 200
            assert here.pod.requests[-1].body == body
        assert await here.post(b"", mode="none") == 200
        await eventually(lambda: here.script.closed == here.script.started == 6)
        assert here.server.open_calls == 0
        assert here.script.metadata[0]["x-inference-pool"] == "default/llm"
        assert here.server.connections == 1


async def test_more_requests_than_resets_are_allowed_share_one_connection(
    tmp_path: Path,
) -> None:
    """Envoy resets each of them at its end: to our limits that is nothing. (They are a hundredth
    of the usual ones here, so that fewer requests tell.)"""
    limits = Limits(resets=Rate(10, 100), ignored_frames=Rate(10, 100), empty_frames=Rate(1, 10))
    async with world(tmp_path, limits=limits) as here:
        left = 1_500

        async def client() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                assert await here.post(b"x" * 500) == 200

        await asyncio.gather(*(client() for _ in range(32)))
        await eventually(lambda: here.script.closed == here.script.started)
        stats = await here.envoy.stats("cluster.picker.upstream_cx_total")
        assert stats == {"cluster.picker.upstream_cx_total": 1}


async def test_a_thousand_requests_wait_at_once_and_are_answered(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.script.hold = asyncio.Event()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            here.http = http
            waiting = [asyncio.create_task(here.post(b"x" * 500)) for _ in range(1_000)]
            await eventually(lambda: here.script.started == 1_000)
            here.script.hold.set()
            assert set(await asyncio.gather(*waiting)) == {200}


async def test_clients_that_go_away_while_they_wait_leave_nothing_behind(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.script.hold = asyncio.Event()
        waiting = [asyncio.create_task(here.post(b"x" * 500)) for _ in range(50)]
        await eventually(lambda: here.script.started == 50)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await eventually(lambda: here.script.closed == 50)
        here.script.hold.set()
        assert await here.post(b"after") == 200


async def test_a_draining_server_finishes_what_it_began(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.script.hold = asyncio.Event()
        waiting = [asyncio.create_task(here.post(b"x" * 500)) for _ in range(20)]
        await eventually(lambda: here.script.started == 20)
        stopping = asyncio.create_task(here.server.stop(LIMIT))
        await asyncio.sleep(0)
        here.script.hold.set()
        assert set(await asyncio.gather(*waiting)) == {200}
        await asyncio.wait_for(stopping, LIMIT)


async def test_connections_that_are_asked_to_go_cost_no_request(tmp_path: Path) -> None:
    async with world(tmp_path, upkeep=Upkeep(max_connection_age=1.0)) as here:
        statuses = []

        async def client() -> None:
            while (await here.envoy.stats("cluster.picker.upstream_cx_total"))[
                "cluster.picker.upstream_cx_total"
            ] < 4:
                statuses.extend([await here.post(b"x" * 500) for _ in range(20)])

        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*(client() for _ in range(4)))
        assert set(statuses) == {200}
