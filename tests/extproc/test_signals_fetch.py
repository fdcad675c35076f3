"""Getting pages from pods: reading HTTP/1.1 answers, and keeping connections."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.signals.fetch import IDLE, MAX_PAGE_BYTES, HttpFetch, ScrapeError
from extproc.signals.http_response import BadResponseError, ResponseReader, TooLargeError

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;name=value\r\nhel\r\n2\r\nlo\r\n0\r\nx-checksum: 1\r\n\r\n"
)
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + SIZED


def read(*pieces: bytes, limit: int = 1000) -> ResponseReader:
    reader = ResponseReader(limit)
    for piece in pieces:
        reader.feed(piece)
    return reader


@given(st.sampled_from([SIZED, CHUNKED, INTERIM]), st.lists(st.integers(0, 140), max_size=6))
def test_an_answer_reads_the_same_however_it_is_cut(answer: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    reader = read(*(answer[a:b] for a, b in itertools.pairwise(places)))
    assert (reader.status, reader.body) == (200, b"hello")
    assert reader.complete
    assert reader.keep_alive


@pytest.mark.parametrize("answer", [SIZED, CHUNKED, INTERIM])
def test_an_answer_is_complete_with_its_last_byte_and_no_sooner(answer: bytes) -> None:
    reader = read(answer[:-1])
    assert not reader.complete
    with pytest.raises(BadResponseError, match="closed in the middle"):
        reader.end()
    reader.feed(answer[-1:])
    assert reader.complete


def test_without_a_length_the_answer_ends_with_the_connection() -> None:
    reader = read(b"HTTP/1.0 200 OK\r\n\r\nhel", b"lo")
    assert not reader.complete
    reader.end()
    assert reader.complete
    assert reader.body == b"hello"
    assert not reader.keep_alive


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close", False),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive", True),
        (b"HTTP/1.1 200", True),
    ],
)
def test_whether_a_connection_can_be_kept(head: bytes, kept: bool) -> None:
    reader = read(head + b"\r\nContent-Length: 0\r\n\r\n")
    assert reader.complete
    assert reader.keep_alive is kept


def test_what_comes_after_an_answer_spoils_its_connection() -> None:
    reader = read(SIZED + b"HTTP/1.1 200 OK\r\n")
    assert reader.body == b"hello"
    assert not reader.keep_alive


def test_a_status_without_body_needs_no_length() -> None:
    assert read(b"HTTP/1.1 204 No Content\r\n\r\n").complete


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnope\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 5000,
    ],
)
def test_what_is_no_good_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(BadResponseError):
        read(answer)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 600, b"x" * 600),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"258\r\n" + b"x" * 600 + b"\r\n" + b"258\r\n",
        ),
    ],
)
def test_a_body_over_the_limit_is_refused_as_soon_as_that_is_known(
    pieces: tuple[bytes, ...],
) -> None:
    with pytest.raises(TooLargeError):
        read(*pieces)


# --- Over the network

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


@pytest.fixture
async def now() -> list[float]:
    return [1000.0]


@pytest.fixture
async def fetch(now: list[float]) -> AsyncIterator[HttpFetch]:
    client = HttpFetch(lambda: now[0])
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
        with pytest.raises(ScrapeError, match="without an answer") as raised:
            await fetch(url)
    assert not raised.value.alive


async def test_an_answer_that_is_cut_off_is_an_error(fetch: HttpFetch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SIZED[:-2])

    async with pod(serve) as url:
        with pytest.raises(ScrapeError, match="in the middle") as raised:
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


async def test_a_connection_that_is_not_used_any_more_is_closed(
    fetch: HttpFetch, now: list[float]
) -> None:
    closed = asyncio.Event()

    async def gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SIZED)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        closed.set()

    async def staying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SIZED)

    async with pod(gone) as first, pod(staying) as second:
        await fetch(first)
        now[0] += IDLE + 1
        await fetch(second)
        await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("url", ["https://10.0.0.1/metrics", "http://10.0.0.1:9/ x", "10.0.0.1:9"])
async def test_an_address_that_is_none_is_an_error(fetch: HttpFetch, url: str) -> None:
    with pytest.raises(ScrapeError, match="is not of the form"):
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
