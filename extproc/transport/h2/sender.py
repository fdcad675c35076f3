"""What a connection has to write: frames, in order, as far as the client's windows allow."""

from __future__ import annotations

from collections import deque

from extproc.transport.h2.frames import (
    DATA,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_STREAM,
    GRPC_PREFIX,
    MAX_WINDOW,
    MESSAGE_HEADER,
    ConnectionBrokenError,
    ErrorCode,
    StreamBrokenError,
    frame_header,
    headers,
)
from extproc.transport.h2.stream import Stream


class Sender:
    """Outbound flow control (RFC 9113 5.2). Streams that wait for the connection's window take
    turns, a frame each."""

    __slots__ = (
        "_frames",
        "_line",
        "block_prefix",
        "held",
        "initial_window",
        "max_frame",
        "now",
        "unsent",
        "window",
    )

    def __init__(self, now: float) -> None:
        self._frames: list[bytes | memoryview] = []
        self._line: deque[Stream] = deque()
        self.window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self.max_frame = DEFAULT_FRAME_SIZE
        self.block_prefix = b""
        self.unsent = 0
        self.held: dict[int, Stream] = {}
        """Streams with something queued."""
        self.now = now

    def put(self, frame: bytes) -> None:
        """A frame to which flow control does not apply."""
        self._frames.append(frame)

    def headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """A header block of ours."""
        self._frames.append(headers(stream_id, self.block_prefix + block, end_stream=end_stream))

    def take(self) -> bytes:
        """All frames so far, in one piece for one write."""
        frames = self._frames
        if not frames:
            return b""
        self._frames = []
        return b"".join(frames)

    def message(self, stream: Stream, message: bytes) -> None:
        """One gRPC message: sent if the windows allow it whole, otherwise queued."""
        size = len(message) + 5
        if (
            stream.queue is None
            and size <= stream.send_window
            and size <= self.window
            and size <= self.max_frame
        ):
            stream.send_window -= size
            self.window -= size
            self._frames.append(
                MESSAGE_HEADER.pack(size >> 8, size & 0xFF, DATA, 0, stream.id, 0, size - 5)
            )
            self._frames.append(message)
        else:
            self.enqueue(stream, GRPC_PREFIX.pack(0, size - 5), message)

    def enqueue(self, stream: Stream, *pieces: bytes) -> None:
        """Bytes for DATA frames, sent by :meth:`pump` when the windows allow it."""
        if stream.queue is None:
            stream.queue = deque()
            stream.held_since = self.now
            self.held[stream.id] = stream
        for piece in pieces:
            if piece:
                stream.queue.append(memoryview(piece))
                stream.queued += len(piece)
                self.unsent += len(piece)
        self.offer(stream)

    def end(self, stream: Stream, trailers: bytes) -> None:
        """End our side after what is queued: with this block, or if it is empty, with the last DATA
        frame."""
        stream.ending = trailers
        if stream.queue is None:
            if not trailers:
                self._frames.append(frame_header(DATA, END_STREAM, stream.id, 0))
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        if stream.ending:
            self.headers(stream.id, stream.ending, end_stream=True)
        stream.ended = True

    def drop(self, stream: Stream) -> None:
        """Forget what the stream still had to send."""
        if stream.queue is not None:
            self.unsent -= stream.queued
            stream.queued = 0
            stream.queue = None
            del self.held[stream.id]

    def offer(self, stream: Stream) -> None:
        """Let the stream join the line, if there is something that it may send."""
        if stream.queue is not None and not stream.in_line and stream.send_window > 0:
            stream.in_line = True
            self._line.append(stream)

    def pump(self) -> list[Stream]:
        """Send what the windows allow. Returns the streams whose end was sent by that."""
        line = self._line
        ended: list[Stream] = []
        while line and self.window > 0:
            stream = line.popleft()
            stream.in_line = False
            # Its own window may have shrunk since it joined the line; it joins again when it grows.
            if stream.queue is None or stream.send_window <= 0:
                continue
            self._frame(stream)
            if stream.queued:
                self.offer(stream)
                continue
            stream.queue = None
            del self.held[stream.id]
            if stream.ending is not None:
                self._end(stream)
                ended.append(stream)
        return ended

    def _frame(self, stream: Stream) -> None:
        """One DATA frame, as large as it may be."""
        queue = stream.queue
        assert queue is not None
        size = min(stream.queued, stream.send_window, self.window, self.max_frame)
        last = size == stream.queued and stream.ending == b""
        self._frames.append(frame_header(DATA, END_STREAM if last else 0, stream.id, size))
        stream.send_window -= size
        stream.queued -= size
        stream.held_since = self.now
        self.window -= size
        self.unsent -= size
        while size:
            piece = queue[0]
            if len(piece) <= size:
                queue.popleft()
            else:
                queue[0] = piece[size:]
                piece = piece[:size]
            self._frames.append(piece)
            size -= len(piece)

    # What the client says about its windows.

    def widen(self, increment: int) -> None:
        """A WINDOW_UPDATE for the connection."""
        if self.window + increment > MAX_WINDOW:
            raise ConnectionBrokenError(
                ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is over 2^31-1"
            )
        self.window += increment

    def widen_stream(self, stream: Stream, increment: int) -> None:
        """A WINDOW_UPDATE for a stream."""
        if stream.send_window + increment > MAX_WINDOW:
            raise StreamBrokenError(
                stream.id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is over 2^31-1"
            )
        stream.send_window += increment
        self.offer(stream)

    def set_initial_window(self, value: int, streams: dict[int, Stream]) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE, which holds for open streams too (RFC 9113 6.9.2)."""
        change = value - self.initial_window
        self.initial_window = value
        for stream in streams.values():
            if stream.send_window + change > MAX_WINDOW:
                raise ConnectionBrokenError(
                    ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is over 2^31-1"
                )
            stream.send_window += change
            self.offer(stream)
