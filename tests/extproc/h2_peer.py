"""A client that says exactly what a test wants, right or wrong, and reads what it is told."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import hpack

from extproc.transport.h2 import Connection, Event, Limits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 1, 1, 4, 8, 32

REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Service/Method"),
    (":authority", "picker"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(data: bytes, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(data)) + data


def data(stream: int, payload: bytes, *, end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, stream, payload)


def settings(**values: int) -> bytes:
    numbers = {"table": 1, "push": 2, "streams": 3, "window": 4, "frame": 5, "list": 6}
    payload = b"".join(struct.pack(">HI", numbers[name], value) for name, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def rst_stream(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


@dataclass(frozen=True)
class Frame:
    """A frame as the client read it."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM and GOAWAY."""
        return int.from_bytes(self.payload[-4:] if self.kind == RST_STREAM else self.payload[4:8])

    @property
    def ends_stream(self) -> bool:
        return self.kind in (DATA, HEADERS) and bool(self.flags & END_STREAM)


def parse(data: bytes) -> list[Frame]:
    found = []
    while data:
        size = int.from_bytes(data[:3])
        kind, flags, stream = struct.unpack(">BBI", data[3:9])
        assert len(data) >= 9 + size, "a frame is cut off"
        found.append(Frame(kind, flags, stream, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


class Peer:
    """One connection and its client. ``now`` is the only clock."""

    def __init__(self, limits: Limits | None = None, *, greet: bool = True) -> None:
        self.now = 100.0
        self.connection = Connection(limits or Limits(), self.now)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.greeting = self.heard()
        if greet:
            assert self.say(PREFACE, settings()) == []
            self.heard()

    def say(self, *parts: bytes) -> list[Event]:
        return self.connection.receive(b"".join(parts), self.now)

    def heard(self) -> list[Frame]:
        """Everything written since the last time."""
        return parse(self.connection.outgoing())

    def headers(
        self,
        stream: int,
        fields: list[tuple[str, str]] | None = None,
        *,
        end: bool = False,
    ) -> bytes:
        block = self.encoder.encode(REQUEST if fields is None else fields)
        flags = END_HEADERS | (END_STREAM if end else 0)
        return frame(HEADERS, flags, stream, block)

    def fields(self, frame: Frame) -> dict[str, str]:
        assert frame.kind == HEADERS
        return dict(self.decoder.decode(frame.payload))

    def trailers(self, stream: int) -> dict[str, str]:
        """What ended the stream, as the client read it."""
        for heard in self.heard():
            if heard.kind == HEADERS:
                fields = self.fields(heard)
                if heard.stream == stream and heard.ends_stream:
                    return fields
        raise AssertionError(f"stream {stream} was not ended")
