"""gRPC calls over the HTTP/2 state machine: what a well-behaved client sees."""

from __future__ import annotations

import hpack
import pytest

from extproc.transport.api import GrpcStatus
from extproc.transport.h2 import HalfClosed, Limits, Message, StreamOpened, StreamReset
from tests.extproc.h2_peer import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
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
)


def test_the_server_speaks_first_with_its_settings_and_a_wide_window() -> None:
    peer = Peer(greet=False)
    assert [heard.kind for heard in peer.greeting] == [SETTINGS, WINDOW_UPDATE]
    assert peer.say(PREFACE, settings()) == []
    (acknowledged,) = peer.heard()
    assert (acknowledged.kind, acknowledged.flags) == (SETTINGS, ACK)


def test_a_call_of_three_messages_is_told_in_order() -> None:
    peer = Peer()
    events = peer.say(
        peer.headers(1),
        data(1, message(b"headers")),
        data(1, message(b"body") + message(b"")),
        data(1, b"", end=True),
    )
    opened, *rest = events
    assert isinstance(opened, StreamOpened)
    assert opened.request.path == "/test.Service/Method"
    assert dict(opened.request.metadata) == {"te": "trailers", "content-type": "application/grpc"}
    assert rest == [Message(1, b"headers"), Message(1, b"body"), Message(1, b""), HalfClosed(1)]


def test_answers_and_status_leave_in_one_piece_and_end_the_stream() -> None:
    peer = Peer()
    peer.say(peer.headers(1), data(1, message(b"question"), end=True))
    assert peer.connection.send(1, b"one")
    assert peer.connection.send(1, b"two")
    peer.connection.finish(1, GrpcStatus.OK)
    head, one, two, tail = peer.heard()
    assert peer.fields(head) == {":status": "200", "content-type": "application/grpc"}
    assert (one.payload, two.payload) == (message(b"one"), message(b"two"))
    assert peer.fields(tail) == {"grpc-status": "0"}
    assert [heard.ends_stream for heard in (head, one, two, tail)] == [False] * 3 + [True]
    assert peer.connection.open_streams == 0


def test_an_error_without_an_answer_is_one_header_block() -> None:
    peer = Peer()
    peer.say(peer.headers(1, end=True))
    peer.connection.finish(1, GrpcStatus.UNAVAILABLE, "no pods: 50% of 0\n…")
    (only,) = peer.heard()
    assert only.ends_stream
    assert peer.fields(only) == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "14",
        "grpc-message": "no pods: 50%25 of 0%0A%E2%80%A6",
    }


def test_an_answer_before_the_client_is_done_stops_the_client_without_an_error() -> None:
    peer = Peer()
    peer.say(peer.headers(1), data(1, message(b"first")))
    peer.connection.finish(1, GrpcStatus.RESOURCE_EXHAUSTED)
    tail, stop = peer.heard()
    assert tail.ends_stream
    assert (stop.kind, stop.code) == (RST_STREAM, 0)
    # What was on its way is not held against it.
    assert peer.say(data(1, message(b"late")), data(1, b"", end=True)) == []
    assert peer.heard() == []


def test_late_trailers_of_a_stream_that_we_ended_keep_the_header_table_in_step() -> None:
    peer = Peer()
    peer.say(peer.headers(1))
    peer.connection.finish(1, GrpcStatus.OK)
    assert peer.say(peer.headers(1, [("x-late", "one")], end=True)) == []
    (opened,) = peer.say(peer.headers(3, [*REQUEST, ("x-late", "one")]))
    assert isinstance(opened, StreamOpened)
    assert opened.request.metadata["x-late"] == "one"


def test_a_call_with_trailers_is_half_closed_by_them() -> None:
    peer = Peer()
    events = peer.say(peer.headers(1), peer.headers(1, [("x-checksum", "1")], end=True))
    assert events[1:] == [HalfClosed(1)]


def test_a_client_that_resets_a_call_is_heard_and_not_answered() -> None:
    peer = Peer()
    peer.say(peer.headers(1))
    (reset,) = peer.say(rst_stream(1, code=8))
    assert isinstance(reset, StreamReset)
    assert reset.code == 8
    assert not peer.connection.send(1, b"too late")
    peer.connection.finish(1, GrpcStatus.OK)
    assert peer.heard() == []


def test_unknown_error_codes_of_a_client_are_taken_as_internal_error() -> None:
    peer = Peer()
    peer.say(peer.headers(1))
    (reset,) = peer.say(rst_stream(1, code=0xBEEF))
    assert isinstance(reset, StreamReset)
    assert reset.code == 2


def test_a_message_may_be_cut_anywhere_across_frames() -> None:
    wire = message(b"abc") + message(b"") + message(b"defgh")
    for first in range(len(wire) + 1):
        for second in range(first, len(wire) + 1):
            peer = Peer()
            peer.say(peer.headers(1))
            parts = (wire[:first], wire[first:second], wire[second:])
            events = [event for part in parts for event in peer.say(data(1, part))]
            assert events == [Message(1, b"abc"), Message(1, b""), Message(1, b"defgh")]


def test_padding_is_taken_off() -> None:
    peer = Peer()
    block = peer.encoder.encode(REQUEST)
    padded = END_HEADERS | PADDED
    events = peer.say(
        frame(HEADERS, padded, 1, b"\x04" + block + b"\0" * 4),
        frame(DATA, PADDED | END_STREAM, 1, b"\x03" + message(b"x") + b"\0" * 3),
    )
    assert events[1:] == [Message(1, b"x"), HalfClosed(1)]


def test_a_compressed_message_ends_the_call_with_unimplemented() -> None:
    peer = Peer()
    events = peer.say(peer.headers(1), data(1, message(b"\x1f\x8b", compressed=1)))
    assert isinstance(events[-1], StreamReset)
    trailers = peer.trailers(1)
    assert trailers["grpc-status"] == "12"
    assert "identity" in trailers["grpc-message"]


def test_a_message_over_the_limit_is_refused_by_its_length_alone() -> None:
    peer = Peer(Limits(max_message=1000))
    events = peer.say(peer.headers(1), data(1, message(b"x" * 1001)[:5]))
    assert isinstance(events[-1], StreamReset)
    assert peer.trailers(1)["grpc-status"] == "8"
    # The rest of it passes by.
    assert peer.say(data(1, b"x" * 1001, end=True)) == []


def test_a_stream_that_ends_inside_a_message_ends_the_call() -> None:
    peer = Peer()
    events = peer.say(peer.headers(1), data(1, message(b"whole")[:-1], end=True))
    assert isinstance(events[-1], StreamReset)
    assert peer.trailers(1)["grpc-status"] == "13"
    assert peer.connection.open_streams == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1H", 3600), ("2M", 120), ("3S", 3), ("40m", 0.04), ("5u", 5e-6), ("6n", 6e-9)],
)
def test_a_deadline_is_read_in_every_unit(text: str, seconds: float) -> None:
    peer = Peer()
    (opened,) = peer.say(peer.headers(1, [*REQUEST, ("grpc-timeout", text)]))
    assert isinstance(opened, StreamOpened)
    assert opened.request.timeout == pytest.approx(seconds)


def test_names_that_come_twice_are_joined() -> None:
    peer = Peer()
    (opened,) = peer.say(peer.headers(1, [*REQUEST, ("x-a", "1"), ("x-a", "2")]))
    assert isinstance(opened, StreamOpened)
    assert opened.request.metadata["x-a"] == "1,2"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((":method", "GET"), "405"),
        (("content-type", "application/json"), "415"),
        (("content-type", "application/grpc-web"), "415"),
    ],
)
def test_what_is_not_grpc_gets_a_plain_answer(change: tuple[str, str], status: str) -> None:
    peer = Peer()
    fields = [change if name == change[0] else (name, value) for name, value in REQUEST]
    assert peer.say(peer.headers(1, fields), data(1, b'{"not": "grpc"}', end=True)) == []
    head, body = peer.heard()
    answered = peer.fields(head)
    assert answered[":status"] == status
    assert body.ends_stream
    assert len(body.payload) == int(answered["content-length"])
    assert peer.connection.open_streams == 0


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/GRPC"])
def test_the_names_of_grpc_with_protobuf_are_taken(kind: str) -> None:
    peer = Peer()
    fields = [(name, kind if name == "content-type" else value) for name, value in REQUEST]
    (opened,) = peer.say(peer.headers(1, fields))
    assert isinstance(opened, StreamOpened)


def test_a_ping_comes_back() -> None:
    peer = Peer()
    peer.say(frame(PING, 0, 0, b"12345678"))
    (pong,) = peer.heard()
    assert (pong.kind, pong.flags, pong.payload) == (PING, ACK, b"12345678")


def test_unknown_frames_settings_and_flags_mean_nothing() -> None:
    peer = Peer()
    events = peer.say(
        frame(0xFA, 0xFF, 0, b"?"),
        frame(SETTINGS, 0, 0, b"\xf0\x0d\0\0\0\x01"),
        peer.headers(1),
        frame(DATA, 0xF6, 1, message(b"x")),
    )
    assert events[-1] == Message(1, b"x")


def test_a_client_without_a_header_table_can_read_us() -> None:
    peer = Peer()
    strict = hpack.Decoder()
    strict.max_allowed_table_size = 0
    peer.say(settings(table=0), peer.headers(1))
    peer.connection.send(1, b"x")
    peer.connection.finish(1, GrpcStatus.OK)
    blocks = [heard for heard in peer.heard() if heard.kind == HEADERS]
    assert [strict.decode(block.payload)[0] for block in blocks] == [
        (":status", "200"),
        ("grpc-status", "0"),
    ]


def test_draining_lets_streams_finish_and_counts_those_still_on_their_way() -> None:
    peer = Peer()
    peer.say(peer.headers(1))
    peer.connection.drain()
    soon, probe = peer.heard()
    assert soon.kind == GOAWAY
    assert int.from_bytes(soon.payload[:4]) == 2**31 - 1
    # The client had opened this before it heard of it.
    assert isinstance(peer.say(peer.headers(3))[0], StreamOpened)
    peer.say(frame(PING, ACK, 0, probe.payload))
    (now,) = peer.heard()
    assert (now.kind, int.from_bytes(now.payload[:4]), now.code) == (GOAWAY, 3, 0)
    # This one it opened although it knew: it will see that it was not served, and try elsewhere.
    assert peer.say(peer.headers(5), data(5, message(b"x"), end=True)) == []
    assert not peer.connection.drained
    for stream in (1, 3):
        peer.connection.finish(stream, GrpcStatus.OK)
    assert peer.connection.drained


def test_a_ping_that_only_looks_like_ours_drains_nothing() -> None:
    peer = Peer()
    peer.say(frame(PING, ACK, 0, b"draining"))
    assert peer.heard() == []
    assert isinstance(peer.say(peer.headers(1))[0], StreamOpened)


def test_closing_says_goodbye_and_reads_no_more() -> None:
    peer = Peer()
    peer.say(peer.headers(1))
    peer.connection.close()
    (goodbye,) = peer.heard()
    assert (goodbye.kind, goodbye.code) == (GOAWAY, 0)
    assert peer.say(peer.headers(3)) == []
    assert peer.connection.open_streams == 0
