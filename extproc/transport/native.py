"""Our gRPC server: asyncio at the edge, :mod:`extproc.transport.h2` inside.

One write per turn of the event loop: the answers to all that one read brought go out together, and
so does everything that handlers send between two turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from dataclasses import dataclass

import structlog

from extproc.transport.api import Services
from extproc.transport.busy_poll import BusyPoll
from extproc.transport.h2 import Limits
from extproc.transport.listen import UnixAddress, bind, parse_address
from extproc.transport.native_connection import TICK, ServerConnection
from extproc.transport.tls import ServerTls, TlsFiles
from pools.addresses import host_port
from pools.seldom import Seldom
from pools.waiting import set_within

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How connections are looked after. Times in seconds."""

    keepalive_interval: float = 30.0
    """A connection that is silent this long is asked for a sign of life, ..."""
    keepalive_timeout: float = 20.0
    """... and is ended if none comes."""
    max_connection_age: float | None = None
    """After this a client is asked to connect anew (to another replica, perhaps). What it began
    here is finished here."""
    max_connections: int = 4096
    busy_poll: float = 0.0
    """For so long after each message more is looked for without sleeping. It takes a core."""


class NativeServer:
    """A running :class:`~extproc.transport.api.Server`. Made by :func:`serve_native`."""

    def __init__(
        self, services: Services, limits: Limits, upkeep: Upkeep, tls: ServerTls | None
    ) -> None:
        self.services = services
        self.limits = limits
        self.upkeep = upkeep
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self.busy_poll = BusyPoll(self._loop, upkeep.busy_poll) if upkeep.busy_poll else None
        self._connections: set[ServerConnection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._listener: asyncio.Server | None = None
        self._socket_file: tuple[str, int] | None = None
        self._address = ""
        self._ticker: asyncio.TimerHandle | None = None
        self._stopping = False
        self._problems = Seldom()

    async def start(self, address: str) -> None:
        where = parse_address(address)
        listener = bind(where)
        context: ssl.SSLContext | None = self._tls.context if self._tls is not None else None
        # Connections get to us, and are counted, after the handshake of TLS: it needs a limit too.
        within = self.limits.handshake_timeout if context is not None else None
        if isinstance(where, UnixAddress):
            self._address = where.path
            self._socket_file = (where.path, os.stat(where.path).st_ino)
            self._listener = await self._loop.create_unix_server(
                self._new_connection, sock=listener, ssl=context, ssl_handshake_timeout=within
            )
        else:
            self._address = host_port(
                where.host or listener.getsockname()[0], listener.getsockname()[1]
            )
            self._listener = await self._loop.create_server(
                self._new_connection, sock=listener, ssl=context, ssl_handshake_timeout=within
            )
        self._ticker = self._loop.call_later(TICK, self._tick)

    @property
    def address(self) -> str:
        return self._address

    @property
    def open_calls(self) -> int:
        """Calls in progress on all connections."""
        return sum(connection.open_calls for connection in self._connections)

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def stop(self, grace: float) -> None:
        """Take no new streams, let those in progress finish for up to ``grace`` seconds, then end
        them with UNAVAILABLE. Clients are told by GOAWAY at once, so that they go elsewhere."""
        if self._stopping:
            await self._empty.wait()
            return
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        self._remove_socket_file()
        now = self._loop.time()
        for connection in list(self._connections):
            connection.drain(now)
        await set_within(self._empty, grace)
        for connection in list(self._connections):
            connection.shut()
        await set_within(self._empty, TICK)
        for connection in list(self._connections):
            connection.abort()
        await self._empty.wait()
        if self._ticker is not None:
            self._ticker.cancel()

    # --- What connections tell

    def admit(self, connection: ServerConnection) -> bool:
        if self._stopping or len(self._connections) >= self.upkeep.max_connections:
            if not self._stopping:
                self.problem("too many connections; one more was refused", peer=connection.peer)
            return False
        self._connections.add(connection)
        self._empty.clear()
        return True

    def forget(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def problem(self, what: str, **details: object) -> None:
        """Log it, unless one of its kind was logged just now: a flood of faults must not become one
        of log lines. The next line says how many were left out."""
        more = self._problems.details(what, self._loop.time())
        if more is not None:
            log.warning(what, **details, **more)

    def _new_connection(self) -> ServerConnection:
        return ServerConnection(self, self._loop)

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(TICK, self._tick)
        if self._tls is not None:
            self._tls.refresh()
        now = self._loop.time()
        for connection in list(self._connections):
            connection.tick(now)

    def _remove_socket_file(self) -> None:
        if self._socket_file is not None:
            path, inode = self._socket_file
            # Not if another server has taken the path since.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)


async def serve_native(
    services: Services,
    address: str,
    *,
    tls: TlsFiles | None = None,
    limits: Limits | None = None,
    upkeep: Upkeep | None = None,
) -> NativeServer:
    """Serve on ``host:port`` (port 0: any), ``[ipv6]:port``, ``:port`` or ``unix:/path``, on the
    running event loop.

    :raises ValueError: the address cannot be used, or (TlsFilesError) the TLS files.
    :raises OSError: the address is taken, with what to do in its text.
    """
    server = NativeServer(
        services,
        limits or Limits(),
        upkeep or Upkeep(),
        ServerTls(tls) if tls is not None else None,
    )
    await server.start(address)
    return server
