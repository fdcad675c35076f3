"""The seam between gRPC transports and what is served on them.

A transport (our own HTTP/2 server, or grpcio) carries byte messages of gRPC streams. A service
turns one stream into a handler. Handlers are plain objects: every call returns at once, nothing
awaits, so one exchange costs no task. A handler answers through its :class:`Stream`, from inside a
call or later (when a queued request was admitted, when a deadline passed).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Protocol


class GrpcStatus(enum.IntEnum):
    """gRPC status codes that we send."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Stream(Protocol):
    """One gRPC stream, as its handler sees it."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The call's request metadata, lower-case names, without pseudo-headers."""

    @property
    def peer(self) -> str:
        """The other end, for people: ``10.0.0.7:50122`` or ``unix``."""

    def send(self, message: bytes) -> None:
        """Queue one message. After the stream has ended this does nothing."""

    def flush(self) -> None:
        """Hand what is queued to the network before the handler goes on, where that costs nothing:
        not while more of what arrived together is still to be handled. To be called between an
        answer that is waited for and work that nobody waits for."""

    def finish(self, status: GrpcStatus = GrpcStatus.OK, message: str = "") -> None:
        """End the stream after what was queued. Later calls do nothing."""


class Handler(Protocol):
    """What a service does with one stream. No call may block."""

    def on_message(self, message: bytes) -> None:
        """One whole message arrived. An exception ends the stream with INTERNAL."""

    def on_half_close(self) -> None:
        """The client will send no more messages."""

    def on_closed(self) -> None:
        """The stream is gone (finished, reset by the client, or its connection lost). Called
        exactly once, last."""


class Deaf:
    """The handler of a stream whose messages do not matter."""

    def on_message(self, message: bytes) -> None:
        pass

    def on_half_close(self) -> None:
        pass

    def on_closed(self) -> None:
        pass


Method = Callable[[Stream], Handler]
Services = Mapping[str, Method]
"""By full method path: ``/envoy.service.ext_proc.v3.ExternalProcessor/Process``. Other paths are
answered with UNIMPLEMENTED by the transport."""


class Server(Protocol):
    """A running transport."""

    @property
    def address(self) -> str:
        """Where it listens: ``127.0.0.1:9002`` (the real port when 0 was asked for) or a socket's
        path."""

    async def stop(self, grace: float) -> None:
        """Take no new streams, let those in progress finish for up to ``grace`` seconds, then end
        them."""
