"""Streams, as their connection keeps them."""

from __future__ import annotations

from collections import deque
from typing import Final

_GONE_KEPT: Final = 1024


class Stream:
    """Both directions of one stream. It lives until both have ended."""

    __slots__ = (
        "arrived",
        "content_left",
        "ended",
        "ending",
        "headers_sent",
        "held_since",
        "id",
        "in_line",
        "lingering",
        "need",
        "partial",
        "queue",
        "queued",
        "reading",
        "receive_window",
        "receiving",
        "send_window",
        "unacknowledged",
    )

    def __init__(
        self, id: int, receive_window: int, send_window: int, content_left: int | None = None
    ) -> None:
        self.id = id
        self.receive_window = receive_window
        self.send_window = send_window
        self.content_left = content_left
        """What content-length announced and has not come."""
        self.receiving = True
        """The client may still send on it."""
        self.reading = True
        """Whether what comes is read as gRPC messages, and told; otherwise it is passed over."""
        self.lingering = False
        """It stays until the client has ended it, even if we have."""
        self.partial: list[bytes] | None = None
        """The beginning of a message, ..."""
        self.arrived = 0
        """... in bytes, ..."""
        self.need = 0
        """... and how long it will be; -1 while ``partial`` is still part of its prefix."""
        self.unacknowledged = 0
        """Received since the last WINDOW_UPDATE."""
        self.headers_sent = False
        self.queue: deque[memoryview] | None = None
        """What the client's flow control holds up, ..."""
        self.queued = 0
        """... in bytes, ..."""
        self.held_since = 0.0
        """... without progress since then."""
        self.in_line = False
        """It waits for its turn to use the connection's window."""
        self.ending: bytes | None = None
        """The trailers' block, sent after the queue. Empty: END_STREAM on the last DATA frame."""
        self.ended = False
        """We have sent END_STREAM."""


class GoneStreams:
    """The streams that were gone last. RFC 9113 5.1 tells apart how a stream was closed, and the
    same frame may be late on one and wrong on the other."""

    __slots__ = ("_by_us",)

    def __init__(self) -> None:
        self._by_us: dict[int, bool] = {}

    def add(self, stream_id: int, *, by_us: bool) -> None:
        """``by_us``: the client had not ended it, so frames of it may be on their way."""
        by_us_or_not = self._by_us
        by_us_or_not[stream_id] = by_us
        if len(by_us_or_not) > _GONE_KEPT:
            del by_us_or_not[next(iter(by_us_or_not))]

    def by_us(self, stream_id: int) -> bool | None:
        """None if it is not remembered, or never was."""
        return self._by_us.get(stream_id)

    def forget(self, stream_id: int) -> bool:
        """Whether it was still remembered."""
        return self._by_us.pop(stream_id, None) is not None

    def client_ended(self, stream_id: int) -> None:
        """Nothing more may come of it."""
        if stream_id in self._by_us:
            self._by_us[stream_id] = False
