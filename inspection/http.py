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
    """Serves an application, as a part of a server (see :mod:`pools.tasks`)."""

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

    @property
    def listener(self) -> socket.socket:
        """Where it listens. Raises RuntimeError while there is no such place."""
        if self._socket is None:
            raise RuntimeError("the HTTP server does not listen")
        return self._socket

    def listen(self, bound: socket.socket) -> None:
        """Own this socket from now on. Connections queue until it serves."""
        self._socket = bound

    async def run(self) -> None:
        """Serve until cancelled. Returns, or raises, before only if uvicorn ends by itself."""
        serving = asyncio.create_task(self._server.serve(sockets=[self.listener]), name="uvicorn")
        try:
            await asyncio.wait([serving])
            serving.result()
        finally:
            # Told to end, it closes what is open; cancelled, it would not.
            self._server.should_exit = True
            await asyncio.wait([serving])
            self.close()

    def close(self) -> None:
        """Give up the socket of a server that does not run."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
