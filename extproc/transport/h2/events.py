"""What a connection reports about its peer. Named tuples: the cheapest immutable value there is."""

from __future__ import annotations

from typing import NamedTuple

from extproc.transport.h2.frames import ErrorCode
from extproc.transport.h2.request import Request


class StreamOpened(NamedTuple):
    """A well-formed gRPC request began. Nothing else about a stream comes before this."""

    stream_id: int
    request: Request


class Message(NamedTuple):
    """One whole gRPC message, without its length prefix."""

    stream_id: int
    data: bytes


class HalfClosed(NamedTuple):
    """The client ended its side of the stream."""

    stream_id: int


class StreamReset(NamedTuple):
    """The stream is gone before its time: reset by the client, or refused for what it did.
    Nothing can be sent on it any more."""

    stream_id: int
    code: ErrorCode
    reason: str


class ConnectionClosed(NamedTuple):
    """The connection broke a rule or a limit. All its streams are gone; what is left to write
    ends with a GOAWAY frame, and then the socket must be closed."""

    code: ErrorCode
    reason: str


Event = StreamOpened | Message | HalfClosed | StreamReset | ConnectionClosed
