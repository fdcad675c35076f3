"""Frames, out of bytes as they come from the network."""

from __future__ import annotations

from collections.abc import Iterator

from extproc.transport.h2.frames import (
    FRAME_HEADER,
    HEADER_SIZE,
    PREFACE,
    ConnectionBrokenError,
    ErrorCode,
)

Frame = tuple[int, int, int, bytes, int, int]
"""Type, flags, stream, and where its payload is: ``data[start:stop]``."""


class FrameReader:
    """Splits input into frames, the client's preface before them. Only a frame that comes in pieces
    is put together; whole ones are left where they are."""

    __slots__ = ("_largest", "_need", "_preface_seen", "_rest")

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._rest = bytearray()
        self._need = len(PREFACE)
        self._preface_seen = False

    def read(self, data: bytes) -> Iterator[Frame]:
        """The frames that ``data`` completes. To be read to the end.

        :raises ConnectionBrokenError: it is not HTTP/2, or a frame is too large.
        """
        rest = self._rest
        start = 0
        while rest or not self._preface_seen:
            stop = start + self._need - len(rest)
            rest += memoryview(data)[start:stop]
            start = stop
            if not self._preface_seen:
                self._take_preface()
            elif len(rest) >= self._need:
                whole = bytes(rest)
                rest.clear()
                # This may be a frame's header alone: then it tells how much it needs.
                yield from self._whole_frames(whole, 0)
            if start >= len(data):
                return
        yield from self._whole_frames(data, start)

    def _take_preface(self) -> None:
        rest = self._rest
        if not PREFACE.startswith(rest):
            raise ConnectionBrokenError(
                ErrorCode.PROTOCOL_ERROR,
                "what came is not HTTP/2 (an HTTP/1 or TLS client on this port?)",
            )
        if len(rest) == len(PREFACE):
            rest.clear()
            self._preface_seen = True
            self._need = HEADER_SIZE

    def _whole_frames(self, data: bytes, position: int) -> Iterator[Frame]:
        """Frames that are there from their first to their last byte; the remainder is kept."""
        end = len(data)
        need = HEADER_SIZE
        unpack = FRAME_HEADER.unpack_from
        while end - position >= HEADER_SIZE:
            high, low, kind, flags, stream_id = unpack(data, position)
            length = high << 8 | low
            if length > self._largest:
                raise ConnectionBrokenError(
                    ErrorCode.FRAME_SIZE_ERROR,
                    f"a frame of {length} bytes where {self._largest} is most",
                )
            start = position + HEADER_SIZE
            stop = start + length
            if stop > end:
                need = HEADER_SIZE + length
                break
            position = stop
            yield kind, flags, stream_id & 0x7FFFFFFF, data, start, stop
        self._need = need
        if position < end:
            self._rest += memoryview(data)[position:]
