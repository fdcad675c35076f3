"""Getting pages from model servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp

MAX_PAGE_BYTES = 8 * 1024 * 1024


class ScrapeError(Exception):
    """The endpoint did not give a page.

    ``alive`` tells whether it answered at all: a server without metrics is not a dead one.
    """

    def __init__(self, message: str, *, alive: bool) -> None:
        super().__init__(message)
        self.alive = alive


Fetch = Callable[[str], Awaitable[bytes]]
"""Get the page at this URL, or raise :class:`ScrapeError`."""


async def fetch_within(fetch: Fetch, url: str, seconds: float) -> bytes:
    """The page. Raises ScrapeError also if it takes longer: then the server may be dead."""
    try:
        async with asyncio.timeout(seconds):
            return await fetch(url)
    except TimeoutError:
        raise ScrapeError(f"{url} did not answer within {seconds:g} s", alive=False) from None


class HttpFetch:
    """Fetches pages over kept-alive connections, between :meth:`open` and :meth:`close`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=75, use_dns_cache=False),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "text/plain", "Accept-Encoding": "identity"},
            trust_env=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __call__(self, url: str) -> bytes:
        """The page. Its caller bounds the time.

        :raises ScrapeError: there is none.
        """
        if self._session is None:
            raise RuntimeError("HttpFetch is not open")
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise ScrapeError(
                        f"{url} answered {response.status}", alive=response.status < 500
                    )
                too_large = ScrapeError(f"{url} is larger than {MAX_PAGE_BYTES} bytes", alive=True)
                if (response.content_length or 0) > MAX_PAGE_BYTES:
                    raise too_large
                page = bytearray()
                async for piece in response.content.iter_any():
                    page += piece
                    if len(page) > MAX_PAGE_BYTES:
                        raise too_large
                return bytes(page)
        except (aiohttp.ClientError, OSError) as error:
            raise ScrapeError(f"{url}: {error or type(error).__name__}", alive=False) from error
