"""The gRPC transport on grpcio: slower than our own, and in wide use for years."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import grpc
import structlog

from extproc.transport.api import GrpcStatus, Handler, Method, Server, Services
from extproc.transport.listen import bind, parse_address
from extproc.transport.tls import TlsFiles, context_of

log = structlog.get_logger(__name__)

_STATUS = {code.value[0]: code for code in grpc.StatusCode}


async def serve_grpcio(
    services: Services,
    address: str,
    *,
    tls: TlsFiles | None = None,
) -> Server:
    """Serve on ``host:port`` (port 0: any free one) or ``unix:/path``, on the running event loop.

    :raises OSError: it cannot listen there.
    :raises TlsFilesError: the TLS files cannot be used.
    """
    where = parse_address(address) if address.startswith("unix:") else None
    if where is not None:
        # grpcio would take the socket of a living server away. What this leaves behind it removes.
        bind(where).close()
    server = grpc.aio.server(
        options=[
            # Two servers on one port would silently share its connections.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", 2**31 - 1),
        ]
    )
    server.add_generic_rpc_handlers((_Rpcs(services),))
    try:
        if tls is not None:
            port = server.add_secure_port(address, _credentials(tls))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    await server.start()
    if where is not None:
        return _GrpcioServer(server, str(where))
    return _GrpcioServer(server, f"{address.rpartition(':')[0]}:{port}")


class _GrpcioServer:
    def __init__(self, server: grpc.aio.Server, address: str) -> None:
        # grpcio stops a server that nobody refers to any more.
        self._server = server
        self.address = address

    async def stop(self, grace: float) -> None:
        await self._server.stop(grace)


def _credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow their files; grpcio asks at each handshake."""
    paths = [path for path in (files.certificate, files.key, files.client_ca) if path is not None]

    def stamp() -> list[int]:
        return [path.stat().st_mtime_ns for path in paths]

    def read() -> Any:
        context_of(files)  # grpcio names no file that it cannot use, and goes on with the old one
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        roots = files.client_ca.read_bytes() if files.client_ca is not None else None
        return grpc.ssl_server_certificate_configuration([pair], roots)

    first = read()
    seen = stamp()

    def changed() -> Any:
        nonlocal seen
        try:
            now = stamp()
            if now == seen:
                return None
            fresh = read()
        except (OSError, ValueError) as error:
            log.warning(
                "TLS files changed but cannot be used; the certificate read before stays",
                certificate=str(files.certificate),
                error=str(error),
            )
            return None
        seen = now
        return fresh

    credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
        first, changed, require_client_authentication=files.client_ca is not None
    )
    return credentials


class _Rpcs(grpc.GenericRpcHandler):  # type: ignore[type-arg] # not generic when it runs
    def __init__(self, services: Services) -> None:
        self._handlers = {
            path: grpc.stream_stream_rpc_method_handler(_behaviour(method))
            for path, method in services.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)


def _behaviour(method: Method) -> Callable[[Any, Any], Any]:
    async def serve(_: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await _Stream(context).run(method)

    return serve


class _Stream:
    """A grpcio call as our :class:`~extproc.transport.api.Stream`."""

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context
        self._outbox: deque[bytes] = deque()
        self._task = asyncio.current_task()
        self._writer: asyncio.Task[None] | None = None
        self._turn = False
        """A message is being handled; what is sent meanwhile is written right after."""
        self._finished = False
        self._ended = False
        metadata = context.invocation_metadata() or ()
        self.metadata: Mapping[str, str] = MappingProxyType(
            {
                str(name): value if isinstance(value, str) else value.decode("latin-1")
                for name, value in metadata
            }
        )
        self.peer = context.peer().removeprefix("ipv4:").removeprefix("ipv6:")

    def send(self, message: bytes) -> None:
        if self._finished or self._ended:
            return
        self._outbox.append(message)
        if not self._turn and self._writer is None:
            self._writer = asyncio.ensure_future(self._write_later())

    def flush(self) -> None:
        """Nothing: grpcio writes in a coroutine, which has its turn when the handler is done."""

    def finish(self, status: GrpcStatus = GrpcStatus.OK, message: str = "") -> None:
        if self._finished or self._ended:
            return
        self._finished = True
        self._context.set_code(_STATUS[status.value])
        if message:
            self._context.set_details(message)
        if not self._turn and self._task is not None:
            self._task.cancel()  # it waits for a message that need not come any more

    async def run(self, method: Method) -> None:
        """Serve until one side ends it."""
        self._turn = True
        handler = method(self)
        try:
            await self._converse(handler)
            await self._flush()
        except asyncio.CancelledError:
            if not self._finished:
                raise
            if self._task is not None:
                self._task.uncancel()
            await self._flush()
        except Exception:
            log.exception("stream failed", peer=self.peer)
            self._context.set_code(grpc.StatusCode.INTERNAL)
            self._context.set_details("internal error")
        finally:
            self._ended = True
            handler.on_closed()
            if self._writer is not None:
                self._writer.cancel()

    async def _converse(self, handler: Handler) -> None:
        await self._flush()
        while not self._finished:
            self._turn = False
            message = await self._context.read()
            self._turn = True
            if message is grpc.aio.EOF:  # type: ignore[attr-defined] # the stubs lack it
                handler.on_half_close()
                await self._flush()
                self._turn = False
                while not self._finished:
                    # The other side listens on: only finish() or its reset end this.
                    await asyncio.get_running_loop().create_future()
                return
            handler.on_message(message)
            await self._flush()

    async def _flush(self) -> None:
        if self._writer is not None and self._writer is not asyncio.current_task():
            await asyncio.shield(self._writer)
        while self._outbox:
            await self._context.write(self._outbox.popleft())

    async def _write_later(self) -> None:
        try:
            await self._flush()
        except (grpc.RpcError, asyncio.InvalidStateError):
            self._outbox.clear()  # the stream is gone; on_closed tells the handler
        finally:
            self._writer = None
