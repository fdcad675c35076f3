"""The gRPC health protocol, for Envoy and kubelet. Its services are those that the endpoint picker
protocol names."""

from __future__ import annotations

from collections.abc import Callable

from extproc.transport.api import GrpcStatus, Services, Stream
from extproc.wire import health_pb2 as pb

LIVENESS = "liveness"
READINESS = (
    "",
    "readiness",
    "envoy.service.ext_proc.v3.ExternalProcessor",
    "inference-extension",  # what the probes of early inference-extension manifests ask for
)
"""These serve when we are ready to pick; :data:`LIVENESS` does as long as the process answers."""

_Status = pb.HealthCheckResponse.ServingStatus


class Health:
    """Serves ``grpc.health.v1.Health``. Not ready until :attr:`ready` is set."""

    def __init__(self) -> None:
        self._ready = False
        self._watchers: dict[_Watch, None] = {}

    @property
    def ready(self) -> bool:
        """Whether picks are possible; setting it tells everyone who watches."""
        return self._ready

    @ready.setter
    def ready(self, ready: bool) -> None:
        if ready == self._ready:
            return
        self._ready = ready
        for watcher in list(self._watchers):
            watcher.tell()

    def status(self, service: str) -> _Status.ValueType:
        if service == LIVENESS:
            return _Status.SERVING
        if service not in READINESS:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if self._ready else _Status.NOT_SERVING

    def services(self) -> Services:
        return {
            "/grpc.health.v1.Health/Check": lambda stream: _Unary(stream, self._check),
            "/grpc.health.v1.Health/List": lambda stream: _Unary(stream, self._list),
            "/grpc.health.v1.Health/Watch": lambda stream: _Watch(stream, self),
        }

    def watch(self, watcher: _Watch) -> None:
        self._watchers[watcher] = None

    def unwatch(self, watcher: _Watch) -> None:
        self._watchers.pop(watcher, None)

    def _check(self, stream: Stream, message: bytes) -> None:
        service = pb.HealthCheckRequest.FromString(message).service
        status = self.status(service)
        if status == _Status.SERVICE_UNKNOWN:
            stream.finish(GrpcStatus.NOT_FOUND, f"no service {service!r} here")
            return
        stream.send(pb.HealthCheckResponse(status=status).SerializeToString())
        stream.finish()

    def _list(self, stream: Stream, message: bytes) -> None:
        response = pb.HealthListResponse()
        for service in (*READINESS, LIVENESS):
            response.statuses[service].status = self.status(service)
        stream.send(response.SerializeToString())
        stream.finish()


class _Unary:
    """One request, one answer."""

    __slots__ = ("_answer", "_asked", "_stream")

    def __init__(self, stream: Stream, answer: Callable[[Stream, bytes], None]) -> None:
        self._stream = stream
        self._answer = answer
        self._asked = False

    def on_message(self, message: bytes) -> None:
        if not self._asked:
            self._asked = True
            self._answer(self._stream, message)

    def on_half_close(self) -> None:
        if not self._asked:
            self._stream.finish(GrpcStatus.INVALID_ARGUMENT, "the call carried no request")

    def on_closed(self) -> None:
        pass


class _Watch:
    """Tells the status of one service now, and whenever it changes."""

    __slots__ = ("_health", "_service", "_stream", "_told")

    def __init__(self, stream: Stream, health: Health) -> None:
        self._stream = stream
        self._health = health
        self._service: str | None = None
        self._told: _Status.ValueType | None = None

    def on_message(self, message: bytes) -> None:
        if self._service is None:
            self._service = pb.HealthCheckRequest.FromString(message).service
            self._health.watch(self)
            self.tell()

    def tell(self) -> None:
        if self._service is None:
            return
        status = self._health.status(self._service)
        if status != self._told:
            self._told = status
            self._stream.send(pb.HealthCheckResponse(status=status).SerializeToString())

    def on_half_close(self) -> None:
        """The watcher has said all it had to say, and listens on."""

    def on_closed(self) -> None:
        self._health.unwatch(self)
