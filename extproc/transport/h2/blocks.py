"""Header blocks, from the frames that they come in (RFC 9113 4.3)."""

from __future__ import annotations

from dataclasses import dataclass

from extproc.transport.h2 import frames
from extproc.transport.h2.frames import ConnectionBrokenError, ErrorCode


@dataclass(slots=True)
class OpenBlock:
    """A block whose END_HEADERS has not come. No other frame may come before it."""

    stream_id: int
    end_stream: bool
    data: bytearray
    since: float
    continuations: int = 0


def fragment(flags: int, stream_id: int, payload: bytes) -> tuple[bytes, bool]:
    """The part of a block that a HEADERS frame carries, without padding and priority; and whether
    the stream claims to depend on itself."""
    start, stop = 0, len(payload)
    if flags & frames.PADDED:
        if not payload:
            raise ConnectionBrokenError(
                ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its pad length"
            )
        start = 1
        stop -= payload[0]
    itself = False
    if flags & frames.HAS_PRIORITY:
        if len(payload) < start + 5:
            raise ConnectionBrokenError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority")
        itself = depends_on(payload, start) == stream_id
        start += 5
    if stop < start:
        raise ConnectionBrokenError(
            ErrorCode.PROTOCOL_ERROR, "HEADERS with more padding than frame"
        )
    return payload[start:stop], itself


def depends_on(payload: bytes, start: int = 0) -> int:
    """The stream that a priority field names. Priorities themselves mean nothing any more."""
    return int.from_bytes(payload[start : start + 4], "big") & 0x7FFFFFFF
