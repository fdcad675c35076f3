"""Bytes against the HTTP/2 connection: the property tests' server, and a long-running fuzzer.

``python -m tests.fuzz.h2_connection --seconds 3600`` (``make fuzz``) feeds the connection for as
long as it is told: with coverage as its guide if atheris is installed, otherwise with mutations of
real conversations at random. What it finds it writes to a file, and exits with 1.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from extproc.transport.api import GrpcStatus
from extproc.transport.h2 import (
    Connection,
    ConnectionClosed,
    Event,
    HalfClosed,
    Limits,
    Message,
    StreamOpened,
    StreamReset,
)
from extproc.transport.h2.headers import encode_fields
from tests.extproc.h2_peer import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    message,
    parse,
    settings,
    window_update,
)

# Small, so that a short conversation reaches them.
LIMITS = Limits(
    max_streams=50,
    max_message=100_000,
    max_unread=120_000,
    max_unsent_stream=300_000,
    max_unsent=400_000,
)
BLOCK = encode_fields([(name.encode(), value.encode()) for name, value in REQUEST])
INDEXED = b"\x40\x03x-a\x03one"


class Server:
    """A connection with an echo service, which checks what a service may rely on."""

    def __init__(self) -> None:
        self.connection = Connection(LIMITS, 0.0)
        self.now = 0.0
        self.written = bytearray()
        self.opened: set[int] = set()
        self.half_closed: set[int] = set()
        self.over: set[int] = set()

    def feed(self, data: bytes) -> list[Event]:
        self.now += 0.01
        events = self.connection.receive(data, self.now)
        for event in events:
            self._serve(event)
        self.written += self.connection.outgoing()
        return events

    def _serve(self, event: Event) -> None:
        if isinstance(event, ConnectionClosed):
            assert self.connection.closed
            return
        stream = event.stream_id
        assert stream not in self.over, f"{event} after the end of its stream"
        if isinstance(event, StreamOpened):
            assert stream not in self.opened, f"{event} twice"
            self.opened.add(stream)
            return
        assert stream in self.opened, f"{event} before its stream was opened"
        if isinstance(event, Message):
            assert stream not in self.half_closed
            assert len(event.data) <= LIMITS.max_message
            self.connection.send(stream, event.data)
        elif isinstance(event, HalfClosed):
            assert stream not in self.half_closed
            self.half_closed.add(stream)
            self.connection.finish(stream, GrpcStatus.OK)
        elif isinstance(event, StreamReset):
            self.over.add(stream)

    def check(self) -> None:
        """What must hold whenever the connection rests: its output is whole frames, and it holds no
        more than its limits."""
        heard = parse(bytes(self.written))
        connection = self.connection
        assert connection.open_streams <= LIMITS.max_streams
        assert 0 <= connection.unsent <= LIMITS.max_unsent + LIMITS.max_message
        ended: set[int] = set()
        for one in heard:
            assert len(one.payload) <= 1 << 24
            if one.kind in (DATA, HEADERS):
                assert one.stream not in ended, "a frame after the end of its stream"
                if one.ends_stream:
                    ended.add(one.stream)
            elif one.kind == RST_STREAM:
                ended.add(one.stream)
        if connection.closed:
            assert heard[-1].kind == GOAWAY
            assert connection.open_streams == connection.unsent == 0
        self.now += 1_000.0
        connection.tick(self.now)
        assert connection.unsent == 0, "held up for longer than the limit"


def _frames() -> st.SearchStrategy[bytes]:
    streams = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 7, 9, 2**31 - 1])
    numbers = st.sampled_from([0, 1, 10, 65_535, 2**31 - 1, 2**32 - 1]) | st.integers(0, 2**32 - 1)
    payloads = (
        st.binary(max_size=40)
        | st.binary(max_size=60).map(message)
        | st.integers(0, 40_000).map(lambda size: message(b"x" * size)[:16_384])
        | st.just(BLOCK)
        | st.just(BLOCK + INDEXED)
        | st.just(BLOCK + b"\xbe")
        | numbers.map(lambda n: struct.pack(">I", n))
        | st.tuples(st.integers(0, 8), numbers).map(lambda pair: struct.pack(">HI", *pair))
        | st.just(b"8 bytes!")
    )
    any_frame = st.builds(
        frame,
        st.integers(0, 10),
        st.sampled_from([0, END_STREAM, END_HEADERS, END_STREAM | END_HEADERS, PADDED, 0x20, 0xFF]),
        streams,
        payloads,
    )
    calls = st.builds(
        lambda stream, end: frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, BLOCK),
        st.sampled_from([1, 3, 5, 7, 9]),
        st.booleans(),
    )
    talk = st.builds(
        lambda stream, body, end: frame(DATA, END_STREAM if end else 0, stream, message(body)),
        st.sampled_from([1, 3, 5, 7, 9]),
        st.binary(max_size=60),
        st.booleans(),
    )
    windows = st.builds(window_update, st.sampled_from([0, 1, 3]), st.integers(1, 2**31 - 1))
    return calls | talk | windows | any_frame


def conversations() -> st.SearchStrategy[bytes]:
    """What a client might say, mostly right, of a few frames of every kind."""
    begin = st.sampled_from(
        [settings(), settings(window=0), settings(window=20), settings(table=0)]
    )
    return st.builds(
        lambda first, rest: PREFACE + first + b"".join(rest),
        begin,
        st.lists(_frames(), max_size=25),
    )


# --- The long run


SEEDS = (
    settings() + frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, 1, 1, message(b"x")),
    settings(window=10)
    + frame(HEADERS, END_HEADERS, 1, BLOCK + INDEXED)
    + frame(DATA, 0, 1, message(b"x" * 100))
    + window_update(1, 1000)
    + window_update(0, 1000)
    + frame(HEADERS, END_HEADERS | END_STREAM, 3, BLOCK + b"\xbe")
    + frame(RST_STREAM, 0, 1, b"\0\0\0\x08")
    + frame(PING, 0, 0, b"8 bytes!"),
    settings(table=0, frame=20_000)
    + frame(HEADERS, 0, 1, BLOCK[:20])
    + frame(CONTINUATION, END_HEADERS, 1, BLOCK[20:])
    + frame(DATA, PADDED, 1, b"\x02" + message(b"abc") + b"\0\0")
    + frame(PRIORITY, 0, 1, b"\0\0\0\0\1")
    + frame(SETTINGS, ACK, 0)
    + frame(WINDOW_UPDATE, 0, 0, b"\0\0\1\0")
    + frame(GOAWAY, 0, 0, b"\0" * 8),
)


def one_input(data: bytes) -> Server:
    """A conversation after its preface. The first byte says how it is cut."""
    server = Server()
    server.feed(PREFACE)
    size = data[0] if data and data[0] else 1 << 20
    for at in range(1, len(data), size):
        server.feed(data[at : at + size])
    server.check()
    return server


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A conversation with some of its bytes changed, doubled, left out or put elsewhere."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(changed))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del changed[at : at + rng.randint(1, 12)]
        elif kind == 3:
            changed[at:at] = changed[max(0, at - rng.randint(1, 60)) : at]
        else:
            other = rng.choice(SEEDS)
            start = rng.randrange(len(other))
            changed[at:at] = other[start : start + rng.randint(1, 80)]
        if not changed:
            return data
    return bytes(changed[:20_000])


def run_random(seconds: float, seed: int) -> int:
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    pool = [b"\0" + seed for seed in SEEDS]
    count = 0
    while time.monotonic() < end:
        data = mutate(rng.choice(pool), rng)
        try:
            server = one_input(data)
        except Exception:
            found = Path(f"h2-crash-{seed}-{count}.bin")
            found.write_bytes(data)
            print(f"{found}: run it again with --replay {found}", file=sys.stderr)
            raise
        count += 1
        if server.connection.closed:
            continue  # nothing that is added to it would be read
        if len(pool) < 2_000:
            pool.append(data)
        elif rng.random() < 0.01:
            pool[rng.randrange(len(SEEDS), len(pool))] = data
    return count


def run_atheris(atheris: Any, seconds: float) -> None:
    atheris.instrument_all()
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS):
            Path(corpus, str(number)).write_bytes(b"\0" + seed)
        options = [
            f"-max_total_time={int(seconds)}",
            "-max_len=20000",
            "-timeout=10",
            "-artifact_prefix=h2-",
            corpus,
        ]
        atheris.Setup([sys.argv[0], *options], lambda data: one_input(data) and None)
        atheris.Fuzz()  # ends the process


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.fuzz.h2_connection", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--replay", type=Path, help="one input that was found before")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        one_input(arguments.replay.read_bytes())
        return
    try:
        import atheris
    except ImportError:
        print(f"atheris is not installed; mutating at random, seed {arguments.seed}")
        count = run_random(arguments.seconds, arguments.seed)
        print(f"{count} inputs in {arguments.seconds:g} s, nothing found")
        return
    run_atheris(atheris, arguments.seconds)


if __name__ == "__main__":
    main()
