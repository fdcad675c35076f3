"""The HTTP server beside the xDS server: debug pages, metrics, health."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from pools.model import host_port


@dataclass(frozen=True, slots=True)
class HttpConfig:
    host: str = "127.0.0.1"
    """These pages show the whole configuration to whoever reaches them."""
    port: int = 18001
    """0: any free one."""
    names: tuple[str, ...] = ()
    """Host names, beside localhost, under which the pages may be asked for."""
    envoy_admins: tuple[str, ...] = ()
    """Envoy admin addresses (``host:port``), beside those on loopback, that the pages may ask."""


class _Embedded(uvicorn.Server):
    """A server that leaves the process's signals to whoever embeds it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    def __init__(self, app: ASGIApp, config: HttpConfig) -> None:
        self._config = config
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._server = _Embedded(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )

    @property
    def port(self) -> int:
        """The real one, also where any free port was asked for."""
        if self._socket is None:
            raise RuntimeError("the HTTP server was not started")
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Take the port and serve. Raises OSError, naming the address, when the port is taken."""
        config = self._config
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((config.host, config.port))
        except OSError as error:
            listening.close()
            where = host_port(config.host, config.port)
            raise OSError(error.errno, f"HTTP on {where}: {error.strerror}") from error
        self._socket = listening
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="xds-http")

    async def ended(self) -> None:
        """Returns when the server has stopped, whoever stopped it; raises what it died of."""
        if self._task is not None:
            await asyncio.wait([self._task])
            if self._task is not None:
                self._task.result()

    async def stop(self) -> None:
        if self._task is not None:
            self._server.should_exit = True
            await asyncio.wait([self._task])
            self._task = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
