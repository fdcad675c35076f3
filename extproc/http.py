"""The HTTP server beside the endpoint picker: uvicorn, in this process, on a socket of ours."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from extproc.transport.listen import bind, join_host_port, parse_address


class _Embedded(uvicorn.Server):
    """Leaves the process's signals to whoever embeds it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves an application from :meth:`start` to :meth:`stop`."""

    def __init__(self, application: ASGIApp) -> None:
        self._server = _Embedded(
            uvicorn.Config(
                application,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it really listens."""
        if self._socket is None:
            raise RuntimeError("the HTTP server was not started")
        name = self._socket.getsockname()
        return name if isinstance(name, str) else join_host_port(name[0], name[1])

    def start(self, address: str) -> None:
        """Raises OSError, which says what is in the way. Connections queue until it serves."""
        self._socket = bind(parse_address(address))
        self._task = asyncio.create_task(self._server.serve([self._socket]), name="http")

    async def stop(self) -> None:
        if self._task is not None:
            self._server.should_exit = True
            await self._task
            self._task = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
