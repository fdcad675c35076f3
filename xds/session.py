"""A stream's life on the wire: read requests, write what the protocol core says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import structlog

from pools.seldom import Seldom
from xds.config import XdsServerConfig
from xds.encoder import Encoder
from xds.fanout import Connection, Fanout
from xds.metrics import XdsMetrics
from xds.protocol.message import Request
from xds.protocol.stream import ProtocolError, Stream
from xds.recorder import Recorder
from xds.snapshot import Node
from xds.tls import identities, may_be
from xds.transport import Context, peer_address
from xds.wire.codec import decode_delta, decode_sotw

log = structlog.get_logger(__name__)

_LONGEST_ID = 1024
"""Characters. Ids are logged, and kept with what their nodes have acknowledged."""
_ids = itertools.count(1)


@dataclass(frozen=True, slots=True)
class StreamError:
    """Why the server ends a stream."""

    code: grpc.StatusCode
    details: str
    reason: str
    """For the metric: one of few words."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What all sessions of a server share."""

    config: XdsServerConfig
    metrics: XdsMetrics | None
    encoder: Encoder
    clock: Callable[[], float] = time.monotonic
    epoch: float = field(default_factory=lambda: time.time() - time.monotonic())
    """Turns the clock's time into seconds since the epoch."""
    problems: Seldom = field(default_factory=Seldom)
    """Which of them are logged."""

    def authorized(self, node: Node, names: tuple[str, ...]) -> bool:
        """Whether a client with these names in its certificate may be the node."""
        tls = self.config.tls
        return tls is None or not tls.authorised or may_be(node.id, names, tls.authorised)

    def report(self, fanout: Fanout) -> None:
        """Count and log what came of snapshots since the last call."""
        for event in fanout.take_events():
            if self.metrics is not None:
                self.metrics.snapshots.labels("refused" if event.problem else "sent").inc()
            if event.problem:
                log.error(
                    "snapshot refused; the last one stays",
                    group=event.group,
                    why=event.problem,
                    exc_info=event.error,
                )


class Session:
    """One open stream."""

    def __init__(
        self, context: Context, stream: Stream, fanout: Fanout, environment: Environment
    ) -> None:
        config = environment.config
        self.id = next(_ids)
        self.stream = stream
        self.peer = peer_address(context)
        self.identities = identities(context.auth_context())
        self.opened_at = environment.clock()
        self.connection: Connection | None = None
        """None before the first request, which says whose stream it is."""
        self.recorder = Recorder(
            stream,
            environment.metrics,
            entries=config.log_entries,
            epoch=environment.epoch,
            problems=environment.problems,
        )
        self._context = context
        self._fanout = fanout
        self._environment = environment
        self._clock = environment.clock
        self._first_request_until = self.opened_at + config.limits.first_request_seconds
        self._decode: Callable[[bytes], Request] = decode_delta if stream.delta else decode_sotw
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._error: StreamError | None = None
        self._closed = False

    async def run(self) -> StreamError | None:
        """Serve until the client goes away (None) or the stream must end."""
        reader = asyncio.ensure_future(self._read())
        self._arm(self._first_request_until)
        try:
            while self._error is None and not self._closed:
                await self._write_all()
                await self._wake.wait()
                self._wake.clear()
                if self.connection is None and self._clock() >= self._first_request_until:
                    self.end(
                        StreamError(
                            grpc.StatusCode.DEADLINE_EXCEEDED,
                            "no request came on this stream; the client speaks first in xDS",
                            "silent",
                        )
                    )
        finally:
            if self._timer is not None:
                self._timer.cancel()
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader
            if self.connection is not None:
                self._fanout.unregister(self.connection)
            self.recorder.close()
        return self._error

    def wake(self) -> None:
        """Something may have to be sent."""
        self._wake.set()

    def end(self, error: StreamError) -> None:
        if self._error is None:
            self._error = error
        self._wake.set()

    async def _read(self) -> None:
        try:
            while self._error is None:
                data = await self._context.read()
                if not isinstance(data, bytes):  # The client is done.
                    break
                self._receive(data)
        except (asyncio.CancelledError, grpc.aio.UsageError):
            raise
        except Exception as error:
            log.exception("xDS stream failed", stream=self.id, peer=self.peer)
            self.end(StreamError(grpc.StatusCode.INTERNAL, f"xDS server: {error}", "internal"))
        finally:
            self._closed = True
            self._wake.set()

    def _receive(self, data: bytes) -> None:
        now = self._clock()
        try:
            request = self._decode(data)
            if self.connection is None:
                self.connection = self._register(request.node, now)
            received = self.stream.receive(request, now)
            self._fanout.changes += 1
            node, group = self.connection.node, self.connection.group.name
            self.recorder.received(received, len(data), now, node=node, group=group)
            if self.stream.lacks(received):
                self._fanout.resync(self.connection, now)
        except PermissionError as error:
            self.end(forbidden(request.node, error))
        except ProtocolError as error:
            self.end(StreamError(grpc.StatusCode.INVALID_ARGUMENT, str(error), "protocol"))
        except ValueError as error:
            self.end(StreamError(grpc.StatusCode.INVALID_ARGUMENT, str(error), "garbage"))
        self._environment.report(self._fanout)
        self._wake.set()

    def _register(self, node: Node | None, now: float) -> Connection:
        """Raises ProtocolError for a node that is none, and PermissionError."""
        if node is None or not node.id:
            raise ProtocolError(
                "the first request of a stream must carry node.id; set it in the client's "
                "bootstrap (Envoy: node.id or --service-node)"
            )
        if len(node.id) > _LONGEST_ID:
            raise ProtocolError(
                f"node.id has {len(node.id)} characters, at most {_LONGEST_ID} are allowed"
            )
        if not self._environment.authorized(node, self.identities):
            raise CertificateError(
                f"the certificate of {', '.join(self.identities) or 'this client'} does not "
                f"allow it to be node {node.id!r}"
            )
        connection = self._fanout.register(self.stream, node, now)
        log.info(
            "xDS client",
            node=node.id,
            group=connection.group.name,
            peer=self.peer,
            protocol="delta" if self.stream.delta else "sotw",
            type=self.stream.type_url or "aggregated",
        )
        return connection

    async def _write_all(self) -> None:
        if self.connection is None:
            return
        now = self._clock()
        for response in self.stream.poll(now):
            data = self._environment.encoder.encode(response, delta=self.stream.delta)
            self._fanout.changes += 1
            self.recorder.sent(response, len(data), now)
            await self._context.write(data)
        self.recorder.progress(self._fanout.converged(self.connection, self._clock()))
        self._arm(self.stream.deadline(now))

    def _arm(self, at: float | None) -> None:
        """Wake up at this time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            delay = max(0.0, at - self._clock()) + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake.set)


class CertificateError(PermissionError):
    """A client's certificate does not allow it to be the node that it says it is."""


def forbidden(node: Node | None, error: PermissionError) -> StreamError:
    node_id = node.id if node is not None else ""
    details = str(error) or f"node {node_id!r} may have nothing from this server"
    reason = "certificate" if isinstance(error, CertificateError) else "permission"
    return StreamError(grpc.StatusCode.PERMISSION_DENIED, details, reason)
