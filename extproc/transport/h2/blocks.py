"""Header blocks, from the frames that they come in (RFC 9113 4.3)."""

from __future__ import annotations

from extproc.transport.h2 import frames
from extproc.transport.h2.frames import ConnectionBrokenError, ErrorCode, StreamBrokenError


class Block:
    """A whole header block."""

    __slots__ = ("data", "depends_on_itself", "end_stream", "stream_id")

    def __init__(
        self, stream_id: int, end_stream: bool, data: bytes, depends_on_itself: bool
    ) -> None:
        self.stream_id = stream_id
        self.end_stream = end_stream
        self.data = data
        self.depends_on_itself = depends_on_itself


class BlockReader:
    """Puts blocks together. While one is open, no frame but its CONTINUATION may come."""

    __slots__ = ("_data", "_head", "_left", "_max_continuations", "_max_size", "since")

    def __init__(self, max_size: int, max_continuations: int) -> None:
        self._max_size = max_size
        self._max_continuations = max_continuations
        self._head: Block | None = None
        self._data = bytearray()
        self._left = 0
        self.since = 0.0
        """When the open block began."""

    @property
    def open_on(self) -> int | None:
        """The stream of the open block."""
        return None if self._head is None else self._head.stream_id

    def headers(self, flags: int, stream_id: int, payload: bytes, now: float) -> Block | None:
        """The block of a HEADERS frame, if it is whole."""
        itself = False
        if flags & (frames.PADDED | frames.HAS_PRIORITY):
            payload, itself = _without_padding(flags, stream_id, payload)
        block = Block(stream_id, bool(flags & frames.END_STREAM), payload, itself)
        if flags & frames.END_HEADERS:
            self._check_size(len(payload))
            return block
        self._head = block
        self._data = bytearray(payload)
        self._left = self._max_continuations
        self.since = now
        return None

    def continuation(self, flags: int, payload: bytes) -> Block | None:
        """The open block, if this frame ends it."""
        head = self._head
        if head is None:
            raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        if not self._left:
            raise ConnectionBrokenError(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
        self._left -= 1
        self._data += payload
        self._check_size(len(self._data))
        if not flags & frames.END_HEADERS:
            return None
        self._head = None
        head.data = bytes(self._data)
        return head

    def _check_size(self, size: int) -> None:
        if size > self._max_size:
            raise ConnectionBrokenError(
                ErrorCode.ENHANCE_YOUR_CALM, f"a header block over {self._max_size} bytes"
            )


def check_priority(stream_id: int, payload: bytes) -> None:
    """The one rule that is left of PRIORITY frames.

    :raises StreamBrokenError: the stream depends on itself.
    """
    if _depends_on(payload, 0) == stream_id:
        raise StreamBrokenError(stream_id, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")


def _without_padding(flags: int, stream_id: int, payload: bytes) -> tuple[bytes, bool]:
    """What a HEADERS frame has of its block; and whether its stream depends on itself."""
    start, stop = 0, len(payload)
    if flags & frames.PADDED:
        if not payload:
            raise ConnectionBrokenError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without pad length")
        start = 1
        stop -= payload[0]
    itself = False
    if flags & frames.HAS_PRIORITY:
        if len(payload) < start + 5:
            raise ConnectionBrokenError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority")
        itself = _depends_on(payload, start) == stream_id
        start += 5
    if stop < start:
        raise ConnectionBrokenError(
            ErrorCode.PROTOCOL_ERROR, "HEADERS with more padding than frame"
        )
    return payload[start:stop], itself


def _depends_on(payload: bytes, start: int) -> int:
    return int.from_bytes(payload[start : start + 4], "big") & 0x7FFFFFFF
