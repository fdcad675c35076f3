"""Getting pages from model servers: HTTP/1.1 over connections that are kept.

A fleet is scraped many times a second for as long as the picker lives, and a full HTTP client took
more of its time than the requests of a hundred users. So this one does what is needed and no more:
GET, from addresses, without redirects, proxies, cookies or compression.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Callable
from typing import cast

from extproc.signals.http_response import BadResponseError, ResponseReader, TooLargeError

MAX_PAGE_BYTES = 8 * 1024 * 1024
IDLE = 75.0
"""Seconds after which a connection that was not used is closed."""

_URL = re.compile(r"http://(\[[0-9a-fA-F:.%]+\]|[^/:\[\]]+)(?::([0-9]{1,5}))?(/[!-~]*)?").fullmatch


class ScrapeError(Exception):
    """The endpoint did not give a page.

    ``alive`` tells whether it answered at all: a server without metrics is not a dead one.
    """

    def __init__(self, message: str, *, alive: bool) -> None:
        super().__init__(message)
        self.alive = alive


class HttpFetch:
    """Fetches pages, between :meth:`open` and :meth:`close`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._idle: dict[tuple[str, int], list[_Connection]] = {}
        """Those used last come last."""
        self._used: set[_Connection] = set()
        self._swept = 0.0
        self._is_open = False

    async def open(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        for connection in [*self._used, *(one for idle in self._idle.values() for one in idle)]:
            connection.abort()
        self._idle.clear()

    async def __call__(self, url: str) -> bytes:
        """The page. Its caller bounds the time.

        :raises ScrapeError: there is none.
        """
        if not self._is_open:
            raise RuntimeError("HttpFetch is not open")
        host, port, request = _target(url)
        try:
            answer = await self._get((host, port), request)
        except TooLargeError as error:
            raise ScrapeError(f"{url} is {error}", alive=True) from error
        except (BadResponseError, OSError) as error:
            raise ScrapeError(f"{url}: {error or type(error).__name__}", alive=False) from error
        if answer.status != 200:
            raise ScrapeError(f"{url} answered {answer.status}", alive=answer.status < 500)
        return answer.body

    async def _get(self, address: tuple[str, int], request: bytes) -> ResponseReader:
        self._sweep()
        idle = self._idle.setdefault(address, [])
        while idle:
            connection = idle.pop()
            if connection.usable:
                try:
                    return await self._ask(connection, address, request)
                except NothingCameError:
                    break  # it was closed as we asked, which a kept connection may be at any time
        return await self._ask(await _connect(address), address, request)

    async def _ask(
        self, connection: _Connection, address: tuple[str, int], request: bytes
    ) -> ResponseReader:
        self._used.add(connection)
        try:
            answer = await connection.ask(request)
        except BaseException:
            connection.abort()
            raise
        finally:
            self._used.discard(connection)
        if answer.keep_alive and self._is_open:
            connection.idle_since = self._clock()
            self._idle.setdefault(address, []).append(connection)
        else:
            connection.abort()
        return answer

    def _sweep(self) -> None:
        """Close what has not been used for long: endpoints go, and do not say so."""
        now = self._clock()
        if now - self._swept < IDLE / 5:
            return
        self._swept = now
        for address, idle in list(self._idle.items()):
            kept = [one for one in idle if one.usable and now - one.idle_since < IDLE]
            for connection in idle:
                if connection not in kept:
                    connection.abort()
            if kept:
                self._idle[address] = kept
            else:
                del self._idle[address]


class NothingCameError(ConnectionError):
    """The connection was closed before anything of an answer came."""

    def __init__(self) -> None:
        super().__init__("the connection was closed without an answer")


@functools.lru_cache(maxsize=16_384)
def _target(url: str) -> tuple[str, int, bytes]:
    """Where to connect, and what to send."""
    parts = _URL(url)
    if parts is None:
        raise ScrapeError(f"{url!r} is not of the form http://ADDRESS:PORT/PATH", alive=False)
    host, port, path = parts[1], parts[2], parts[3] or "/"
    authority = f"{host}:{port}" if port else host
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: */*\r\n"
        "Accept-Encoding: identity\r\nUser-Agent: poolpilot\r\n\r\n"
    )
    return host.strip("[]"), int(port or 80), request.encode("ascii")


async def _connect(address: tuple[str, int]) -> _Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: _Connection(loop), *address)
    return connection


class _Connection(asyncio.Protocol):
    """One connection, and the answer that it waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader: ResponseReader | None = None
        self._answer: asyncio.Future[ResponseReader] | None = None
        self._heard = False
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, request: bytes) -> ResponseReader:
        if self._transport is None:
            raise NothingCameError
        self._reader = ResponseReader(MAX_PAGE_BYTES)
        self._answer = self._loop.create_future()
        self._heard = False
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            self._reader = self._answer = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None or reader.complete:
            self.abort()  # nobody asked
            return
        self._heard = True
        try:
            reader.feed(data)
        except BadResponseError as error:
            self._fail(error)
            self.abort()
        else:
            if reader.complete and self._answer is not None and not self._answer.done():
                self._answer.set_result(reader)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        reader, answer = self._reader, self._answer
        if reader is None or answer is None or answer.done():
            return
        if not self._heard:
            self._fail(NothingCameError())
            return
        try:
            reader.end()
        except BadResponseError as error:
            self._fail(error)
        else:
            answer.set_result(reader)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
