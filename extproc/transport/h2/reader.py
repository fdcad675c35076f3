"""Frames, out of bytes as they come from the network."""

from __future__ import annotations

from extproc.transport.h2.frames import (
    HEADER_SIZE,
    PREFACE,
    ConnectionBrokenError,
    ErrorCode,
)


class FrameReader:
    """Splits input into frames, the client's preface before them. Only a frame that comes in pieces
    is put together; whole ones are left where they are::

        reader.feed(data)
        while reader.next():
            ...  # reader.kind and the other attributes tell of one frame

    A cursor and not a generator: compiled, it costs a third of one.
    """

    __slots__ = (
        "_end",
        "_input",
        "_largest",
        "_position",
        "_preface_seen",
        "_rest",
        "data",
        "flags",
        "kind",
        "start",
        "stop",
        "stream_id",
    )

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._rest = bytearray()
        """The beginning of a frame, or of the preface."""
        self._preface_seen = False
        self._input = b""
        self._position = 0
        self._end = 0
        self.kind = 0
        self.flags = 0
        self.stream_id = 0
        self.data = b""
        """The payload is ``data[start:stop]``."""
        self.start = 0
        self.stop = 0

    def feed(self, data: bytes) -> None:
        """Input that follows on what came before, which must have been read to its end."""
        self._input = data
        self._position = 0
        self._end = len(data)

    def next(self) -> bool:
        """Go on to the next frame. False: there is none that is whole yet.

        :raises ConnectionBrokenError: it is not HTTP/2, or a frame is too large.
        """
        if self._rest or not self._preface_seen:
            if self._next_in_pieces():
                return True
        else:
            position = self._position
            left = self._end - position
            if left >= HEADER_SIZE:
                size = self._read_header(self._input, position)
                if left >= size:
                    self._position = position + size
                    return True
            if left:
                self._rest += memoryview(self._input)[position:]
        # What came is not kept for longer than it is needed.
        self._input = self.data = b""
        self._position = self._end = 0
        return False

    def _next_in_pieces(self) -> bool:
        rest = self._rest
        if not self._preface_seen:
            self._fill(len(PREFACE))
            if not PREFACE.startswith(rest):
                raise ConnectionBrokenError(
                    ErrorCode.PROTOCOL_ERROR,
                    "what came is not HTTP/2 (an HTTP/1 or TLS client on this port?)",
                )
            if len(rest) < len(PREFACE):
                return False
            rest.clear()
            self._preface_seen = True
            return self.next()
        if not self._fill(HEADER_SIZE):
            return False
        if not self._fill(self._read_header(bytes(rest[:HEADER_SIZE]), 0)):
            return False
        self.data = bytes(rest)
        rest.clear()
        return True

    def _fill(self, size: int) -> bool:
        """Have so many bytes in what was begun, if they are there."""
        rest = self._rest
        missing = size - len(rest)
        if missing > 0:
            position = self._position
            rest += memoryview(self._input)[position : position + missing]
            self._position = min(position + missing, self._end)
        return len(rest) >= size

    def _read_header(self, data: bytes, at: int) -> int:
        """Take in the header of a frame. Returns the size of the whole frame."""
        length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
        if length > self._largest:
            raise ConnectionBrokenError(
                ErrorCode.FRAME_SIZE_ERROR,
                f"a frame of {length} bytes where {self._largest} is most",
            )
        self.kind = data[at + 3]
        self.flags = data[at + 4]
        self.stream_id = (
            (data[at + 5] & 0x7F) << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8]
        )
        self.data = data
        self.start = at + HEADER_SIZE
        self.stop = at + HEADER_SIZE + length
        return HEADER_SIZE + length
