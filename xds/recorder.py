"""What one stream leaves behind for people: its last exchanges, metrics, and log lines."""

from __future__ import annotations

from collections import deque

import structlog

from pools.seldom import Seldom
from xds.metrics import XdsMetrics, short_type
from xds.protocol.message import Response
from xds.protocol.stream import Stream
from xds.protocol.watch import Kind, Received
from xds.snapshot import Node
from xds.status import Exchange

log = structlog.get_logger(__name__)

_NAMES_LOGGED = 20


class Recorder:
    """``epoch`` turns the clock's time into seconds since the epoch."""

    def __init__(
        self,
        stream: Stream,
        metrics: XdsMetrics | None,
        *,
        entries: int,
        epoch: float,
        problems: Seldom,
    ) -> None:
        self.exchanges: deque[Exchange] = deque(maxlen=entries)
        self._stream = stream
        self._metrics = metrics
        self._epoch = epoch
        self._problems = problems
        self._rejected: dict[str, int] = {}
        self._timeouts = 0

    def sent(self, response: Response, size: int, now: float) -> None:
        """``size``: bytes."""
        self._stream.watches[response.type_url].counters.bytes_sent += size
        names = [name for name, version in response.changes.items() if version is not None]
        removed = [name for name, version in response.changes.items() if version is None]
        self.exchanges.append(
            Exchange(
                now + self._epoch,
                "sent",
                response.type_url,
                "response",
                response.nonce,
                response.version,
                tuple(names[:_NAMES_LOGGED]),
                len(response.resources),
                tuple(removed[:_NAMES_LOGGED]),
                size,
            )
        )
        if self._metrics is not None:
            label = short_type(response.type_url)
            self._metrics.pushes.labels(label).inc()
            self._metrics.push_bytes.labels(label).inc(size)

    def received(
        self, received: Received, size: int, now: float, *, node: Node | None, group: str
    ) -> None:
        self.exchanges.append(
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
        if received.kind is Kind.NACK:
            self._log_rejection(received, now, node, group)
        if self._metrics is not None:
            self._count(self._metrics, received)

    def progress(self, convergence: float | None) -> None:
        """``convergence``: the seconds in which the node came to have a snapshot, once it does."""
        if self._metrics is None:
            return
        timeouts = self._stream.rollout.timed_out
        self._metrics.rollout_timeouts.inc(timeouts - self._timeouts)
        self._timeouts = timeouts
        if convergence is not None:
            self._metrics.convergence.observe(convergence)

    def close(self) -> None:
        """The stream is over, and rejects nothing any more."""
        if self._metrics is not None:
            self._count_rejected(self._metrics, {})

    def _count(self, metrics: XdsMetrics, received: Received) -> None:
        label = short_type(received.type_url)
        if received.kind is Kind.STALE:
            metrics.stale_requests.labels(label).inc()
        if received.kind not in (Kind.ACK, Kind.NACK):
            return
        if received.kind is Kind.NACK:
            metrics.nacks.labels(label).inc()
        else:
            metrics.acks.labels(label).inc()
            metrics.push_to_ack.labels(label).observe(received.latency or 0.0)
        self._count_rejected(
            metrics,
            {
                short_type(type_url): len(watch.quarantine.rejected)
                for type_url, watch in self._stream.watches.items()
                if watch.quarantine.rejected
            },
        )

    def _count_rejected(self, metrics: XdsMetrics, counts: dict[str, int]) -> None:
        for label in self._rejected.keys() | counts.keys():
            change = counts.get(label, 0) - self._rejected.get(label, 0)
            if change:
                metrics.rejected.labels(label).inc(change)
        self._rejected = counts

    def _log_rejection(self, received: Received, now: float, node: Node | None, group: str) -> None:
        # The same by each of many Envoys, or again and again by one, is one problem.
        kind = " ".join(("rejected", short_type(received.type_url), *received.culprits))
        more = self._problems.details(kind, now)
        if more is None:
            return
        view = self._stream.watches[received.type_url].view
        origins = {}
        for name in received.culprits:
            resource = view.resources.get(name) if view is not None else None
            if resource is not None and resource.origin:
                origins[name] = resource.origin
        log.warning(
            "configuration rejected",
            node=node.id if node is not None else "",
            group=group,
            type=short_type(received.type_url),
            rejected=list(received.culprits) or "still looking for it",
            origin=origins or None,
            error=received.error,
            **more,
        )
