"""Taking gRPC messages out of the bytes of streams."""

from __future__ import annotations

from extproc.transport.api import GrpcStatus
from extproc.transport.h2.frames import GRPC_PREFIX
from extproc.transport.h2.stream import Stream

_PREFIX_SIZE = GRPC_PREFIX.size


class BadMessageError(Exception):
    """The call must end with this status."""

    def __init__(self, status: GrpcStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class MessageReader:
    """Puts messages together across DATA frames, for all streams of a connection: the bytes of
    unfinished messages are counted together."""

    __slots__ = ("_max_message", "_max_unread", "unread")

    def __init__(self, max_message: int, max_unread: int) -> None:
        self._max_message = max_message
        self._max_unread = max_unread
        self.unread = 0

    def read(self, stream: Stream, data: bytes, start: int, stop: int) -> list[bytes]:
        """The messages that ``data[start:stop]`` completes.

        :raises BadMessageError: compressed, too large, or too much of it is unfinished. Messages
            before it in the same bytes are lost with the call.
        """
        partial = stream.partial
        if partial is not None:
            partial += memoryview(data)[start:stop]
            self.unread += stop - start
            if len(partial) < stream.need:
                self._check_unread()
                return []
            data, start, stop = bytes(partial), 0, len(partial)
            self.drop(stream)
        messages: list[bytes] = []
        need = _PREFIX_SIZE
        while stop - start >= _PREFIX_SIZE:
            compressed, size = GRPC_PREFIX.unpack_from(data, start)
            if compressed:
                raise BadMessageError(
                    GrpcStatus.UNIMPLEMENTED,
                    "compressed messages are not taken: send grpc-encoding identity",
                )
            if size > self._max_message:
                raise BadMessageError(
                    GrpcStatus.RESOURCE_EXHAUSTED,
                    f"a message of {size} bytes where {self._max_message} is most",
                )
            need = size + _PREFIX_SIZE
            if stop - start < need:
                break
            start += need
            messages.append(data[start - size : start])
            need = _PREFIX_SIZE
        if start < stop:
            stream.partial = bytearray(memoryview(data)[start:stop])
            stream.need = need
            self.unread += stop - start
            self._check_unread()
        return messages

    def drop(self, stream: Stream) -> None:
        """Forget the stream's unfinished message."""
        if stream.partial is not None:
            self.unread -= len(stream.partial)
            stream.partial = None

    def _check_unread(self) -> None:
        if self.unread > self._max_unread:
            raise BadMessageError(
                GrpcStatus.RESOURCE_EXHAUSTED, "too many unfinished messages on this connection"
            )
