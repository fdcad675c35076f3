"""Getting pages from model servers, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from extproc.signals.fetch import MAX_PAGE_BYTES, HttpFetch, ScrapeError

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def pod(serve: Serve) -> AsyncIterator[str]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics?x=1"
    finally:
        server.close()


@contextlib.asynccontextmanager
async def http_pod(
    metrics: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    [(host, port)] = runner.addresses
    try:
        yield f"http://{host}:{port}/metrics"
    finally:
        await runner.cleanup()


@pytest.fixture
async def fetch() -> AsyncIterator[HttpFetch]:
    client = HttpFetch()
    await client.open()
    yield client
    await client.close()


async def test_a_page_is_asked_for_in_plain_http(fetch: HttpFetch) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(SIZED)

    async with pod(serve) as url:
        assert await fetch(url) == b"hello"
    lines = asked[0].decode().split("\r\n")
    assert lines[0] == "GET /metrics?x=1 HTTP/1.1"
    assert f"Host: {url.split('/')[2]}" in lines
    assert "Accept-Encoding: identity" in lines


async def test_a_kept_connection_that_the_pod_closes_as_we_ask_is_replaced(
    fetch: HttpFetch,
) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SIZED)
        await reader.readuntil(b"\r\n\r\n")  # and hangs up without an answer

    async with pod(serve) as url:
        assert [await fetch(url) for _ in range(3)] == [b"hello"] * 3
    assert connections == 3


async def test_a_new_connection_that_is_closed_without_an_answer_is_an_error(
    fetch: HttpFetch,
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with pod(serve) as url:
        with pytest.raises(ScrapeError, match="isconnected") as raised:
            await fetch(url)
    assert not raised.value.alive


async def test_an_answer_that_is_cut_off_is_an_error(fetch: HttpFetch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SIZED[:-2])

    async with pod(serve) as url:
        with pytest.raises(ScrapeError, match="Not enough data") as raised:
            await fetch(url)
    assert not raised.value.alive


async def test_a_page_that_is_too_large_says_so_of_a_pod_that_lives(fetch: HttpFetch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_PAGE_BYTES + 1))
        await reader.read()

    async with pod(serve) as url:
        with pytest.raises(ScrapeError, match="larger than") as raised:
            await fetch(url)
    assert raised.value.alive


async def test_who_gives_up_waiting_leaves_no_connection_behind(fetch: HttpFetch) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        closed.set()

    async with pod(serve) as url:
        waiting = asyncio.create_task(fetch(url))
        await asked.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("url", ["http://10.0.0.1:99999/metrics", "10.0.0.1:9"])
async def test_an_address_that_is_none_is_an_error(fetch: HttpFetch, url: str) -> None:
    with pytest.raises(ScrapeError, match=re.escape("10.0.0.1:9")):
        await fetch(url)


async def test_an_ipv6_address_is_asked_without_its_brackets(fetch: HttpFetch) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + head)
        writer.close()

    try:
        server = await asyncio.start_server(connected, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert f"Host: [::1]:{port}\r\n".encode() in await fetch(f"http://[::1]:{port}/metrics")


async def test_pages_are_fetched_over_one_connection(fetch: HttpFetch) -> None:
    peers: set[object] = set()

    async def metrics(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(body=b"vllm:num_requests_waiting 1\n" * 10_000)

    async with http_pod(metrics) as url:
        for _ in range(5):
            assert len(await fetch(url)) == 280_000
    assert len(peers) == 1


@pytest.mark.parametrize(("status", "alive"), [(404, True), (500, False), (503, False)])
async def test_another_status_is_an_error(fetch: HttpFetch, status: int, alive: bool) -> None:
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(status=status)

    async with http_pod(metrics) as url:
        with pytest.raises(ScrapeError, match=str(status)) as raised:
            await fetch(url)
    assert raised.value.alive is alive


async def test_a_server_that_is_not_there_is_not_alive(fetch: HttpFetch) -> None:
    async def metrics(request: web.Request) -> web.Response:
        return web.Response()

    async with http_pod(metrics) as url:
        pass
    with pytest.raises(ScrapeError) as raised:
        await fetch(url)
    assert not raised.value.alive
