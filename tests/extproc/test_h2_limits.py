"""Floods: every known way to make a server work or grow for nothing ends the connection, and what
real clients do does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from extproc.transport.api import GrpcStatus
from extproc.transport.h2 import (
    ConnectionClosed,
    ErrorCode,
    Limits,
    Rate,
    StreamOpened,
    StreamReset,
)
from tests.extproc.h2_peer import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    Peer,
    data,
    frame,
    message,
    rst_stream,
    settings,
    window_update,
)

CALM = ErrorCode.ENHANCE_YOUR_CALM
LIMITS = Limits(
    resets=Rate(10, 50),
    pings=Rate(10, 50),
    settings=Rate(10, 50),
    empty_frames=Rate(10, 50),
    crumbs=Rate(10, 50),
    large_headers=Rate(10, 50),
    window_updates=Rate(10, 50),
    ignored_frames=Rate(10, 50),
)


def odd() -> Iterator[int]:
    return iter(range(1, 2**31, 2))


def rapid_reset(peer: Peer, stream: int) -> bytes:
    return peer.headers(stream) + rst_stream(stream)


def made_you_reset(peer: Peer, stream: int) -> bytes:
    """The client has the server reset its streams (CVE-2025-8671)."""
    return peer.headers(stream) + window_update(stream, 0)


def refused(peer: Peer, stream: int) -> bytes:
    return peer.headers(stream, [(":method", "POST")])


def ended_by_us(peer: Peer, stream: int) -> bytes:
    if stream == 1:
        peer.say(peer.headers(1))
        peer.connection.finish(1, GrpcStatus.OK)
        peer.heard()
    return data(1, b"x")


FLOODS: dict[str, Callable[[Peer, int], bytes]] = {
    "rapid reset": rapid_reset,
    "resets that the server is made to send": made_you_reset,
    "malformed requests": refused,
    "pings": lambda p, _: frame(PING, 0, 0, b"8 bytes!"),
    "answers to pings never sent": lambda p, _: frame(PING, ACK, 0, b"8 bytes!"),
    "settings": lambda p, _: settings(),
    "acknowledged settings": lambda p, _: frame(SETTINGS, ACK, 0),
    "empty DATA": lambda p, n: (p.headers(1) if n == 1 else b"") + data(1, b""),
    "a message byte by byte": lambda p, n: (
        (p.headers(1) + data(1, message(b"x" * 10_000)[:5]) if n == 1 else b"") + data(1, b"x")
    ),
    "prefixes of messages, byte by byte": lambda p, n: p.headers(n) + data(n, b"\0"),
    "small DATA for a stream that we ended": ended_by_us,
    "large header blocks": lambda p, n: p.headers(n, [*REQUEST, (f"x-{n}", f"{n:04}~|" * 1_200)]),
    "window updates": lambda p, _: window_update(0, 1),
    "priorities": lambda p, n: frame(PRIORITY, 0, n, b"\0\0\0\0\1"),
    "unknown frames": lambda p, _: frame(0xFA, 0, 0, b"x"),
    "goaway": lambda p, _: frame(GOAWAY, 0, 0, b"\0" * 8),
    "empty DATA for a closed stream": lambda p, n: (
        (rapid_reset(p, 1) if n == 1 else b"") + data(1, b"")
    ),
    "resets of closed streams": lambda p, n: (rapid_reset(p, 1) if n == 1 else b"") + rst_stream(1),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_the_connection(flood: str) -> None:
    peer = Peer(LIMITS)
    for count, stream in enumerate(odd()):
        events = peer.say(FLOODS[flood](peer, stream))
        peer.now += 0.001
        if peer.connection.closed:
            break
        assert count < 100, "nobody stopped it"
    assert 40 <= count <= 60
    assert isinstance(events[-1], ConnectionClosed)
    assert events[-1].code is CALM
    goodbye = peer.heard()[-1]
    assert (goodbye.kind, goodbye.code) == (GOAWAY, CALM)


@pytest.mark.parametrize("flood", FLOODS)
def test_the_same_at_a_quiet_pace_is_no_flood(flood: str) -> None:
    peer = Peer(LIMITS)
    for _, stream in zip(range(200), odd(), strict=False):
        peer.say(FLOODS[flood](peer, stream))
        peer.now += 0.25
    assert not peer.connection.closed


def test_envoy_resets_every_call_once_it_has_its_answers_and_that_is_no_flood() -> None:
    peer = Peer(LIMITS)
    for _, stream in zip(range(1000), odd(), strict=False):
        peer.say(peer.headers(stream), data(stream, message(b"headers")))
        peer.connection.send(stream, b"pick")
        peer.say(data(stream, b"", end=True), rst_stream(stream, 0))
    assert not peer.connection.closed
    assert peer.connection.open_streams == 0


def test_resets_that_cross_the_end_of_their_streams_are_no_flood() -> None:
    peer = Peer(LIMITS)
    for _, stream in zip(range(1000), odd(), strict=False):
        peer.say(peer.headers(stream, end=stream % 4 == 1))
        peer.connection.finish(stream, GrpcStatus.OK)
        peer.say(rst_stream(stream, 0))
    assert not peer.connection.closed


def test_many_messages_that_come_in_large_pieces_are_no_flood() -> None:
    peer = Peer(LIMITS)
    for _, stream in zip(range(200), odd(), strict=False):
        whole = message(b"x" * 50_000)
        peer.say(
            peer.headers(stream),
            data(stream, whole[:16_000]),
            data(stream, whole[16_000:32_000]),
            data(stream, whole[32_000:48_000]),
            data(stream, whole[48_000:], end=True),
        )
        peer.connection.finish(stream, GrpcStatus.OK)
        peer.heard()
    assert not peer.connection.closed


def test_small_messages_that_are_whole_are_no_flood() -> None:
    peer = Peer(LIMITS)
    peer.say(peer.headers(1))
    for _ in range(1000):
        peer.say(data(1, message(b"x")))
        peer.heard()
    assert not peer.connection.closed


def test_a_header_block_that_never_ends_is_cut_by_its_frames() -> None:
    peer = Peer()
    peer.say(frame(HEADERS, 0, 1, b"\x83"))
    taken = 0
    while not peer.say(frame(CONTINUATION, 0, 1, b"\x83")):
        taken += 1
    assert taken == Limits().max_continuations
    assert peer.heard()[-1].code == CALM


def test_a_header_block_is_cut_by_its_size() -> None:
    peer = Peer(Limits(max_header_list=40_000))
    block = b"".join(b"\x00\x01a\x01b" for _ in range(3 * 3_200))
    parts = [block[at : at + 16_000] for at in range(0, 48_000, 16_000)]
    events = peer.say(
        frame(HEADERS, 0, 1, parts[0]),
        frame(CONTINUATION, 0, 1, parts[1]),
        frame(CONTINUATION, END_HEADERS, 1, parts[2]),
    )
    assert isinstance(events[-1], ConnectionClosed)
    assert events[-1].code is CALM


def test_a_header_block_that_was_begun_must_end_in_time() -> None:
    peer = Peer(Limits(handshake_timeout=10))
    peer.say(frame(HEADERS, 0, 1, b"\x83"))
    assert peer.connection.tick(peer.now + 9) == []
    (closed,) = peer.connection.tick(peer.now + 11)
    assert isinstance(closed, ConnectionClosed)


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE, PREFACE + settings()[:5]])
def test_a_client_that_never_gets_to_its_settings_is_sent_away(said: bytes) -> None:
    peer = Peer(Limits(handshake_timeout=10), greet=False)
    peer.say(said)
    assert peer.connection.tick(peer.now + 9) == []
    (closed,) = peer.connection.tick(peer.now + 11)
    assert isinstance(closed, ConnectionClosed)
    assert peer.connection.closed


def test_a_header_bomb_goes_off_at_the_limit_of_the_list() -> None:
    # One field of 4,000 bytes in the table, then one byte each for as many copies as one likes.
    peer = Peer(Limits(max_header_list=64_000))
    bomb = peer.encoder.encode([*REQUEST, ("x-bomb", "x" * 3_900)])
    (closed,) = peer.say(frame(HEADERS, END_HEADERS, 1, bomb + b"\xbe" * 10_000))
    assert isinstance(closed, ConnectionClosed)
    assert closed.code is CALM


def test_a_list_of_very_many_small_fields_is_refused() -> None:
    peer = Peer(Limits(max_header_fields=50))
    fields = [*REQUEST, *((f"x-{n}", "") for n in range(45))]
    (closed,) = peer.say(peer.headers(1, fields))
    assert isinstance(closed, ConnectionClosed)


def test_one_stream_too_many_is_refused_alone_and_may_be_tried_again() -> None:
    peer = Peer(Limits(max_streams=2))
    peer.say(peer.headers(1), peer.headers(3), peer.headers(5))
    (refusal,) = peer.heard()
    assert (refusal.kind, refusal.stream, refusal.code) == (
        RST_STREAM,
        5,
        ErrorCode.REFUSED_STREAM,
    )
    # What it had sent for it already is passed over.
    assert peer.say(data(5, message(b"x"), end=True)) == []
    assert isinstance(peer.say(rst_stream(1))[0], StreamReset)
    assert isinstance(peer.say(peer.headers(7))[0], StreamOpened)


def test_settings_of_thousands_of_entries_are_refused() -> None:
    peer = Peer()
    (closed,) = peer.say(frame(SETTINGS, 0, 0, b"\0\x03\0\0\0\1" * 101))
    assert isinstance(closed, ConnectionClosed)


def test_windows_opened_byte_by_byte_are_a_flood() -> None:
    """Data dribble (CVE-2019-9511): every byte of the answer costs a frame."""
    peer = Peer(Limits(window_updates=Rate(10, 50)))
    peer.say(settings(window=0), peer.headers(1))
    peer.connection.send(1, b"x" * 1000)
    for _ in range(100):
        peer.say(window_update(1, 1))
    assert peer.connection.closed


@pytest.mark.parametrize(
    "wrong",
    [{"max_frame_size": 16_383}, {"stream_window": 65_534}, {"connection_window": 2**31}],
)
def test_limits_that_the_protocol_cannot_say_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)  # type: ignore[arg-type]
