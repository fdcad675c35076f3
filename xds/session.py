"""A stream's life on the wire: read requests, write what the protocol core says, keep a log."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from xds.config import XdsServerConfig
from xds.encoder import Encoder
from xds.group import Group
from xds.metrics import XdsMetrics, short_type
from xds.protocol.memory import Recollection
from xds.protocol.message import Request, Response
from xds.protocol.sotw import FULL_STATE
from xds.protocol.stream import ProtocolError, Stream
from xds.protocol.watch import Kind, Received
from xds.resource import Resource
from xds.snapshot import Node
from xds.status import Exchange
from xds.wire.codec import decode_delta, decode_sotw

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_NAMES_LOGGED = 20
_LONGEST_ID = 1024
"""Characters. Ids are logged, and kept with what their nodes have acknowledged."""
_ids = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the server ends a stream."""

    code: grpc.StatusCode
    details: str
    reason: str
    """For the metric: one of few words."""


class Session:
    """One open stream. The owner gives it a group and a target once the node is known (``admit``),
    and the newest target when the client asks for what the present one lacks (``renew``).

    ``epoch`` turns the clock's time into seconds since the epoch, for the log.
    """

    def __init__(
        self,
        context: Context,
        stream: Stream,
        *,
        peer: str,
        identities: tuple[str, ...],
        config: XdsServerConfig,
        encoder: Encoder,
        metrics: XdsMetrics | None,
        clock: Callable[[], float],
        epoch: float,
        admit: Callable[[Session, Node], Ending | None],
        renew: Callable[[Session], Ending | None],
        changed: Callable[[], None],
    ) -> None:
        self.id = next(_ids)
        self.stream = stream
        self.peer = peer
        self.identities = identities
        self.opened_at = clock()
        self.node: Node | None = None
        self.group: Group | None = None
        self.log: deque[Exchange] = deque(maxlen=config.log_entries)
        self._context = context
        self._config = config
        self._encoder = encoder
        self._metrics = metrics
        self._clock = clock
        self._epoch = epoch
        self._admit = admit
        self._renew = renew
        self._changed = changed
        self._decode: Callable[[bytes], Request] = decode_delta if stream.delta else decode_sotw
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._ending: Ending | None = None
        self._closed = False
        self._rejected: dict[str, int] = {}
        self._timeouts = 0

    async def run(self) -> Ending | None:
        """Serve until the client goes away (None) or the stream must end."""
        reader = asyncio.ensure_future(self._read())
        self._arm(self.opened_at + self._config.limits.first_request_seconds)
        try:
            while self._ending is None and not self._closed:
                await self._write_all()
                await self._wake.wait()
                self._wake.clear()
                if self.node is None and self._overdue():
                    self.end(
                        Ending(
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
            self._count_rejected({})
        return self._ending

    def wake(self) -> None:
        """Something may have to be sent."""
        self._wake.set()

    def end(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
        self._wake.set()

    def recall(self, type_url: str, version: str) -> Recollection | None:
        """What this client has accepted before this stream; None where nobody knows."""
        target = self.stream.target
        if self.group is None or self.node is None or target is None:
            return None
        view = target.of(type_url)
        return self.group.memory.recall(
            self.node.id, type_url, version, {view.version: view.resources}
        )

    def last_good(self, type_url: str, name: str) -> Resource | None:
        """What other nodes of this kind have in place of content that this one rejects."""
        if self.group is None or self.stream.target is None:
            return None
        return self.group.last_good(type_url, name, self.stream.target)

    def _overdue(self) -> bool:
        return self._clock() >= self.opened_at + self._config.limits.first_request_seconds

    async def _read(self) -> None:
        try:
            while self._ending is None:
                data = await self._context.read()
                if not isinstance(data, bytes):  # The client is done.
                    break
                self._receive(data)
        except (asyncio.CancelledError, grpc.aio.UsageError):
            raise
        except Exception as error:
            log.exception("xDS stream failed", stream=self.id, peer=self.peer)
            self.end(Ending(grpc.StatusCode.INTERNAL, f"xDS server: {error}", "internal"))
        finally:
            self._closed = True
            self._wake.set()

    def _receive(self, data: bytes) -> None:
        now = self._clock()
        try:
            request = self._decode(data)
            if self.node is None:
                self._meet(request.node)
                if self._ending is not None:
                    return
            received = self.stream.receive(request, now)
        except ProtocolError as error:
            self.end(Ending(grpc.StatusCode.INVALID_ARGUMENT, str(error), "protocol"))
            return
        except ValueError as error:
            self.end(Ending(grpc.StatusCode.INVALID_ARGUMENT, str(error), "garbage"))
            return
        self._note(received, len(data), now)
        if self.stream.lacks(received):
            ending = self._renew(self)
            if ending is not None:
                self.end(ending)
        self._wake.set()

    def _meet(self, node: Node | None) -> None:
        if node is None or not node.id:
            raise ProtocolError(
                "the first request of a stream must carry node.id; set it in the client's "
                "bootstrap (Envoy: node.id or --service-node)"
            )
        if len(node.id) > _LONGEST_ID:
            raise ProtocolError(
                f"node.id has {len(node.id)} characters, at most {_LONGEST_ID} are allowed"
            )
        self.node = node
        ending = self._admit(self, node)
        if ending is not None:
            self.end(ending)

    async def _write_all(self) -> None:
        now = self._clock()
        for response in self.stream.poll(now):
            data = self._encoder.encode(response, delta=self.stream.delta)
            self._note_sent(response, len(data), now)
            await self._context.write(data)
        self._note_progress()
        self._arm(self.stream.deadline(now) if self.node is not None else None)

    def _arm(self, at: float | None) -> None:
        """Wake up at this time."""
        if at is None:
            if self.node is not None and self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, at - self._clock()) + 0.001
        self._timer = asyncio.get_running_loop().call_later(delay, self._wake.set)

    def _note_sent(self, response: Response, size: int, now: float) -> None:
        self._changed()
        self.stream.watches[response.type_url].counters.bytes_sent += size
        names = [name for name, version in response.changes.items() if version is not None]
        self.log.append(
            Exchange(
                now + self._epoch,
                "sent",
                response.type_url,
                "response",
                response.nonce,
                response.version,
                tuple(names[:_NAMES_LOGGED]),
                len(response.resources),
                tuple([n for n, v in response.changes.items() if v is None][:_NAMES_LOGGED]),
                size,
            )
        )
        if self._metrics is not None:
            label = short_type(response.type_url)
            self._metrics.pushes.labels(label).inc()
            self._metrics.push_bytes.labels(label).inc(size)

    def _note(self, received: Received, size: int, now: float) -> None:
        self._changed()
        self.log.append(
            Exchange(
                now + self._epoch,
                "received",
                received.type_url,
                received.kind,
                received.nonce,
                received.version,
                received.names[:_NAMES_LOGGED],
                len(received.names),
                (),
                size,
                received.latency,
                received.error,
            )
        )
        label = short_type(received.type_url)
        metrics = self._metrics
        if received.kind is Kind.NACK:
            self._tell_rejection(received)
            if metrics is not None:
                metrics.nacks.labels(label).inc()
        elif received.kind is Kind.ACK:
            self._accept(received)
            if metrics is not None:
                metrics.acks.labels(label).inc()
                metrics.push_to_ack.labels(label).observe(received.latency or 0.0)
        elif received.kind is Kind.STALE and metrics is not None:
            metrics.stale_requests.labels(label).inc()
        if received.kind in (Kind.ACK, Kind.NACK):
            self._count_rejected(
                {
                    short_type(type_url): len(watch.isolation.rejected)
                    for type_url, watch in self.stream.watches.items()
                    if watch.isolation.rejected
                }
            )

    def _note_progress(self) -> None:
        """Tell how far the node is: its group, and the metrics."""
        metrics = self._metrics
        timeouts = self.stream.rollout.timed_out
        if metrics is not None and timeouts > self._timeouts:
            metrics.rollout_timeouts.inc(timeouts - self._timeouts)
        self._timeouts = timeouts
        if not self.stream.converged or self.group is None or self.node is None:
            return
        assert self.stream.target is not None
        took = self.group.converged(self.stream.target, self.node.id, self._clock())
        if took is not None:
            self._changed()
            if metrics is not None:
                metrics.convergence.observe(took)

    def _accept(self, received: Received) -> None:
        if self.group is not None and self.stream.target is not None:
            self.group.accept(received.accepted, self.stream.target)
        if self._remembers(received) and self.group is not None and self.node is not None:
            has = self.stream.watches[received.type_url].have
            self.group.memory.acked(self.node.id, received.type_url, received.version, has)

    def _remembers(self, received: Received) -> bool:
        return not self.stream.delta and received.type_url in FULL_STATE

    def _tell_rejection(self, received: Received) -> None:
        if self._remembers(received) and self.group is not None and self.node is not None:
            self.group.memory.nacked(self.node.id, received.type_url)
        watch = self.stream.watches[received.type_url]
        origins = {}
        for name in received.culprits:
            resource = watch.view.resources.get(name) if watch.view is not None else None
            if resource is not None and resource.origin:
                origins[name] = resource.origin
        log.warning(
            "configuration rejected",
            node=self.node.id if self.node is not None else "",
            group=self.group.name if self.group is not None else "",
            type=short_type(received.type_url),
            rejected=list(received.culprits) or "still looking for it",
            origin=origins or None,
            error=received.error,
        )

    def _count_rejected(self, counts: dict[str, int]) -> None:
        if self._metrics is not None:
            for label in self._rejected.keys() | counts.keys():
                change = counts.get(label, 0) - self._rejected.get(label, 0)
                if change:
                    self._metrics.rejected.labels(label).inc(change)
        self._rejected = counts
