"""Taking gRPC messages out of the bytes of streams."""

from __future__ import annotations

from typing import Final

from extproc.transport.api import GrpcStatus
from extproc.transport.h2.frames import GRPC_PREFIX
from extproc.transport.h2.stream import Stream

_PREFIX_SIZE: Final = GRPC_PREFIX.size
_PREFIX_UNKNOWN: Final = -1
_SMALL_PIECE: Final = 4096


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
        messages: list[bytes] = []
        if stream.partial is not None:
            start = self._go_on(stream, data, start, stop, messages)
        while stop - start >= _PREFIX_SIZE:
            size = self._size(*GRPC_PREFIX.unpack_from(data, start))
            start += _PREFIX_SIZE
            if stop - start < size:
                self._begin(stream, size, data, start, stop)
                return messages
            messages.append(data[start : start + size])
            start += size
        if start < stop:
            self._begin(stream, _PREFIX_UNKNOWN, data, start, stop)
        return messages

    def _begin(self, stream: Stream, need: int, data: bytes, start: int, stop: int) -> None:
        # Pieces are copies, or they would keep alive all that came with them.
        stream.partial = [data[start:stop]]
        stream.arrived = stop - start
        stream.need = need
        self._count(stop - start)

    def _go_on(
        self, stream: Stream, data: bytes, start: int, stop: int, messages: list[bytes]
    ) -> int:
        """Add to the unfinished message. Returns where the bytes after it begin."""
        partial = stream.partial
        assert partial is not None
        if stream.need == _PREFIX_UNKNOWN:
            end = min(stop, start + _PREFIX_SIZE - stream.arrived)
            partial.append(data[start:end])
            stream.arrived += end - start
            self._count(end - start)
            if stream.arrived < _PREFIX_SIZE:
                return stop
            start = end
            stream.need = self._size(*GRPC_PREFIX.unpack(b"".join(partial)))
            self.unread -= _PREFIX_SIZE
            stream.arrived = 0
            partial.clear()
        end = start + stream.need - stream.arrived
        if end > stop:
            if partial and len(partial[-1]) < _SMALL_PIECE:
                # A client that sends byte by byte must not make us keep an object for each.
                partial[-1] += data[start:stop]
            else:
                partial.append(data[start:stop])
            stream.arrived += stop - start
            self._count(stop - start)
            return stop
        partial.append(data[start:end])
        messages.append(b"".join(partial))
        self.drop(stream)
        return end

    def _size(self, compressed: int, size: int) -> int:
        """A message's size, from its prefix."""
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
        return size

    def drop(self, stream: Stream) -> None:
        """Forget the stream's unfinished message."""
        if stream.partial is not None:
            self.unread -= stream.arrived
            stream.partial = None

    def _count(self, more: int) -> None:
        self.unread += more
        if self.unread > self._max_unread:
            raise BadMessageError(
                GrpcStatus.RESOURCE_EXHAUSTED, "too many unfinished messages on this connection"
            )
