"""The server's side of one HTTP/2 connection that carries gRPC (RFC 9113, gRPC over HTTP/2)."""

from __future__ import annotations

from typing import Final

from extproc.transport.api import GrpcStatus
from extproc.transport.h2 import frames, responses
from extproc.transport.h2.blocks import Block, BlockReader, check_priority
from extproc.transport.h2.events import (
    ConnectionClosed,
    Event,
    HalfClosed,
    Message,
    StreamOpened,
    StreamReset,
)
from extproc.transport.h2.frames import (
    DEFAULT_TABLE_SIZE,
    ConnectionBrokenError,
    ErrorCode,
    Setting,
    StreamBrokenError,
)
from extproc.transport.h2.headers import TABLE_SIZE_ZERO, Field, HeaderDecoder
from extproc.transport.h2.limits import Bucket, Limits
from extproc.transport.h2.messages import BadMessageError, MessageReader
from extproc.transport.h2.reader import FrameReader
from extproc.transport.h2.request import MalformedError, Request, RequestReader, check_trailers
from extproc.transport.h2.sender import Sender
from extproc.transport.h2.shape import check_setting, check_shape
from extproc.transport.h2.stream import GoneStreams, Stream

_CRUMB: Final = 256
_LARGE_BLOCK: Final = 4096
_DRAIN_PING: Final = b"draining"


class Connection:
    """Bytes in by :meth:`receive`, which returns events; bytes out by :meth:`outgoing`.

    Times are seconds of any one clock that never goes back. A call that answers on a stream which
    is gone does nothing: the client may have reset it before its events were read.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self.closed = False
        self.fault: ConnectionClosed | None = None
        """Why it was closed, if it was the client's fault."""
        self._sender = Sender(now)
        self._streams: dict[int, Stream] = {}
        self._gone = GoneStreams()
        self._last_stream = 0
        self._draining = False
        self._refusing = False
        self._events: list[Event] = []

        self._reader = FrameReader(limits.max_frame_size)
        self._settings_seen = False
        self._started = now
        self._blocks = BlockReader(limits.max_header_list, limits.max_continuations)
        self._decoder = HeaderDecoder(limits.max_header_list, limits.max_header_fields)
        self._requests = RequestReader(self._decoder)
        self._messages = MessageReader(limits.max_message, limits.max_unread)

        self._window = limits.connection_window
        self._unacknowledged = 0

        self._resets = Bucket(limits.resets, now)
        self._pings = Bucket(limits.pings, now)
        self._settings = Bucket(limits.settings, now)
        self._empty = Bucket(limits.empty_frames, now)
        self._crumbs = Bucket(limits.crumbs, now)
        self._large_headers = Bucket(limits.large_headers, now)
        self._window_updates = Bucket(limits.window_updates, now)
        self._ignored = Bucket(limits.ignored_frames, now)

        self._sender.put(
            frames.settings(
                (
                    (Setting.MAX_CONCURRENT_STREAMS, limits.max_streams),
                    (Setting.INITIAL_WINDOW_SIZE, limits.stream_window),
                    (Setting.MAX_FRAME_SIZE, limits.max_frame_size),
                    (Setting.MAX_HEADER_LIST_SIZE, limits.max_header_list),
                )
            )
        )
        more = limits.connection_window - frames.DEFAULT_WINDOW
        if more:
            self._sender.put(frames.window_update(0, more))

    # --- What the server does

    @property
    def open_streams(self) -> int:
        """Streams that are not over, those whose answer is still held up included."""
        return len(self._streams)

    @property
    def unsent(self) -> int:
        """Bytes of answers that the client's flow control holds up."""
        return self._sender.unsent

    def outgoing(self) -> bytes:
        """Everything to be written now, for one write."""
        return self._sender.take()

    def send(self, stream_id: int, message: bytes) -> bool:
        """Send one message. False if the stream is gone: it was before, or the client has let more
        than the limit pile up and it is reset now (or the whole connection, see ``closed``)."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended or stream.ending is not None:
            return False
        if not stream.headers_sent:
            stream.headers_sent = True
            self._sender.headers(stream_id, responses.RESPONSE, end_stream=False)
        self._sender.message(stream, message)
        if stream.queue is not None:
            self._pump()
            if self._sender.unsent > self.limits.max_unsent:
                reason = "too much of what was answered is held up by flow control"
                self._close(ErrorCode.ENHANCE_YOUR_CALM, reason)
                return False
            if stream.queued > self.limits.max_unsent_stream:
                self._reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
                return False
        return True

    def finish(self, stream_id: int, status: GrpcStatus, message: str = "") -> None:
        """End the call, after what was sent on it."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended or stream.ending is not None:
            return
        block = responses.trailers(status, message)
        if not stream.headers_sent:
            block = responses.RESPONSE + block
        self._sender.end(stream, block)
        if stream.ended:
            self._after_end(stream)
        else:
            # Nobody is there any more for what the client may still say.
            stream.reading = False
            self._messages.drop(stream)

    def ping(self, payload: bytes) -> None:
        """Ask the client for a sign of life: eight bytes, which it sends back."""
        self._sender.put(frames.ping(payload, ack=False))

    def drain(self) -> None:
        """Ask the client to open no more streams here. Those that it has opened before it knows
        are still served: the GOAWAY that counts follows when a PING has been there and back (RFC
        9113 6.8), or by :meth:`drain_now`."""
        if not self.closed and not self._draining:
            self._draining = True
            self._sender.put(frames.goaway(frames.MAX_WINDOW, ErrorCode.NO_ERROR))
            self._sender.put(frames.ping(_DRAIN_PING, ack=False))

    def drain_now(self) -> None:
        """From here on new streams are not served, and the client is told so."""
        if not self.closed and not self._refusing:
            self._draining = self._refusing = True
            self._sender.put(frames.goaway(self._last_stream, ErrorCode.NO_ERROR))

    @property
    def drained(self) -> bool:
        """No stream is open and no new one will be."""
        return self._refusing and not self._streams

    def close(self) -> None:
        """Say goodbye. Streams that are open are lost; :meth:`finish` them before."""
        if not self.closed:
            self.closed = True
            self._forget_streams()
            self._sender.put(frames.goaway(self._last_stream, ErrorCode.NO_ERROR))

    # --- What the client does

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take bytes as they come from the network and tell what they mean."""
        if self.closed:
            return []
        self._sender.now = now
        try:
            reader = self._reader
            reader.feed(data)
            while reader.next():
                try:
                    if reader.kind == frames.DATA and self._blocks.open_on is None:
                        self._on_data(reader, now)
                    else:
                        payload = reader.data[reader.start : reader.stop]
                        self._on_frame(reader.kind, reader.flags, reader.stream_id, payload, now)
                except StreamBrokenError as fault:
                    self._on_stream_fault(fault, now)
        except ConnectionBrokenError as broken:
            self._events.append(self._close(broken.code, broken.reason))
        else:
            self._acknowledge_connection()
            if self._sender.unsent:
                self._pump()
        events = self._events
        self._events = []
        return events

    def tick(self, now: float) -> list[Event]:
        """Look for what takes too long. Call it about once a second."""
        if self.closed:
            return []
        self._sender.now = now
        limits = self.limits
        reason = ""
        if self._blocks.open_on and now - self._blocks.since > limits.handshake_timeout:
            reason = f"a header block did not end within {limits.handshake_timeout:g} s"
        elif not self._settings_seen and now - self._started > limits.handshake_timeout:
            reason = f"no SETTINGS came within {limits.handshake_timeout:g} s"
        if reason:
            return [self._close(ErrorCode.ENHANCE_YOUR_CALM, reason)]
        since = now - limits.stall_timeout
        reason = f"the client let nothing through for {limits.stall_timeout:g} s"
        stalled = [stream for stream in self._sender.held.values() if stream.held_since < since]
        for stream in stalled:
            self._reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
        return [StreamReset(stream.id, ErrorCode.ENHANCE_YOUR_CALM, reason) for stream in stalled]

    # --- Frames

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes, now: float) -> None:
        open_on = self._blocks.open_on
        if open_on is not None and (kind != frames.CONTINUATION or stream_id != open_on):
            raise ConnectionBrokenError(
                ErrorCode.PROTOCOL_ERROR, "another frame where a header block goes on"
            )
        if not self._settings_seen and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionBrokenError(
                ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS (RFC 9113 3.4)"
            )
        check_shape(kind, stream_id, len(payload))
        if kind == frames.HEADERS:
            block = self._blocks.headers(flags, stream_id, payload, now)
            if block is not None:
                self._on_block(block, now)
            elif not payload:
                self._count(self._empty, now, "empty HEADERS frames")
        elif kind == frames.WINDOW_UPDATE:
            self._on_window_update(stream_id, payload, now)
        elif kind == frames.RST_STREAM:
            self._on_rst_stream(stream_id, payload, now)
        elif kind == frames.PING:
            self._on_ping(flags, payload, now)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, payload, now)
        elif kind == frames.CONTINUATION:
            block = self._blocks.continuation(flags, payload)
            if block is not None:
                self._on_block(block, now)
            elif not payload:
                self._count(self._empty, now, "empty CONTINUATION frames")
        else:
            self._count(self._ignored, now, "PRIORITY, GOAWAY and unknown frames")
            if kind == frames.PRIORITY:
                check_priority(stream_id, payload)

    def _count(self, bucket: Bucket, now: float, what: str) -> None:
        if not bucket.take(now):
            raise ConnectionBrokenError(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")

    # --- DATA

    def _on_data(self, frame: FrameReader, now: float) -> None:
        data, flags, stream_id = frame.data, frame.flags, frame.stream_id
        start, stop = frame.start, frame.stop
        length = stop - start
        # RFC 9113 6.9: padding counts, and so does what is for streams that are gone.
        self._window -= length
        self._unacknowledged += length
        if self._window < 0:
            raise ConnectionBrokenError(
                ErrorCode.FLOW_CONTROL_ERROR, "more than the connection's window was sent"
            )
        if flags & frames.PADDED:
            if not length or data[start] >= length:
                raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, "DATA of padding alone")
            stop -= data[start]
            start += 1
        if start == stop and not flags & frames.END_STREAM:
            self._count(self._empty, now, "empty DATA frames")
        stream = self._streams.get(stream_id)
        if stream is None or not stream.receiving:
            self._data_on_closed(stream, stream_id, flags, length, now)
            return
        stream.receive_window -= length
        if stream.receive_window < 0:
            raise StreamBrokenError(
                stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more than the stream's window was sent"
            )
        if stream.content_left is not None:
            stream.content_left -= stop - start
            if stream.content_left < 0:
                raise StreamBrokenError(
                    stream_id, ErrorCode.PROTOCOL_ERROR, "more than content-length"
                )
        if start < stop and stream.reading:
            try:
                for message in self._messages.read(stream, data, start, stop):
                    self._events.append(Message(stream_id, message))
            except BadMessageError as error:
                self._fail(stream, error.status, error.reason)
                return
            if stop - start < _CRUMB and stream.partial is not None:
                self._count(self._crumbs, now, "small DATA frames of unfinished messages")
        if flags & frames.END_STREAM:
            self._end_of_input(stream)
            return
        stream.unacknowledged += length
        if stream.unacknowledged * 2 >= self.limits.stream_window and stream.receiving:
            self._sender.put(frames.window_update(stream_id, stream.unacknowledged))
            stream.receive_window += stream.unacknowledged
            stream.unacknowledged = 0

    def _data_on_closed(
        self, stream: Stream | None, stream_id: int, flags: int, length: int, now: float
    ) -> None:
        if stream is None:
            if stream_id == 0:
                raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0")
            if self._is_idle(stream_id):
                raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, "DATA on an idle stream")
            if self._gone.by_us(stream_id):
                # It was on its way when we ended the stream.
                if length < _CRUMB:
                    self._count(self._ignored, now, "small DATA frames for streams that are gone")
                if flags & frames.END_STREAM:
                    self._gone.client_ended(stream_id)
                return
        raise StreamBrokenError(
            stream_id, ErrorCode.STREAM_CLOSED, "DATA on a stream that was ended"
        )

    def _acknowledge_connection(self) -> None:
        if self._unacknowledged * 2 >= self.limits.connection_window:
            self._sender.put(frames.window_update(0, self._unacknowledged))
            self._window += self._unacknowledged
            self._unacknowledged = 0

    # --- Header blocks

    def _on_block(self, block: Block, now: float) -> None:
        if len(block.data) > _LARGE_BLOCK:
            self._count(self._large_headers, now, "large header blocks")
        # Every block is decoded, whatever becomes of it: the table goes on from there.
        stream_id = block.stream_id
        if stream_id in self._streams or stream_id <= self._last_stream:
            self._on_trailers(block, self._decoder.decode(block.data))
        else:
            self._on_request(block)
        if block.depends_on_itself:
            raise StreamBrokenError(
                stream_id, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself"
            )

    def _on_trailers(self, block: Block, fields: list[Field]) -> None:
        """A block for a stream that was opened before."""
        stream_id = block.stream_id
        stream = self._streams.get(stream_id)
        if stream is None:
            by_us = self._gone.by_us(stream_id)
            if by_us is None:
                raise ConnectionBrokenError(
                    ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} opens after a higher one"
                )
            if not by_us:
                raise ConnectionBrokenError(
                    ErrorCode.STREAM_CLOSED, "HEADERS on a stream that was ended"
                )
            if block.end_stream:
                self._gone.client_ended(stream_id)
            return
        if not stream.receiving:
            raise StreamBrokenError(
                stream_id, ErrorCode.STREAM_CLOSED, "HEADERS on a stream that was ended"
            )
        if not block.end_stream:
            raise StreamBrokenError(
                stream_id, ErrorCode.PROTOCOL_ERROR, "a second HEADERS without END_STREAM"
            )
        try:
            check_trailers(fields)
        except MalformedError as error:
            raise StreamBrokenError(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from None
        self._end_of_input(stream)

    def _on_request(self, block: Block) -> None:
        stream_id = block.stream_id
        if not stream_id & 1:
            raise ConnectionBrokenError(
                ErrorCode.PROTOCOL_ERROR, "a client opens a stream of even number"
            )
        self._last_stream = stream_id
        try:
            request = self._requests.read(block.data)
        except MalformedError as error:
            raise StreamBrokenError(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from None
        if self._refusing:
            # It was opened before the client saw our GOAWAY, which says that it is not served.
            self._gone.add(stream_id, by_us=not block.end_stream)
            return
        if len(self._streams) >= self.limits.max_streams:
            raise StreamBrokenError(stream_id, ErrorCode.REFUSED_STREAM, "too many open streams")
        self._open(stream_id, request, block.end_stream)

    def _open(self, stream_id: int, request: Request, end_stream: bool) -> None:
        stream = Stream(
            stream_id,
            self.limits.stream_window,
            self._sender.initial_window,
            request.content_length,
        )
        self._streams[stream_id] = stream
        if request.refusal is None:
            self._events.append(StreamOpened(stream_id, request))
        else:
            # Not gRPC: answered here, in plain HTTP. What else it sends is passed over.
            stream.reading = False
            stream.lingering = True
            stream.headers_sent = True
            block = responses.refusal(request.refusal)
            self._sender.headers(stream_id, block, end_stream=False)
            self._sender.enqueue(stream, request.refusal.text.encode())
            self._sender.end(stream, b"")
        if end_stream:
            self._end_of_input(stream)

    def _end_of_input(self, stream: Stream) -> None:
        if stream.content_left:
            raise StreamBrokenError(stream.id, ErrorCode.PROTOCOL_ERROR, "less than content-length")
        stream.receiving = False
        if stream.ended:
            self._remove(stream, by_us=False)
        if not stream.reading:
            return
        if stream.partial is not None:
            self._fail(stream, GrpcStatus.INTERNAL, "the stream ends in the middle of a message")
        else:
            self._events.append(HalfClosed(stream.id))

    # --- Other frames

    def _on_rst_stream(self, stream_id: int, payload: bytes, now: float) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id, "RST_STREAM")
            # Once it may cross the end of the stream on its way.
            if not self._gone.forget(stream_id):
                self._count(self._ignored, now, "RST_STREAM frames for streams that are gone")
            return
        if not stream.headers_sent:
            # Envoy resets every call when it has the answers it wants. What no client does often
            # is to ask and not want to know: that is the rapid reset attack.
            self._count(self._resets, now, "streams reset before an answer")
        code = ErrorCode(int.from_bytes(payload, "big"))
        self._remove(stream, by_us=False)
        if stream.reading:
            self._events.append(StreamReset(stream_id, code, "reset by the client"))

    def _on_window_update(self, stream_id: int, payload: bytes, now: float) -> None:
        self._count(self._window_updates, now, "WINDOW_UPDATE frames")
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if stream_id == 0:
            if not increment:
                raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            self._sender.widen(increment)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id, "WINDOW_UPDATE")
        elif increment:
            self._sender.widen_stream(stream, increment)
        else:
            raise StreamBrokenError(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")

    def _on_ping(self, flags: int, payload: bytes, now: float) -> None:
        self._count(self._pings, now, "PING frames")
        if not flags & frames.ACK:
            self._sender.put(frames.ping(payload, ack=True))
        elif self._draining and payload == _DRAIN_PING:
            self.drain_now()

    def _on_settings(self, flags: int, payload: bytes, now: float) -> None:
        self._count(self._settings, now, "SETTINGS frames")
        if flags & frames.ACK:
            if payload:
                raise ConnectionBrokenError(
                    ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload"
                )
            return
        # The last of each counts. To apply one to all streams a hundred times over would be work.
        final: dict[int, int] = {}
        for setting, value in frames.SETTING.iter_unpack(payload):
            check_setting(setting, value)
            final[setting] = value
        window = final.get(Setting.INITIAL_WINDOW_SIZE)
        if window is not None:
            self._sender.set_initial_window(window, self._streams)
        self._sender.max_frame = final.get(Setting.MAX_FRAME_SIZE, self._sender.max_frame)
        if final.get(Setting.HEADER_TABLE_SIZE, DEFAULT_TABLE_SIZE) < DEFAULT_TABLE_SIZE:
            # Our table is always empty, and we say so before its limit is asked about.
            self._sender.block_prefix = TABLE_SIZE_ZERO
        self._sender.put(frames.SETTINGS_ACK)
        self._settings_seen = True

    # --- Ends

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id > self._last_stream or not stream_id & 1

    def _check_not_idle(self, stream_id: int, what: str) -> None:
        if stream_id == 0 or self._is_idle(stream_id):
            where = "an idle stream" if stream_id else "stream 0"
            raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, f"{what} on {where}")

    def _on_stream_fault(self, fault: StreamBrokenError, now: float) -> None:
        """End one stream for what the client did on it. It counts like a reset by the client,
        which could make us do the work of a stream over and over this way too."""
        self._count(self._resets, now, "stream errors")
        stream = self._streams.get(fault.stream_id)
        if stream is None:
            if self._is_idle(fault.stream_id):
                # RST_STREAM may not be sent for a stream that was never opened (RFC 9113 6.4).
                raise ConnectionBrokenError(fault.code, fault.reason)
            self._sender.put(frames.rst_stream(fault.stream_id, fault.code))
            self._gone.add(fault.stream_id, by_us=True)
            return
        self._reset(stream, fault.code)
        if stream.reading:
            self._events.append(StreamReset(stream.id, fault.code, fault.reason))

    def _fail(self, stream: Stream, status: GrpcStatus, reason: str) -> None:
        """End a call, with a status that says why."""
        self._messages.drop(stream)
        stream.reading = False
        self.finish(stream.id, status, reason)
        self._events.append(StreamReset(stream.id, ErrorCode.CANCEL, reason))

    def _after_end(self, stream: Stream) -> None:
        """Our END_STREAM is out."""
        if not stream.receiving:
            self._remove(stream, by_us=False)
        elif not stream.lingering:
            # RFC 9113 8.1: the answer is complete without the rest of the request.
            self._reset(stream, ErrorCode.NO_ERROR)

    def _pump(self) -> None:
        for stream in self._sender.pump():
            self._after_end(stream)

    def _reset(self, stream: Stream, code: ErrorCode) -> None:
        self._sender.put(frames.rst_stream(stream.id, code))
        self._remove(stream, by_us=stream.receiving)

    def _remove(self, stream: Stream, *, by_us: bool) -> None:
        del self._streams[stream.id]
        self._sender.drop(stream)
        self._messages.drop(stream)
        self._gone.add(stream.id, by_us=by_us)

    def _forget_streams(self) -> None:
        for stream in list(self._streams.values()):
            self._remove(stream, by_us=True)

    def _close(self, code: ErrorCode, reason: str) -> ConnectionClosed:
        self.closed = True
        self.fault = ConnectionClosed(code, reason)
        self._forget_streams()
        self._sender.put(frames.goaway(self._last_stream, code, reason))
        return self.fault
