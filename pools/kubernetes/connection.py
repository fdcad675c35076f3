"""Requests to the API server: documents to read and to write, and streams of watch events."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from pools.dns import system_resolve
from pools.kubernetes.credentials import Credentials, CredentialsError

LOGIN_LIMIT = 60.0
"""Seconds that a program which logs us in may take."""
CONNECT_LIMIT = 10.0
"""Seconds to connect, TLS included."""
ANSWER_LIMIT = 30.0
"""Seconds after which a request whose answer has not begun is given up, and seconds without a byte
after which a list is."""
LINE_LIMIT = 32 * 1024 * 1024
"""Bytes of one watch event. etcd's default limit for an object is 1.5 MB."""
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
OK = (200, 201)
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A watch is silent for long; these find out within half a minute that the other end is gone."""


class ApiError(Exception):
    """The API server answered, but not with what was asked for."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message or reason or f"HTTP {status}")
        self.status = status
        self.reason = reason
        """Kubernetes' word for it, such as ``Expired``."""
        self.retry_after = retry_after
        """Seconds that the server wants to be left alone."""

    @property
    def expired(self) -> bool:
        """The resource version that was asked for is too old, or from a future that was lost."""
        return self.status == 410 or self.reason in ("Expired", "Gone")


class UnreachableError(Exception):
    """No answer: the server is away, refuses us, or the connection broke."""


class Status(msgspec.Struct):
    """What the API server says of a failure (kind ``Status``)."""

    message: str = ""
    reason: str = ""
    code: int = 0


class Connection:
    """An asynchronous context manager; requests may run side by side."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._session: aiohttp.ClientSession | None = None
        self.url = ""
        """Where the server is, once it was asked anything."""

    async def __aenter__(self) -> Connection:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_socket, resolver=_Resolver()),
            headers={"Accept": "application/json", "User-Agent": "poolpilot"},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> bytes:
        """The document at ``path``. Raises ApiError or UnreachableError."""
        async with self._request("GET", path, parameters or {}, ANSWER_LIMIT) as response:
            return await response.read()

    async def send(self, method: str, path: str, body: bytes, content_type: str = JSON) -> bytes:
        """Write something (POST, PUT or PATCH), and return what the server made of it. Raises
        ApiError or UnreachableError; after the latter it may or may not have been written."""
        async with self._request(
            method, path, {}, ANSWER_LIMIT, body, {"Content-Type": content_type}
        ) as response:
            return await response.read()

    async def watch(
        self, path: str, parameters: Mapping[str, str], silence: float
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a watch, until the server ends it. Empty text comes first: it was accepted.

        ``silence``: seconds without a byte after which it is given up. Raises ApiError or
        UnreachableError.
        """
        async with self._request("GET", path, parameters, silence) as response:
            yield b""
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield line
                if len(rest) > LINE_LIMIT:
                    raise UnreachableError(f"a watch event of more than {LINE_LIMIT} bytes")

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        silence: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "not entered"
        try:
            access = await self._credentials.access(LOGIN_LIMIT)
            self.url = access.url
            # A watch is silent for long, but not before it is accepted.
            async with asyncio.timeout(CONNECT_LIMIT + ANSWER_LIMIT):
                answer = await self._session.request(
                    method,
                    access.url + path,
                    params=parameters,
                    data=body,
                    headers={**access.headers, **(headers or {})},
                    ssl=access.tls,
                    server_hostname=access.server_name,
                    proxy=access.proxy,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=None, connect=CONNECT_LIMIT, sock_read=silence
                    ),
                )
            async with answer as response:
                if response.status not in OK:
                    raise await _api_error(response)
                yield response
        except ApiError as error:
            if error.status == 401:
                self._credentials.forget()
            raise
        except CredentialsError as error:
            raise UnreachableError(str(error)) from error
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError, OSError) as error:
            if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
                # Certificates of either side may have been renewed.
                self._credentials.forget()
            raise UnreachableError(_why(error)) from error


class _Resolver(AbstractResolver):
    """The system's resolver, without the event loop's threads (see ``pools.daemon``)."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in dict.fromkeys(await system_resolve(host))
        ]

    async def close(self) -> None:
        """There is nothing to close."""


async def _api_error(response: aiohttp.ClientResponse) -> ApiError:
    body = await response.read()
    try:
        status = msgspec.json.decode(body, type=Status)
    except msgspec.MsgspecError:
        status = Status(message=body[:200].decode(errors="replace").strip())
    try:
        retry_after = float(response.headers.get("Retry-After", "0"))
    except ValueError:  # a date
        retry_after = 1.0
    return ApiError(response.status, status.reason, status.message, min(retry_after, 60.0))


def _why(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error.os_error.strerror or error.os_error)
    return str(error) or type(error).__name__


def _socket(info: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        option = getattr(socket, name, None)  # not on every system
        if option is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
