"""What a connection reports about its peer. Plain classes: compiled, making a named tuple takes
several times as long."""

from __future__ import annotations

from extproc.transport.h2.frames import ErrorCode
from extproc.transport.h2.request import Request


class Event:
    """Something that the peer did on a stream. Events are equal that say the same."""

    __slots__ = ("stream_id",)

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        """0: it is about the whole connection."""

    def said(self) -> tuple[object, ...]:
        """All of it."""
        return (self.stream_id,)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Event) and type(self) is type(other) and self.said() == other.said()
        )

    def __hash__(self) -> int:
        return hash(self.said())

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.said()}"


class StreamOpened(Event):
    """A well-formed gRPC request began. Nothing else about a stream comes before this."""

    __slots__ = ("request",)

    def __init__(self, stream_id: int, request: Request) -> None:
        self.stream_id = stream_id
        self.request = request

    def said(self) -> tuple[object, ...]:
        return self.stream_id, self.request


class Message(Event):
    """One whole gRPC message, without its length prefix."""

    __slots__ = ("data",)

    def __init__(self, stream_id: int, data: bytes) -> None:
        self.stream_id = stream_id
        self.data = data

    def said(self) -> tuple[object, ...]:
        return self.stream_id, self.data


class HalfClosed(Event):
    """The client ended its side of the stream."""

    __slots__ = ()


class StreamReset(Event):
    """The stream is gone before its time: reset by the client, or refused for what it did.
    Nothing can be sent on it any more."""

    __slots__ = ("code", "reason")

    def __init__(self, stream_id: int, code: ErrorCode, reason: str) -> None:
        self.stream_id = stream_id
        self.code = code
        self.reason = reason

    def said(self) -> tuple[object, ...]:
        return self.stream_id, self.code, self.reason


class ConnectionClosed(Event):
    """The connection broke a rule or a limit. All its streams are gone; what is left to write
    ends with a GOAWAY frame, and then the socket must be closed."""

    __slots__ = ("code", "reason")

    def __init__(self, code: ErrorCode, reason: str) -> None:
        self.stream_id = 0
        self.code = code
        self.reason = reason

    def said(self) -> tuple[object, ...]:
        return self.code, self.reason
