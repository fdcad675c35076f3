"""Which frames may be on which stream, how long they are, and what settings may say (RFC 9113
6)."""

from __future__ import annotations

from typing import Final

from extproc.transport.h2.frames import (
    DEFAULT_FRAME_SIZE,
    GOAWAY,
    HEADERS,
    MAX_WINDOW,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionBrokenError,
    ErrorCode,
    Setting,
    StreamBrokenError,
)

_NAMES: Final = {
    HEADERS: "HEADERS",
    PRIORITY: "PRIORITY",
    RST_STREAM: "RST_STREAM",
    SETTINGS: "SETTINGS",
    PING: "PING",
    GOAWAY: "GOAWAY",
    WINDOW_UPDATE: "WINDOW_UPDATE",
}
_ON_STREAMS: Final = frozenset((HEADERS, PRIORITY, RST_STREAM))
_ON_CONNECTION: Final = frozenset((SETTINGS, PING, GOAWAY))
_SIZES: Final = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_GOAWAY_LEAST: Final = 8
_SETTING_SIZE: Final = 6
_SETTINGS_MOST: Final = 100


def check_shape(kind: int, stream_id: int, size: int) -> None:
    """
    :raises ConnectionBrokenError, StreamBrokenError: the frame is where it may not be, or has not
        the size of its type.
    """
    if kind == PUSH_PROMISE:
        raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
    name = _NAMES.get(kind)
    if name is None:
        return
    if kind in _ON_STREAMS and not stream_id:
        raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, f"{name} on stream 0")
    if kind in _ON_CONNECTION and stream_id:
        raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, f"{name} on a stream")
    exact = _SIZES.get(kind)
    if exact is not None and size != exact:
        if kind == PRIORITY:
            raise StreamBrokenError(
                stream_id, ErrorCode.FRAME_SIZE_ERROR, f"{name} is {exact} bytes"
            )
        raise ConnectionBrokenError(ErrorCode.FRAME_SIZE_ERROR, f"{name} is {exact} bytes")
    if (kind == GOAWAY and size < _GOAWAY_LEAST) or (kind == SETTINGS and size % _SETTING_SIZE):
        raise ConnectionBrokenError(ErrorCode.FRAME_SIZE_ERROR, f"{name} is cut off")
    if kind == SETTINGS and size > _SETTING_SIZE * _SETTINGS_MOST:
        raise ConnectionBrokenError(
            ErrorCode.ENHANCE_YOUR_CALM, f"SETTINGS of over {_SETTINGS_MOST} entries"
        )


def check_setting(setting: int, value: int) -> None:
    """RFC 9113 6.5.2. Settings that are not known mean nothing.

    :raises ConnectionBrokenError: the value is none that the setting may have.
    """
    if setting == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise ConnectionBrokenError(
            ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE is {value}"
        )
    if (setting == Setting.MAX_FRAME_SIZE and not DEFAULT_FRAME_SIZE <= value < 1 << 24) or (
        setting == Setting.ENABLE_PUSH and value > 1
    ):
        raise ConnectionBrokenError(
            ErrorCode.PROTOCOL_ERROR, f"SETTINGS_{Setting(setting).name} is {value}"
        )
