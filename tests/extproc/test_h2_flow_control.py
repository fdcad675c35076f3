"""Windows: what may be sent, what must wait, who goes next (RFC 9113 5.2 and 6.9)."""

from __future__ import annotations

import tracemalloc

from extproc.transport.api import GrpcStatus
from extproc.transport.h2 import ConnectionClosed, ErrorCode, Limits, Message, Rate, StreamReset
from tests.extproc.h2_peer import (
    DATA,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    WINDOW_UPDATE,
    Frame,
    Peer,
    data,
    message,
    rst_stream,
    settings,
    window_update,
)


def body(frames: list[Frame], stream: int) -> bytes:
    return b"".join(
        heard.payload for heard in frames if heard.kind == DATA if heard.stream == stream
    )


def test_a_long_message_leaves_in_frames_that_the_client_takes() -> None:
    peer = Peer()
    peer.say(settings(frame=20_000), peer.headers(1))
    peer.heard()
    peer.connection.send(1, b"x" * 50_000)
    _, *frames = peer.heard()
    assert [len(heard.payload) for heard in frames] == [20_000, 20_000, 10_005]
    assert body(frames, 1) == message(b"x" * 50_000)


def test_the_window_of_a_stream_holds_its_answer_up_and_no_other() -> None:
    peer = Peer()
    peer.say(settings(window=8), peer.headers(1), peer.headers(3), window_update(3, 100))
    peer.heard()
    peer.connection.send(1, b"0123456789")
    peer.connection.finish(1, GrpcStatus.OK)
    peer.connection.send(3, b"0123456789")
    frames = peer.heard()
    assert body(frames, 1) == message(b"0123456789")[:8]
    assert body(frames, 3) == message(b"0123456789")
    assert peer.connection.unsent == 7

    peer.say(window_update(1, 6))
    assert body(peer.heard(), 1) == message(b"0123456789")[8:14]
    peer.say(window_update(1, 6))
    last, trailers, stop = peer.heard()
    assert last.payload == b"9"
    assert peer.fields(trailers) == {"grpc-status": "0"}
    assert stop.kind == RST_STREAM
    assert peer.connection.unsent == 0
    assert peer.connection.open_streams == 1


def test_streams_share_the_window_of_the_connection_a_frame_each_in_turn() -> None:
    peer = Peer()
    peer.say(settings(window=2**20), peer.headers(1), peer.headers(3))
    peer.heard()
    for stream in (1, 3):
        peer.connection.send(stream, b"x" * 100_000)
    assert sum(len(heard.payload) for heard in peer.heard() if heard.kind == DATA) == 65_535
    peer.say(window_update(0, 4 * 16_384))
    assert [heard.stream for heard in peer.heard()] == [1, 3, 1, 3]


def test_messages_behind_one_that_waits_keep_their_order() -> None:
    peer = Peer()
    peer.say(settings(window=0), peer.headers(1))
    peer.heard()
    for part in (b"one", b"two", b"three"):
        peer.connection.send(1, part)
    assert [heard.kind for heard in peer.heard()] == [HEADERS]
    peer.say(window_update(1, 1000))
    frames = peer.heard()
    assert body(frames, 1) == message(b"one") + message(b"two") + message(b"three")


def test_a_change_of_the_first_window_reaches_streams_that_are_open() -> None:
    peer = Peer()
    peer.say(settings(window=10), peer.headers(1))
    peer.heard()
    peer.connection.send(1, b"x" * 20)
    peer.heard()
    # 10 are used up, so this leaves the stream at -5 ...
    peer.say(settings(window=5))
    peer.say(window_update(1, 5))
    assert body(peer.heard(), 1) == b""
    # ... and this at 5.
    peer.say(settings(window=10))
    assert len(body(peer.heard(), 1)) == 5


def test_a_stream_reset_while_it_waits_frees_what_it_held() -> None:
    peer = Peer()
    peer.say(settings(window=0), peer.headers(1), peer.headers(3))
    peer.connection.send(1, b"x" * 1000)
    peer.connection.finish(1, GrpcStatus.OK)
    assert peer.connection.unsent == 1005
    peer.say(rst_stream(1))
    assert peer.connection.unsent == 0
    peer.heard()
    peer.say(settings(window=2000))
    assert DATA not in [heard.kind for heard in peer.heard()]


def test_the_client_hears_early_that_it_may_send_more() -> None:
    limits = Limits(stream_window=100_000, connection_window=300_000)
    peer = Peer(limits)
    peer.say(peer.headers(1), peer.headers(3), peer.headers(5))
    given: dict[int, int] = {}
    for _ in range(100):
        for stream in (1, 3, 5):
            peer.say(data(stream, message(b"x" * 9_995)))
        for heard in peer.heard():
            assert heard.kind == WINDOW_UPDATE
            given[heard.stream] = given.get(heard.stream, 0) + int.from_bytes(heard.payload)
    # A million bytes each came through, so all but the last window was given back.
    assert all(given[stream] >= 950_000 for stream in (1, 3, 5))
    assert given[0] >= 2_850_000


def test_a_small_exchange_costs_no_window_update() -> None:
    peer = Peer()
    peer.say(peer.headers(1), data(1, message(b"x" * 2000), end=True))
    assert peer.heard() == []


def test_the_window_of_a_stream_is_enforced() -> None:
    peer = Peer(Limits(stream_window=65_535, max_frame_size=200_000))
    peer.say(peer.headers(1), peer.headers(3))
    (reset,) = peer.say(data(1, b"\0\0\xff\xff\xff" + b"x" * 65_531))
    assert isinstance(reset, StreamReset)
    assert reset.code is ErrorCode.FLOW_CONTROL_ERROR
    assert peer.say(data(3, message(b"fits"))) == [Message(3, b"fits")]


def test_the_window_of_the_connection_is_enforced_over_all_streams() -> None:
    peer = Peer(Limits(stream_window=2**20, connection_window=65_535))
    streams = range(1, 11, 2)
    opened = [peer.headers(stream) for stream in streams]
    prefix = b"\0\0\xff\xff\xff"
    events = peer.say(*opened, *(data(stream, prefix + b"x" * 16_000) for stream in streams))
    assert isinstance(events[-1], ConnectionClosed)
    assert events[-1].code is ErrorCode.FLOW_CONTROL_ERROR


def test_data_for_streams_that_are_gone_counts_for_the_connection() -> None:
    peer = Peer(Limits(connection_window=100_000))
    peer.say(peer.headers(1))
    peer.connection.finish(1, GrpcStatus.OK)
    peer.heard()
    for _ in range(4):
        peer.say(data(1, b"x" * 16_000))
    (given,) = peer.heard()
    assert (given.kind, given.stream) == (WINDOW_UPDATE, 0)


def test_an_answer_held_up_too_long_is_given_up() -> None:
    peer = Peer(Limits(stall_timeout=60))
    peer.say(settings(window=10), peer.headers(1), peer.headers(3))
    peer.connection.send(1, b"x" * 20)
    peer.heard()
    peer.now += 50
    assert peer.connection.tick(peer.now) == []
    peer.say(window_update(1, 1))  # a sign of life
    peer.now += 50
    assert peer.connection.tick(peer.now) == []
    peer.now += 11
    (reset,) = peer.connection.tick(peer.now)
    assert isinstance(reset, StreamReset)
    assert reset.stream_id == 1
    assert peer.connection.open_streams == 1


def test_too_much_held_up_on_one_stream_ends_it_alone() -> None:
    peer = Peer(Limits(max_unsent_stream=10_000))
    peer.say(settings(window=0), peer.headers(1), peer.headers(3))
    assert peer.connection.send(1, b"x" * 9_000)
    assert not peer.connection.send(1, b"x" * 9_000)
    assert (peer.heard()[-1].kind, peer.connection.unsent) == (RST_STREAM, 0)
    assert peer.connection.send(3, b"x")


def test_too_much_held_up_in_all_ends_the_connection() -> None:
    peer = Peer(Limits(max_unsent=10_000))
    peer.say(settings(window=0), peer.headers(1), peer.headers(3))
    assert peer.connection.send(1, b"x" * 6_000)
    assert not peer.connection.send(3, b"x" * 6_000)
    goodbye = peer.heard()[-1]
    assert (goodbye.kind, goodbye.code) == (GOAWAY, ErrorCode.ENHANCE_YOUR_CALM)
    assert peer.connection.fault is not None


def test_unfinished_messages_of_all_streams_are_bounded_together() -> None:
    peer = Peer(Limits(max_unread=30_000))
    whole = message(b"x" * 20_000)
    peer.say(peer.headers(1), data(1, whole[:16_000]), peer.headers(3))
    events = peer.say(data(3, whole[:16_000]))
    assert isinstance(events[-1], StreamReset)
    assert peer.trailers(3)["grpc-status"] == "8"
    # The first is not to blame, and goes on.
    assert peer.say(data(1, whole[16_000:])) == [Message(1, b"x" * 20_000)]
    # What is over is not counted any more.
    assert peer.say(peer.headers(5), data(5, whole[:16_000]))[1:] == []
    assert peer.say(data(5, whole[16_000:])) == [Message(5, b"x" * 20_000)]


def test_a_message_that_comes_byte_by_byte_takes_little_more_memory_than_its_bytes() -> None:
    peer = Peer(Limits(crumbs=Rate(1_000, 100_000)))
    whole = message(b"x" * 20_000)
    peer.say(peer.headers(1))
    drops = [data(1, whole[at : at + 1]) for at in range(len(whole) - 1)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for drop in drops:
        peer.say(drop)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 20_000 < held < 40_000
    assert peer.say(data(1, whole[-1:])) == [Message(1, b"x" * 20_000)]


def test_a_window_that_shrinks_while_its_stream_stands_in_line_holds_it_back() -> None:
    """Both windows may stop a stream; it waits for the connection's when its own is taken away."""
    peer = Peer()
    peer.say(settings(window=2**20), peer.headers(1))
    peer.heard()
    peer.connection.send(1, b"x" * 100_000)
    assert len(body(peer.heard(), 1)) == 65_535

    peer.say(settings(window=0), window_update(0, 100_000))
    assert body(peer.heard(), 1) == b""
    assert not peer.connection.closed

    peer.say(window_update(1, 2**17))
    assert len(body(peer.heard(), 1)) == 100_005 - 65_535
    assert peer.connection.unsent == 0
