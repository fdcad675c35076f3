"""Header blocks: ours decode to what `hpack` says, and what is kept is never stale."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.transport.h2 import StreamOpened
from extproc.transport.h2.frames import ConnectionBrokenError
from extproc.transport.h2.headers import HeaderDecoder, encode_fields
from tests.extproc.h2_peer import END_HEADERS, HEADERS, REQUEST, Peer, frame

NAMES = st.sampled_from([b":path", b"x-a", b"x-inference-pool", b"content-type", b"traceparent"])
FIELDS = st.lists(st.tuples(NAMES | st.binary(max_size=8), st.binary(max_size=40)), max_size=8)

# What Envoy 1.40 sends for ext-proc: the first time, and ever after.
ENVOY_FIRST = bytes.fromhex(
    "8304a560b5773fa5d05b3b98855cbe5315761c8bf7657c1e525b2a1d1aec390a841ec635d872150841882d75ae5f"
    "23a6ba0b8640027465864d833505b11f5f8b1d75d0620d263d4c4d6564408cf2b1aa94b616a2156ace7a3f8a90b2"
    "8eda12c5673d0b0f408cf2b16aee7f4b1aa496ca8747834d9697408bf2b4a7b3c0ec90b22d29ec870be25c0b8971"
    "7f"
)
ENVOY_AGAIN = bytes.fromhex(
    "8304a560b5773fa5d05b3b98855cbe5315761c8bf7657c1e525b2a1d1aec390a841ec635d8721508c386c2c1c0bfbe"
)
ENVOY_SAYS = [
    (b":method", b"POST"),
    (b":path", b"/envoy.service.ext_proc.v3.ExternalProcessor/Process"),
    (b":authority", b"epp.example"),
    (b":scheme", b"http"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"x-inference-pool", b"default/pool-a"),
    (b"x-envoy-internal", b"true"),
    (b"x-forwarded-for", b"192.0.2.2"),
]


def decoders() -> tuple[HeaderDecoder, hpack.Decoder]:
    return HeaderDecoder(65_536, 10_000), hpack.Decoder(65_536)


def test_what_envoy_sends_is_decoded_the_first_time_and_ever_after() -> None:
    ours, _ = decoders()
    assert ours.decode(ENVOY_FIRST) == ENVOY_SAYS
    generation = ours.generation
    for _ in range(3):
        assert ours.decode(ENVOY_AGAIN) == ENVOY_SAYS
    assert ours.generation == generation


def test_envoys_calls_are_read_from_what_was_kept() -> None:
    peer = Peer()
    peer.say(frame(HEADERS, END_HEADERS, 1, ENVOY_FIRST))
    requests = []
    for stream in (3, 5, 7):
        (opened,) = peer.say(frame(HEADERS, END_HEADERS, stream, ENVOY_AGAIN))
        assert isinstance(opened, StreamOpened)
        requests.append(opened.request)
    assert requests[0].metadata["x-inference-pool"] == "default/pool-a"
    assert requests[0] is requests[1] is requests[2]


def test_the_same_bytes_mean_something_else_once_the_table_has_changed() -> None:
    peer = Peer()
    request = encode_fields([(name.encode(), value.encode()) for name, value in REQUEST])
    newest = b"\xbe"  # index 62

    def value_of_newest(stream: int) -> str:
        (opened,) = peer.say(frame(HEADERS, END_HEADERS, stream, request + newest))
        assert isinstance(opened, StreamOpened)
        return opened.request.metadata["x-a"]

    peer.say(frame(HEADERS, END_HEADERS, 1, request + b"\x40\x03x-a\x03one"))
    assert [value_of_newest(3), value_of_newest(5)] == ["one", "one"]
    peer.say(frame(HEADERS, END_HEADERS, 7, request + b"\x40\x03x-a\x03two"))
    assert [value_of_newest(9), value_of_newest(11)] == ["two", "two"]


@given(st.lists(st.tuples(FIELDS, st.booleans(), st.none() | st.integers(0, 4096)), max_size=12))
def test_blocks_of_a_library_come_back_as_they_were(
    blocks: list[tuple[list[tuple[bytes, bytes]], bool, int | None]],
) -> None:
    encoder = hpack.Encoder()
    ours, theirs = decoders()
    for fields, huffman, table in blocks:
        if table is not None:
            encoder.header_table_size = table
        block = encoder.encode(fields, huffman=huffman)
        assert ours.decode(block) == list(theirs.decode(block, raw=True)) == fields


@given(st.lists(st.binary(max_size=60) | st.sampled_from([ENVOY_FIRST, ENVOY_AGAIN]), max_size=6))
def test_any_bytes_decode_as_hpack_decodes_them_or_break_both(blocks: list[bytes]) -> None:
    ours, theirs = decoders()
    for block in blocks:
        try:
            expected = list(theirs.decode(block, raw=True))
        except (hpack.HPACKError, IndexError):
            with pytest.raises(ConnectionBrokenError):
                ours.decode(block)
            return
        try:
            got = ours.decode(block)
        except ConnectionBrokenError as error:
            # RFC 7541 4.2: two at most. hpack takes any number.
            assert "size changes" in str(error)  # noqa: PT017
            return
        assert got == expected


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=300))))
def test_what_we_encode_a_library_reads_and_keeps_nothing_of(
    fields: list[tuple[bytes, bytes]],
) -> None:
    decoder = hpack.Decoder(10**6)
    assert list(decoder.decode(encode_fields(fields), raw=True)) == fields
    assert not decoder.header_table.dynamic_entries
