"""Backends of tests: HTTP servers that tell what they were asked, on any loopback address."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from aiohttp import web

Answer = Callable[[Mapping[str, Any]], tuple[int, Mapping[str, str]]]
"""From what was asked to status and headers."""


def ok(_asked: Mapping[str, Any]) -> tuple[int, Mapping[str, str]]:
    return 200, {}


@contextlib.asynccontextmanager
async def http_pod(
    pod: str, address: str = "127.0.0.1", port: int = 0, answer: Answer = ok
) -> AsyncIterator[int]:
    """An HTTP/1.1 backend; yields its port."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        sent = {name.lower(): value for name, value in request.headers.items()}
        return _response(_asked(pod, request.path_qs, request.method, sent, address, bound()))

    def _response(asked: Mapping[str, Any]) -> web.Response:
        status, headers = answer(asked)
        return web.json_response(asked, status=status, headers=headers)

    def bound() -> int:
        number: int = runner.addresses[0][1]
        return number

    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    try:
        yield bound()
    finally:
        await runner.cleanup()


def _asked(
    pod: str, path: str, method: str, headers: Mapping[str, str], address: str, port: int
) -> dict[str, Any]:
    return {
        "pod": pod,
        "address": f"{address}:{port}",
        "httpPort": str(port),
        "host": headers.get("host", headers.get(":authority", "")),
        "method": method,
        "path": path,
        "headers": dict(headers),
    }


class _H2cPod(asyncio.Protocol):
    """HTTP/2 without TLS, and nothing else: a client that speaks HTTP/1.1 is cut off."""

    def __init__(self, pod: str, address: str) -> None:
        self._pod, self._address = pod, address
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._headers: dict[int, dict[str, str]] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._transport.abort()
            return
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                assert event.stream_id is not None
                assert event.headers is not None
                self._headers[event.stream_id] = {
                    bytes(name).decode(): bytes(value).decode() for name, value in event.headers
                }
            elif isinstance(event, h2.events.DataReceived):
                assert event.stream_id is not None
                self._h2.acknowledge_received_data(
                    event.flow_controlled_length or 0, event.stream_id
                )
            elif isinstance(event, h2.events.StreamEnded):
                assert event.stream_id is not None
                self._answer(event.stream_id)
        self._flush()

    def _answer(self, stream: int) -> None:
        assert self._transport is not None
        headers = self._headers.pop(stream)
        port = self._transport.get_extra_info("sockname")[1]
        asked = _asked(
            self._pod, headers[":path"], headers[":method"], headers, self._address, port
        )
        body = json.dumps(asked).encode()
        self._h2.send_headers(
            stream,
            [
                (":status", "200"),
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
            ],
        )
        self._h2.send_data(stream, body, end_stream=True)

    def _flush(self) -> None:
        assert self._transport is not None
        self._transport.write(self._h2.data_to_send())


@contextlib.asynccontextmanager
async def h2c_pod(pod: str, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """A backend that speaks HTTP/2 without TLS alone; yields its port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _H2cPod(pod, address), address, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
