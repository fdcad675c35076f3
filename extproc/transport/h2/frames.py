"""Frames of RFC 9113: their numbers, and the bytes of those that we send."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE: Final = 9
MAX_WINDOW: Final = (1 << 31) - 1
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_SIZE: Final = 16_384
DEFAULT_TABLE_SIZE: Final = 4_096

# Frame types. Plain integers: they are compared once per frame.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20


class ErrorCode(enum.IntEnum):
    """RFC 9113 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD

    @classmethod
    def _missing_(cls, value: object) -> ErrorCode:
        # RFC 9113 7: unknown codes must not trigger any special behaviour.
        return cls.INTERNAL_ERROR


class Setting(enum.IntEnum):
    """RFC 9113 6.5.2."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class ConnectionBrokenError(Exception):
    """The peer broke a rule or a limit that ends the connection (RFC 9113 5.4.1)."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamBrokenError(Exception):
    """The peer broke a rule that ends one stream (RFC 9113 5.4.2)."""

    def __init__(self, stream_id: int, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.stream_id = stream_id
        self.code = code
        self.reason = reason


# Length (three bytes, as two numbers), type, flags, stream.
FRAME_HEADER: Final = struct.Struct(">HBBBI")
# A DATA frame's header and the gRPC prefix of the message that it carries: compressed flag, length.
MESSAGE_HEADER: Final = struct.Struct(">HBBBIBI")
GRPC_PREFIX: Final = struct.Struct(">BI")
SETTING: Final = struct.Struct(">HI")
_UINT32: Final = struct.Struct(">I")


def frame_header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    return FRAME_HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def headers(stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
    """A whole header block in one frame; ours are always short enough."""
    flags = END_HEADERS | END_STREAM if end_stream else END_HEADERS
    return frame_header(HEADERS, flags, stream_id, len(block)) + block


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    return frame_header(RST_STREAM, 0, stream_id, 4) + _UINT32.pack(code)


def settings(values: Iterable[tuple[Setting, int]]) -> bytes:
    payload = b"".join(SETTING.pack(setting, value) for setting, value in values)
    return frame_header(SETTINGS, 0, 0, len(payload)) + payload


SETTINGS_ACK: Final = frame_header(SETTINGS, ACK, 0, 0)


def ping(payload: bytes, *, ack: bool) -> bytes:
    return frame_header(PING, ACK if ack else 0, 0, 8) + payload


def goaway(last_stream_id: int, code: ErrorCode, reason: str = "") -> bytes:
    text = reason.encode("utf-8", "replace")[:256]
    payload = _UINT32.pack(last_stream_id) + _UINT32.pack(code) + text
    return frame_header(GOAWAY, 0, 0, len(payload)) + payload


def window_update(stream_id: int, increment: int) -> bytes:
    return frame_header(WINDOW_UPDATE, 0, stream_id, 4) + _UINT32.pack(increment)
