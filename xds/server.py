"""The xDS server: gRPC at the edge, the protocol core inside, a provider behind it."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import structlog
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from xds import csds, reflection, report, transport
from xds.config import XdsServerConfig
from xds.encoder import Encoder
from xds.fanout import Fanout
from xds.metrics import XdsMetrics
from xds.protocol.stream import Stream, StreamSettings
from xds.services import CLIENT_STATUS, SERVICES, Service
from xds.session import Environment, Session, StreamError, forbidden
from xds.snapshot import Node, SnapshotProvider
from xds.status import XdsStatus
from xds.tls import identities
from xds.transport import Context

log = structlog.get_logger(__name__)


class XdsServer:
    """Serves what a provider provides, to as many clients as come.

    All methods belong to the event loop in which ``start`` was called, except ``refresh``, which
    may be called from any thread.
    """

    def __init__(
        self,
        provider: SnapshotProvider,
        config: XdsServerConfig | None = None,
        *,
        metrics: XdsMetrics | None = None,
    ) -> None:
        self._config = config = config or XdsServerConfig()
        self._metrics = metrics
        self._environment = Environment(config, metrics, Encoder(config.identifier))
        self._fanout = Fanout(
            provider, debounce=config.debounce_seconds, history_entries=config.history_entries
        )
        self._settings = StreamSettings(
            phase_timeout=config.phase_timeout_seconds, max_names=config.limits.names
        )
        self._sessions: dict[int, Session] = {}
        self._peers: Counter[str] = Counter()
        self._refused_streams = 0
        self._started_at = 0.0
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._grpc: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # Stub.
        self._port = 0

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before ``start``."""
        return self._port

    @property
    def changes(self) -> int:
        """Counts up with everything that makes ``status`` another one."""
        return self._fanout.changes + self._refused_streams

    async def start(self) -> None:
        """Listen. Raises OSError where the address cannot be had, TlsError for bad certificates."""
        self._loop = asyncio.get_running_loop()
        self._started_at = self._environment.clock()
        server = grpc.aio.server(options=transport.options(self._config))
        for service in SERVICES:
            server.add_generic_rpc_handlers((transport.service_handler(service, self._serve),))
        server.add_generic_rpc_handlers((csds.handler(self.status, self._may_see),))
        add_HealthServicer_to_server(self._health, server)
        served = [CLIENT_STATUS, *(service.name for service in SERVICES)]
        reflection.add(server, [*served, health.SERVICE_NAME])
        self._port = transport.listen(server, self._config)
        await server.start()
        self._grpc = server
        for name in ("", *served):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info("xDS server listens", host=self._config.host, port=self._port)

    async def stop(self, grace: float) -> None:
        """End all streams, so that clients go elsewhere, and stop within ``grace`` seconds."""
        if self._grpc is None:
            return
        await self._health.enter_graceful_shutdown()
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
        stopping = StreamError(
            grpc.StatusCode.UNAVAILABLE, "the xDS server is stopping", "stopping"
        )
        for session in self._sessions.values():
            session.end(stopping)
        await self._grpc.stop(grace)
        self._grpc = None

    def refresh(self, cause: str) -> None:
        """The provider's content has changed. The first call acts at once; calls that follow
        within the debounce time are merged, and the newest content goes out."""
        loop = self._loop
        if loop is None:
            self._fanout.cause = cause
            return
        try:
            here = asyncio.get_running_loop() is loop
        except RuntimeError:
            here = False
        if here:
            self._refresh_soon(cause)
        else:
            loop.call_soon_threadsafe(self._refresh_soon, cause)

    def status(self) -> XdsStatus:
        """What every node was sent, has acknowledged, and rejects; and the history of snapshots."""
        epoch = self._environment.epoch
        return report.status(
            self._sessions.values(),
            self._fanout.groups,
            identifier=self._config.identifier,
            started_at=self._started_at + epoch,
            epoch=epoch,
            refused_streams=self._refused_streams,
        )

    def disconnect(self, node_id: str) -> int:
        """End all streams of a node, which then connects anew. Returns how many there were."""
        sessions = self._sessions.values()
        found = [s for s in sessions if s.connection and s.connection.node.id == node_id]
        for session in found:
            session.end(
                StreamError(grpc.StatusCode.UNAVAILABLE, "disconnected by an operator", "operator")
            )
        return len(found)

    async def _serve(self, service: Service, delta: bool, context: Context) -> None:
        stream = Stream(delta=delta, type_url=service.type_url, settings=self._settings)
        session = Session(context, stream, self._fanout, self._environment)
        error = self._too_many(session.peer) or await self._run(session)
        if error is None:
            return
        if error.reason not in ("stopping", "operator"):
            self._refused_streams += 1
            if self._metrics is not None:
                self._metrics.refused_streams.labels(error.reason).inc()
            more = self._environment.problems.details(error.reason, self._environment.clock())
            if more is not None:
                log.warning(
                    "xDS stream ended",
                    peer=session.peer,
                    code=error.code.name,
                    why=error.details,
                    **more,
                )
        await context.abort(error.code, error.details)

    async def _run(self, session: Session) -> StreamError | None:
        self._sessions[session.id] = session
        self._peers[session.peer] += 1
        gauge = None
        if self._metrics is not None:
            gauge = self._metrics.streams.labels("delta" if session.stream.delta else "sotw")
            gauge.inc()
        try:
            return await session.run()
        finally:
            if gauge is not None:
                gauge.dec()
            del self._sessions[session.id]
            self._peers[session.peer] -= 1
            if not self._peers[session.peer]:
                del self._peers[session.peer]

    def _too_many(self, peer: str) -> StreamError | None:
        limits = self._config.limits
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        if len(self._sessions) >= limits.streams:
            details = f"the server has {limits.streams} streams, its limit"
            return StreamError(code, details, "streams")
        if self._peers[peer] >= limits.streams_per_peer:
            details = f"{peer} has {limits.streams_per_peer} streams, the limit for one address"
            return StreamError(code, details, "streams_per_peer")
        return None

    def _may_see(self, context: Context, node: Node) -> bool:
        return self._environment.authorized(node, identities(context.auth_context()))

    def _refresh_soon(self, cause: str) -> None:
        delay = self._fanout.change(cause, self._environment.clock())
        if delay is not None:
            self._refresh_timer = asyncio.get_running_loop().call_later(delay, self._refresh)

    def _refresh(self) -> None:
        clock = self._environment.clock
        denied = self._fanout.refresh(clock())
        for session in self._sessions.values():
            connection = session.connection
            if connection is None:
                continue
            error = denied.get(connection)
            if error is not None:
                session.end(forbidden(connection.node, error))
            session.wake()
        self._environment.report(self._fanout)
        self._fanout.refreshed(clock())
