"""The xDS server: gRPC at the edge, the protocol core inside, a provider behind it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import grpc
import structlog
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from xds import csds, reflection, report
from xds.config import XdsServerConfig
from xds.encoder import Encoder
from xds.group import Group
from xds.metrics import XdsMetrics
from xds.protocol.memory import Recollection
from xds.protocol.stream import Stream, StreamSettings
from xds.resource import Resource
from xds.services import CLIENT_STATUS, SERVICES, Service
from xds.session import Context, Ending, Session
from xds.snapshot import Node, Snapshot, SnapshotProvider
from xds.status import XdsStatus
from xds.tls import CertificateFiles, identities, may_be

log = structlog.get_logger(__name__)

_EMPTY_GROUPS = 100
"""Groups without nodes are remembered up to this many groups."""

_Handler = Callable[[object, Context], Awaitable[None]]


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
        self._provider = provider
        self._config = config or XdsServerConfig()
        self._metrics = metrics
        self._clock = time.monotonic
        self._epoch = time.time() - time.monotonic()
        self._started_at = 0.0
        self._encoder = Encoder(self._config.identifier)
        self._settings = StreamSettings(
            phase_timeout=self._config.phase_timeout_seconds, max_names=self._config.limits.names
        )
        self._sessions: dict[int, Session] = {}
        self._peers: Counter[str] = Counter()
        self._groups: dict[str, Group] = {}
        self._refused = 0
        self.changes = 0
        """Counts up with everything that makes ``status`` another one."""
        self._cause = "start"
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._refreshed_at = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._grpc: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # Stub.
        self._port = 0

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before ``start``."""
        return self._port

    async def start(self) -> None:
        """Listen. Raises OSError where the address cannot be had, TlsError for bad certificates."""
        self._loop = asyncio.get_running_loop()
        self._started_at = self._clock()
        server = grpc.aio.server(options=self._options())
        for service in SERVICES:
            server.add_generic_rpc_handlers((self._handlers(service),))
        server.add_generic_rpc_handlers((csds.handlers(self.status, self._may_see),))
        add_HealthServicer_to_server(self._health, server)
        served = [CLIENT_STATUS, *(service.name for service in SERVICES)]
        reflection.add(server, [*served, health.SERVICE_NAME])
        self._port = self._bind(server)
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
        for session in self._sessions.values():
            session.end(
                Ending(grpc.StatusCode.UNAVAILABLE, "the xDS server is stopping", "stopping")
            )
        await self._grpc.stop(grace)
        self._grpc = None

    def refresh(self, cause: str) -> None:
        """The provider's content has changed. The first call acts at once; calls that follow
        within the debounce time are merged, and the newest content goes out."""
        loop = self._loop
        if loop is None:
            self._cause = cause
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
        return report.status(
            self._sessions.values(),
            self._groups.values(),
            identifier=self._config.identifier,
            started_at=self._started_at + self._epoch,
            epoch=self._epoch,
            refused=self._refused,
        )

    def disconnect(self, node_id: str) -> int:
        """End all streams of a node, which then connects anew. Returns how many there were."""
        found = [s for s in self._sessions.values() if s.node and s.node.id == node_id]
        for session in found:
            session.end(
                Ending(grpc.StatusCode.UNAVAILABLE, "disconnected by an operator", "operator")
            )
        return len(found)

    def _options(self) -> list[tuple[str, int]]:
        config = self._config
        options = [
            # With it, a second server on this port would silently take half of the clients.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", config.limits.message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", int(config.keepalive_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", int(config.keepalive_timeout_seconds * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            # Envoy's own keepalive pings must not count as an attack.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
            ("grpc.http2.max_ping_strikes", 0),
        ]
        if config.max_connection_age_seconds is not None:
            options.append(
                ("grpc.max_connection_age_ms", int(config.max_connection_age_seconds * 1000))
            )
            # Streams of xDS never end by themselves: to wait for them longer only puts it off.
            options.append(("grpc.max_connection_age_grace_ms", 500))
        return options

    def _bind(self, server: grpc.aio.Server) -> int:
        host, port = self._config.host, self._config.port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        tls = self._config.tls
        try:
            if tls is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, CertificateFiles(tls).credentials())
        except RuntimeError as error:
            raise OSError(
                f"the xDS server cannot listen on {address}: is the port in use, or is the address "
                "not one of this machine? Choose another with the port or host setting"
            ) from error

    def _handlers(self, service: Service) -> grpc.GenericRpcHandler[bytes, bytes]:
        methods = {
            service.delta: grpc.stream_stream_rpc_method_handler(self._handler(service, delta=True))
        }
        if service.sotw is not None:
            methods[service.sotw] = grpc.stream_stream_rpc_method_handler(
                self._handler(service, delta=False)
            )
        return grpc.method_handlers_generic_handler(service.name, methods)

    def _handler(self, service: Service, *, delta: bool) -> _Handler:
        async def handle(_requests: object, context: Context) -> None:
            await self._serve(service, context, delta=delta)

        return handle

    async def _serve(self, service: Service, context: Context, *, delta: bool) -> None:
        peer = _address(context.peer())
        ending = self._too_many(peer)
        if ending is None:
            ending = await self._run(service, context, peer, delta=delta)
        if ending is None:
            return
        if ending.reason not in ("stopping", "operator"):
            self._refused += 1
            self.changes += 1
            if self._metrics is not None:
                self._metrics.refused_streams.labels(ending.reason).inc()
            log.warning("xDS stream ended", peer=peer, code=ending.code.name, why=ending.details)
        await context.abort(ending.code, ending.details)

    async def _run(
        self, service: Service, context: Context, peer: str, *, delta: bool
    ) -> Ending | None:
        session: Session

        def recall(type_url: str, version: str) -> Recollection | None:
            return session.recall(type_url, version)

        def last_good(type_url: str, name: str) -> Resource | None:
            return session.last_good(type_url, name)

        session = Session(
            context,
            Stream(
                delta=delta,
                type_url=service.type_url,
                settings=self._settings,
                recall=recall,
                last_good=last_good,
            ),
            peer=peer,
            identities=identities(context.auth_context()),
            config=self._config,
            encoder=self._encoder,
            metrics=self._metrics,
            clock=self._clock,
            epoch=self._epoch,
            admit=self._admit,
            renew=self._renew,
            changed=self._count_change,
        )
        self._sessions[session.id] = session
        self._peers[peer] += 1
        gauge = None
        if self._metrics is not None:
            gauge = self._metrics.streams.labels("delta" if delta else "sotw")
            gauge.inc()
        try:
            return await session.run()
        finally:
            if gauge is not None:
                gauge.dec()
            del self._sessions[session.id]
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]
            self._leave(session)

    def _count_change(self) -> None:
        self.changes += 1

    def _too_many(self, peer: str) -> Ending | None:
        limits = self._config.limits
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        if len(self._sessions) >= limits.streams:
            return Ending(code, f"the server has {limits.streams} streams, its limit", "streams")
        if self._peers[peer] >= limits.streams_per_peer:
            return Ending(
                code,
                f"{peer} has {limits.streams_per_peer} streams, the limit for one address",
                "streams_per_peer",
            )
        return None

    def _may_be(self, node: Node, names: tuple[str, ...]) -> bool:
        """Whether a client with these names in its certificate may be the node."""
        tls = self._config.tls
        return tls is None or not tls.authorised or may_be(node.id, names, tls.authorised)

    def _may_see(self, context: Context, node: Node) -> bool:
        return self._may_be(node, identities(context.auth_context()))

    def _admit(self, session: Session, node: Node) -> Ending | None:
        if not self._may_be(node, session.identities):
            return Ending(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the certificate of {', '.join(session.identities) or 'this client'} does not "
                f"allow it to be node {node.id!r}",
                "certificate",
            )
        try:
            group = self._join(session, node)
        except PermissionError as error:
            return _forbidden(node, error)
        _version, ending = self._offer(session, node, group)
        log.info(
            "xDS client",
            node=node.id,
            group=group.name,
            peer=session.peer,
            protocol="delta" if session.stream.delta else "sotw",
            type=session.stream.type_url or "aggregated",
        )
        return ending

    def _join(self, session: Session, node: Node) -> Group:
        """Put a session into the group of its node: another one than before where the provider
        has learnt who the node belongs to."""
        name = self._provider.group(node)
        if session.group is not None:
            if session.group.name == name:
                return session.group
            self._leave(session)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(name, self._config.history_entries)
        group.join(node.id, session.stream)
        session.group = group
        self.changes += 1
        return group

    def _leave(self, session: Session) -> None:
        self.changes += 1
        group, node = session.group, session.node
        if group is None or node is None:
            return
        group.leave(node.id, session.stream)
        if not group.nodes and len(self._groups) > _EMPTY_GROUPS:
            del self._groups[group.name]

    def _renew(self, session: Session) -> Ending | None:
        """Give a stream the newest there is at once: its client asks for what it was not to get so
        far, and must not be told that this does not exist while it waits out the debounce time."""
        node = session.node
        if node is None:
            return None
        try:
            group = self._join(session, node)
        except PermissionError as error:
            return _forbidden(node, error)
        _version, ending = self._offer(session, node, group)
        return ending

    def _offer(self, session: Session, node: Node, group: Group) -> tuple[str, Ending | None]:
        """Give a stream what its node is to get now. Returns the version in use."""
        try:
            snapshot: Snapshot | None = self._provider.snapshot(node)
        except PermissionError as error:
            return "", _forbidden(node, error)
        if snapshot is None:
            return "", None
        now = self._clock()
        target, new = group.target(snapshot, session.stream.target, self._cause, now)
        if new is not None and self._metrics is not None:
            self._metrics.snapshots.labels(new).inc()
        session.stream.offer(target, now)
        return snapshot.version, None

    def _refresh_soon(self, cause: str) -> None:
        self._cause = cause
        if self._refresh_timer is not None:
            return
        assert self._loop is not None
        due = self._refreshed_at + self._config.debounce_seconds
        delay = max(0.0, due - self._clock())
        self._refresh_timer = self._loop.call_later(delay, self._refresh)

    def _refresh(self) -> None:
        self._refresh_timer = None
        self._refreshed_at = self._clock()
        versions: dict[str, set[str]] = {}
        for session in tuple(self._sessions.values()):
            node = session.node
            if node is None or session.group is None:
                continue
            try:
                group = self._join(session, node)
            except PermissionError as error:
                session.end(_forbidden(node, error))
                continue
            version, ending = self._offer(session, node, group)
            if ending is not None:
                session.end(ending)
            versions.setdefault(group.name, set()).add(version)
            session.wake()
        for name, group in self._groups.items():
            if name in versions:
                group.retain(versions[name])
        self.changes += 1
        self._refreshed_at = self._clock()


def _forbidden(node: Node, error: PermissionError) -> Ending:
    details = str(error) or f"node {node.id!r} may have nothing from this server"
    return Ending(grpc.StatusCode.PERMISSION_DENIED, details, "permission")


def _address(peer: str) -> str:
    """``ipv4:10.0.0.1:1234`` without the port."""
    head, colon, port = peer.rpartition(":")
    return head if colon and port.isdigit() else peer
