"""One client's connection to our server: asyncio outside, :mod:`extproc.transport.h2` inside."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

from extproc.transport.api import GrpcStatus, Handler
from extproc.transport.h2 import (
    Connection,
    ConnectionClosed,
    Event,
    HalfClosed,
    Message,
    StreamOpened,
)
from extproc.transport.h2.request import Request
from pools.addresses import host_port

if TYPE_CHECKING:
    from extproc.transport.native import NativeServer

TICK: Final = 1.0
"""How often connections are looked after, in seconds."""
_WRITE_HIGH_WATER: Final = 256 * 1024
_CLOSE_TIMEOUT: Final = 5.0
_KEEPALIVE: Final = b"alive? \0"


class Call:
    """One gRPC call: the :class:`~extproc.transport.api.Stream` of its handler."""

    __slots__ = ("_request", "connection", "deadline", "handler", "peer", "stream_id")

    def __init__(self, connection: ServerConnection, stream_id: int, request: Request) -> None:
        # None once the call is over, which also breaks the circle of call and handler.
        self.connection: ServerConnection | None = connection
        self.handler: Handler | None = None
        self.deadline: asyncio.TimerHandle | None = None
        self.stream_id = stream_id
        self.peer = connection.peer
        self._request = request

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._request.metadata

    @property
    def path(self) -> str:
        return self._request.path

    def send(self, message: bytes) -> None:
        if self.connection is not None:
            self.connection.send(self, message)

    def flush(self) -> None:
        if self.connection is not None:
            self.connection.flush()

    def finish(self, status: GrpcStatus = GrpcStatus.OK, message: str = "") -> None:
        if self.connection is not None:
            self.connection.finish(self, status, message)


class ServerConnection(asyncio.Protocol):
    """One client's connection: moves bytes between its socket and the state machine, and calls the
    handlers."""

    def __init__(self, server: NativeServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._busy_poll = server.busy_poll
        self._transport: asyncio.Transport | None = None
        self._http2: Connection | None = None
        self._calls: dict[int, Call] = {}
        self._over: list[Call] = []  # their handlers are still to be told
        self._flush_is_due = False
        self._to_handle = 0
        """Events that arrived with the one that is being handled, and come after it."""
        self._paused_since: float | None = None
        self._closing_since: float | None = None
        self._draining_since: float | None = None
        self._born = self._heard_at = loop.time()
        self._pinged_at: float | None = None
        self.peer = "unix"

    # --- asyncio.Protocol

    def connection_made(self, base: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, base)  # uvloop's is one without saying so
        address = transport.get_extra_info("peername")
        if isinstance(address, tuple):
            self.peer = host_port(address[0], address[1])
            with contextlib.suppress(OSError):
                transport.get_extra_info("socket").setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
                )
        self._transport = transport
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._server.problem("the client does not offer h2 by ALPN", peer=self.peer)
            transport.abort()
        elif not self._server.admit(self):
            transport.abort()
        else:
            transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)
            self._http2 = Connection(self._server.limits, self._loop.time())
            self._flush()

    def data_received(self, data: bytes) -> None:
        http2 = self._http2
        if http2 is None:
            return
        now = self._heard_at = self._loop.time()
        if self._busy_poll is not None:
            self._busy_poll.heard(now)
        # What handlers send meanwhile is flushed below: no need to be woken for it.
        self._flush_is_due = True
        self._dispatch(http2.receive(data, now), http2)
        self._flush()

    def eof_received(self) -> None:
        """Nobody is left to answer to: returning nothing lets the transport close."""

    def pause_writing(self) -> None:
        # A client that does not read its answers has no more of its requests read.
        self._paused_since = self._loop.time()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused_since = None
        if self._transport is not None and self._closing_since is None:
            self._heard_at = self._loop.time()
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._http2 = None
        self._end_all_calls()
        self._tell_handlers()
        self._server.forget(self)

    # --- What handlers ask for

    def send(self, call: Call, message: bytes) -> None:
        http2 = self._http2
        if http2 is None or not http2.send(call.stream_id, message):
            self._end_call(call)
        self._wake()

    def finish(self, call: Call, status: GrpcStatus, message: str) -> None:
        if self._http2 is not None:
            self._http2.finish(call.stream_id, status, message)
        self._end_call(call)
        self._wake()

    def flush(self) -> None:
        """Write now, unless what is still to be handled may want to be written with it."""
        if self._flush_is_due and not self._to_handle:
            self._write()

    def _wake(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        self._write()
        http2 = self._http2
        if http2 is not None and self._closing_since is None and (http2.closed or http2.drained):
            self._close(http2.fault)
        if self._over:
            self._tell_handlers()

    def _write(self) -> None:
        http2, transport = self._http2, self._transport
        if http2 is not None and transport is not None:
            data = http2.outgoing()
            if data:
                transport.write(data)
                if self._paused_since is not None:
                    self._check_unwritten(transport)

    def _check_unwritten(self, transport: asyncio.Transport) -> None:
        size = transport.get_write_buffer_size()
        if size > self._server.limits.max_unsent:
            self._server.problem(
                "the client does not read its answers; connection dropped",
                peer=self.peer,
                unwritten_bytes=size,
            )
            transport.abort()

    def _close(self, fault: ConnectionClosed | None) -> None:
        self._closing_since = self._loop.time()
        if fault is not None:
            self._server.problem(
                "connection closed for what the client did",
                peer=self.peer,
                reason=fault.reason,
                code=fault.code.name,
            )
        self._end_all_calls()
        if self._transport is not None:
            self._transport.close()

    # --- Events

    def _dispatch(self, events: list[Event], http2: Connection) -> None:
        calls = self._calls
        self._to_handle = len(events)
        for event in events:
            self._to_handle -= 1
            if isinstance(event, StreamOpened):
                self._open(event, http2)
                continue
            if isinstance(event, ConnectionClosed):
                self._to_handle = 0
                return  # what there is to do about it, _close does
            call = calls.get(event.stream_id)
            if call is None or call.handler is None:
                continue
            try:
                if isinstance(event, Message):
                    call.handler.on_message(event.data)
                elif isinstance(event, HalfClosed):
                    call.handler.on_half_close()
                else:
                    self._end_call(call)
            except Exception:
                self._failed(call)

    def _open(self, event: StreamOpened, http2: Connection) -> None:
        stream_id, request = event.stream_id, event.request
        method = self._server.services.get(request.path)
        if method is None:
            http2.finish(stream_id, GrpcStatus.UNIMPLEMENTED, f"no method {request.path}")
            return
        call = Call(self, stream_id, request)
        self._calls[stream_id] = call
        try:
            call.handler = method(call)
        except Exception:
            self._failed(call)
            return
        if request.timeout is not None and call.connection is not None:
            call.deadline = self._loop.call_later(
                request.timeout, call.finish, GrpcStatus.DEADLINE_EXCEEDED, "grpc-timeout passed"
            )

    def _failed(self, call: Call) -> None:
        """A handler raised: its stream ends, the others know nothing of it."""
        self._server.problem(
            "a handler failed; its stream ends with INTERNAL",
            peer=self.peer,
            path=call.path,
            exc_info=True,
        )
        call.finish(GrpcStatus.INTERNAL, "the server failed on this call")

    def _end_call(self, call: Call) -> None:
        """The call is over; its handler hears of it when the loop is done with what it does."""
        if self._calls.pop(call.stream_id, None) is not None:
            call.connection = None
            if call.deadline is not None:
                call.deadline.cancel()
                call.deadline = None
            self._over.append(call)

    def _end_all_calls(self) -> None:
        for call in list(self._calls.values()):
            self._end_call(call)

    def _tell_handlers(self) -> None:
        while self._over:
            over, self._over = self._over, []
            for call in over:
                handler, call.handler = call.handler, None
                if handler is None:
                    continue
                try:
                    handler.on_closed()
                except Exception:
                    self._server.problem(
                        "a handler failed when its stream was closed",
                        peer=self.peer,
                        path=call.path,
                        exc_info=True,
                    )

    # --- Upkeep

    @property
    def open_calls(self) -> int:
        return len(self._calls)

    def tick(self, now: float) -> None:
        """Look after the connection, about once a second."""
        http2, transport = self._http2, self._transport
        if http2 is None or transport is None:
            return
        if self._closing_since is not None:
            if now - self._closing_since > _CLOSE_TIMEOUT:
                transport.abort()
            return
        self._flush_is_due = True
        self._dispatch(http2.tick(now), http2)
        if self._draining_since is not None:
            if now - self._draining_since >= TICK:
                http2.drain_now()  # the client did not answer the PING: it knows all the same
        elif self._is_old(now):
            self.drain(now)
        if self._paused_since is not None:
            if now - self._paused_since > self._server.limits.stall_timeout:
                self._drop(transport, "the client does not read its answers; connection dropped")
        else:
            self._keep_alive(now, http2, transport)
        self._flush()

    def _is_old(self, now: float) -> bool:
        age = self._server.upkeep.max_connection_age
        return age is not None and now - self._born >= age

    def _keep_alive(self, now: float, http2: Connection, transport: asyncio.Transport) -> None:
        upkeep = self._server.upkeep
        if self._pinged_at is not None and self._heard_at >= self._pinged_at:
            self._pinged_at = None
        if self._pinged_at is None:
            if now - self._heard_at >= upkeep.keepalive_interval:
                self._pinged_at = now
                http2.ping(_KEEPALIVE)
        elif now - self._pinged_at >= upkeep.keepalive_timeout:
            self._drop(transport, "the client gives no sign of life; connection dropped")

    def _drop(self, transport: asyncio.Transport, why: str) -> None:
        self._server.problem(why, peer=self.peer)
        transport.abort()

    def drain(self, now: float) -> None:
        """Ask the client to go elsewhere, and close when its calls are finished."""
        if self._http2 is not None and self._draining_since is None:
            self._draining_since = now
            self._http2.drain()
            self._wake()

    def shut(self) -> None:
        """End what is still open, now."""
        http2, transport = self._http2, self._transport
        if http2 is None or transport is None or self._closing_since is not None:
            return
        for call in list(self._calls.values()):
            call.finish(GrpcStatus.UNAVAILABLE, "the server is shutting down")
        http2.close()
        self._flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
