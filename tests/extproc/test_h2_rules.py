"""What RFC 9113 forbids, and whom it costs: the connection, or one stream."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from extproc.transport.api import GrpcStatus
from extproc.transport.h2 import ConnectionClosed, ErrorCode, StreamOpened, StreamReset
from tests.extproc.h2_peer import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Peer,
    data,
    frame,
    message,
    rst_stream,
    settings,
    window_update,
)

Words = Callable[[Peer], list[bytes]]

PROTOCOL = ErrorCode.PROTOCOL_ERROR
SIZE = ErrorCode.FRAME_SIZE_ERROR
FLOW = ErrorCode.FLOW_CONTROL_ERROR
CLOSED = ErrorCode.STREAM_CLOSED
COMPRESSION = ErrorCode.COMPRESSION_ERROR

# What the client says, and the code of the GOAWAY that it gets.
CONNECTION_RULES: dict[str, tuple[Words, ErrorCode]] = {
    "DATA on stream 0": (lambda p: [data(0, b"x")], PROTOCOL),
    "DATA on a stream never opened": (lambda p: [data(1, b"x")], PROTOCOL),
    "DATA on a stream of even number": (lambda p: [p.headers(3), data(2, b"x")], PROTOCOL),
    "DATA that is all padding and more": (
        lambda p: [p.headers(1), frame(DATA, PADDED, 1, b"\x05abc")],
        PROTOCOL,
    ),
    "DATA without its pad length": (lambda p: [p.headers(1), frame(DATA, PADDED, 1)], PROTOCOL),
    "HEADERS on stream 0": (lambda p: [p.headers(0)], PROTOCOL),
    "HEADERS on a stream of even number": (lambda p: [p.headers(2)], PROTOCOL),
    "HEADERS below a stream opened before": (lambda p: [p.headers(5), p.headers(3)], PROTOCOL),
    "HEADERS on a stream that the client reset": (
        lambda p: [p.headers(1), rst_stream(1), p.headers(1)],
        CLOSED,
    ),
    "HEADERS with more padding than frame": (
        lambda p: [frame(HEADERS, PADDED | END_HEADERS, 1, b"\x09abc")],
        PROTOCOL,
    ),
    "HEADERS without its priority": (
        lambda p: [frame(HEADERS, HAS_PRIORITY | END_HEADERS, 1, b"\0\0\0")],
        SIZE,
    ),
    "CONTINUATION without HEADERS": (lambda p: [frame(CONTINUATION, END_HEADERS, 1)], PROTOCOL),
    "DATA inside a header block": (
        lambda p: [frame(HEADERS, 0, 1, b"\x83"), data(1, b"x")],
        PROTOCOL,
    ),
    "PING inside a header block": (
        lambda p: [frame(HEADERS, 0, 1, b"\x83"), frame(PING, 0, 0, b"8 bytes!")],
        PROTOCOL,
    ),
    "CONTINUATION of another stream": (
        lambda p: [frame(HEADERS, 0, 1, b"\x83"), frame(CONTINUATION, END_HEADERS, 3)],
        PROTOCOL,
    ),
    "a header index that is nowhere": (
        lambda p: [frame(HEADERS, END_HEADERS, 1, b"\xff")],
        COMPRESSION,
    ),
    "index zero": (lambda p: [frame(HEADERS, END_HEADERS, 1, b"\x80")], COMPRESSION),
    "a Huffman string with EOS in it": (
        lambda p: [frame(HEADERS, END_HEADERS, 1, b"\x00\x84\xff\xff\xff\xff\x01a")],
        COMPRESSION,
    ),
    "a table larger than ours": (
        lambda p: [frame(HEADERS, END_HEADERS, 1, b"\x3f\xe2\x1f")],
        COMPRESSION,
    ),
    "a table size after a field": (
        lambda p: [frame(HEADERS, END_HEADERS, 1, b"\x83\x20")],
        COMPRESSION,
    ),
    "three table sizes in one block": (
        lambda p: [frame(HEADERS, END_HEADERS, 1, b"\x20\x20\x20\x83")],
        COMPRESSION,
    ),
    "RST_STREAM on stream 0": (lambda p: [rst_stream(0)], PROTOCOL),
    "RST_STREAM on a stream never opened": (lambda p: [rst_stream(1)], PROTOCOL),
    "RST_STREAM of three bytes": (lambda p: [p.headers(1), frame(RST_STREAM, 0, 1, b"abc")], SIZE),
    "SETTINGS on a stream": (lambda p: [frame(SETTINGS, 0, 1)], PROTOCOL),
    "SETTINGS cut off": (lambda p: [frame(SETTINGS, 0, 0, b"\0\x03\0")], SIZE),
    "SETTINGS ACK that says more": (lambda p: [frame(SETTINGS, ACK, 0, b"\0" * 6)], SIZE),
    "push neither on nor off": (lambda p: [settings(push=2)], PROTOCOL),
    "a first window over 2^31-1": (lambda p: [settings(window=2**31)], FLOW),
    "a frame size too small": (lambda p: [settings(frame=16_383)], PROTOCOL),
    "a frame size too large": (lambda p: [settings(frame=2**24)], PROTOCOL),
    "PUSH_PROMISE from a client": (lambda p: [frame(PUSH_PROMISE, 0, 1, b"\0\0\0\2")], PROTOCOL),
    "PING on a stream": (lambda p: [frame(PING, 0, 1, b"8 bytes!")], PROTOCOL),
    "PING of seven bytes": (lambda p: [frame(PING, 0, 0, b"7 bytes")], SIZE),
    "GOAWAY on a stream": (lambda p: [frame(GOAWAY, 0, 1, b"\0" * 8)], PROTOCOL),
    "GOAWAY cut off": (lambda p: [frame(GOAWAY, 0, 0, b"\0" * 7)], SIZE),
    "WINDOW_UPDATE of nothing": (lambda p: [window_update(0, 0)], PROTOCOL),
    "WINDOW_UPDATE of three bytes": (lambda p: [frame(WINDOW_UPDATE, 0, 0, b"abc")], SIZE),
    "WINDOW_UPDATE on a stream never opened": (lambda p: [window_update(1, 1)], PROTOCOL),
    "a connection window over 2^31-1": (lambda p: [window_update(0, 2**31 - 1)], FLOW),
    "PRIORITY on stream 0": (lambda p: [frame(PRIORITY, 0, 0, b"\0\0\0\1\1")], PROTOCOL),
    "a frame over the limit": (lambda p: [frame(0xFA, 0, 0, b"x" * 16_385)], SIZE),
}

# What the client says, and the code of the RST_STREAM that stream 1 gets.
STREAM_RULES: dict[str, tuple[Words, ErrorCode]] = {
    "DATA after the end": (lambda p: [p.headers(1, end=True), data(1, b"x")], CLOSED),
    "HEADERS after the end": (lambda p: [p.headers(1, end=True), p.headers(1, end=True)], CLOSED),
    "a second HEADERS that ends nothing": (lambda p: [p.headers(1), p.headers(1, [])], PROTOCOL),
    "trailers with a pseudo-header": (
        lambda p: [p.headers(1), p.headers(1, [(":method", "POST")], end=True)],
        PROTOCOL,
    ),
    "WINDOW_UPDATE of nothing": (lambda p: [p.headers(1), window_update(1, 0)], PROTOCOL),
    "a window over 2^31-1": (lambda p: [p.headers(1), window_update(1, 2**31 - 1)], FLOW),
    "PRIORITY of four bytes": (lambda p: [p.headers(1), frame(PRIORITY, 0, 1, b"abcd")], SIZE),
    "PRIORITY on itself": (
        lambda p: [p.headers(1), frame(PRIORITY, 0, 1, b"\0\0\0\1\1")],
        PROTOCOL,
    ),
    "HEADERS that depend on themselves": (
        lambda p: [
            frame(
                HEADERS,
                HAS_PRIORITY | END_HEADERS,
                1,
                b"\0\0\0\1\1" + p.encoder.encode(REQUEST),
            )
        ],
        PROTOCOL,
    ),
    "more DATA than content-length": (
        lambda p: [p.headers(1, [*REQUEST, ("content-length", "3")]), data(1, b"\0\0\0\0")],
        PROTOCOL,
    ),
    "less DATA than content-length": (
        lambda p: [p.headers(1, [*REQUEST, ("content-length", "9")]), data(1, b"\0", end=True)],
        PROTOCOL,
    ),
}

# A field added to a good request (or put in place of the one of that name).
MALFORMED = {
    "an upper-case name": ("X-Upper", "1"),
    "an empty name": ("", "1"),
    "a name with a space": ("x y", "1"),
    "a line break in a value": ("x-a", "one\r\ntwo"),
    "a value that begins with a space": ("x-a", " one"),
    "an unknown pseudo-header": (":unknown", "1"),
    "a pseudo-header of responses": (":status", "200"),
    "a pseudo-header after a regular field": (":authority", "late"),
    "connection": ("connection", "keep-alive"),
    "transfer-encoding": ("transfer-encoding", "chunked"),
    "te that is not trailers": ("te", "gzip"),
    "a content-length that is no number": ("content-length", "-1"),
    "a grpc-timeout without a unit": ("grpc-timeout", "100"),
}


@pytest.mark.parametrize("rule", CONNECTION_RULES)
def test_breaking_a_rule_of_the_connection_ends_it(rule: str) -> None:
    words, code = CONNECTION_RULES[rule]
    peer = Peer()
    events = peer.say(*words(peer))
    assert isinstance(events[-1], ConnectionClosed)
    assert events[-1].code is code
    goodbye = peer.heard()[-1]
    assert (goodbye.kind, goodbye.code) == (GOAWAY, code)
    assert peer.connection.closed
    assert peer.connection.open_streams == 0


@pytest.mark.parametrize("rule", STREAM_RULES)
def test_breaking_a_rule_of_a_stream_ends_it_alone(rule: str) -> None:
    words, code = STREAM_RULES[rule]
    peer = Peer()
    peer.say(*words(peer))
    reset = peer.heard()[-1]
    assert (reset.kind, reset.stream, reset.code) == (RST_STREAM, 1, code)
    assert isinstance(peer.say(peer.headers(3))[0], StreamOpened)


@pytest.mark.parametrize("rule", STREAM_RULES)
def test_who_serves_a_stream_hears_of_its_end_once(rule: str) -> None:
    words, _ = STREAM_RULES[rule]
    peer = Peer()
    events = peer.say(*words(peer))
    opened = [event for event in events if isinstance(event, StreamOpened)]
    ends = [event for event in events if isinstance(event, StreamReset)]
    assert len(ends) == len(opened)


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_request_is_reset_before_anybody_serves_it(what: str) -> None:
    name, value = MALFORMED[what]
    peer = Peer()
    fields = [field for field in REQUEST if field[0] != name or name.startswith(":")]
    assert peer.say(peer.headers(1, [*fields, (name, value)])) == []
    (reset,) = peer.heard()
    assert (reset.kind, reset.code) == (RST_STREAM, PROTOCOL)


@pytest.mark.parametrize("missing", [":method", ":scheme", ":path"])
def test_a_request_without_a_pseudo_header_is_malformed(missing: str) -> None:
    for fields in (
        [field for field in REQUEST if field[0] != missing],
        [(name, "" if name == missing else value) for name, value in REQUEST],
    ):
        peer = Peer()
        assert peer.say(peer.headers(1, fields)) == []
        assert peer.heard()[-1].code == PROTOCOL


@pytest.mark.parametrize("twice", [":method", ":scheme", ":path", ":authority"])
def test_a_pseudo_header_comes_once(twice: str) -> None:
    peer = Peer()
    again = [field for field in REQUEST if field[0] == twice]
    assert peer.say(peer.headers(1, again + REQUEST)) == []
    assert peer.heard()[-1].code == PROTOCOL


def test_the_first_frame_must_be_settings() -> None:
    peer = Peer(greet=False)
    (closed,) = peer.say(PREFACE, frame(PING, 0, 0, b"8 bytes!"))
    assert isinstance(closed, ConnectionClosed)
    assert closed.code is PROTOCOL


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02", b"PRI * HTTP/2.0\n"])
def test_another_protocol_is_known_by_its_first_bytes(said: bytes) -> None:
    peer = Peer(greet=False)
    events = [event for byte in said for event in peer.say(bytes([byte]))]
    (closed,) = events
    assert isinstance(closed, ConnectionClosed)
    assert "not HTTP/2" in closed.reason


def test_frames_for_streams_that_are_gone_on_both_sides_are_told_apart() -> None:
    peer = Peer()
    peer.say(peer.headers(1, end=True))
    peer.connection.finish(1, GrpcStatus.OK)
    peer.heard()
    # These may have crossed our trailers.
    peer.say(window_update(1, 10), rst_stream(1), frame(PRIORITY, 0, 1, b"\0\0\0\0\1"))
    assert peer.heard() == []
    # This may not.
    peer.say(data(1, message(b"x")))
    (reset,) = peer.heard()
    assert (reset.kind, reset.code) == (RST_STREAM, CLOSED)


def test_closed_streams_below_the_last_may_not_be_opened_late() -> None:
    peer = Peer()
    events = peer.say(peer.headers(7, end=True), peer.headers(5, end=True))
    assert isinstance(events[-1], ConnectionClosed)


def test_header_blocks_may_span_frames_with_nothing_between() -> None:
    peer = Peer()
    block = peer.encoder.encode(REQUEST)
    parts = [block[:1], block[1:9], block[9:]]
    events = peer.say(
        frame(HEADERS, END_STREAM, 1, parts[0]),
        frame(CONTINUATION, 0, 1, parts[1]),
        frame(CONTINUATION, END_HEADERS, 1, parts[2]),
    )
    assert [type(event).__name__ for event in events] == ["StreamOpened", "HalfClosed"]


def test_a_fault_on_a_stream_that_was_never_opened_ends_the_connection() -> None:
    """There is no stream to reset, and a later one of that number would be reset twice."""
    peer = Peer()
    peer.say(settings(), frame(PRIORITY, 0, 3, b"six by"))
    assert [heard.kind for heard in peer.heard() if heard.kind == RST_STREAM] == []
    assert peer.connection.closed
