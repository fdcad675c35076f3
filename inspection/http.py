"""The HTTP server beside a gRPC one: uvicorn, in this process, on a socket bound before."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp


class _Embedded(uvicorn.Server):
    """Leaves the process's signals to whoever embeds it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves an application from :meth:`start` to :meth:`stop`."""

    def __init__(self, app: ASGIApp) -> None:
        self._server = _Embedded(
            uvicorn.Config(
                app,
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
    def listener(self) -> socket.socket:
        """Where it listens. Raises RuntimeError before :meth:`start`."""
        if self._socket is None:
            raise RuntimeError("the HTTP server was not started")
        return self._socket

    def start(self, bound: socket.socket) -> None:
        """Serve on this socket, and own it from now on. Connections queue until it serves."""
        self._socket = bound
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]), name="http")

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
