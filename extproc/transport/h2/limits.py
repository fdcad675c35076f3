"""What a peer may ask of a connection: sizes, numbers and rates."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``burst`` at once, refilled at ``per_second``."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection. Sizes in bytes, times in seconds.

    The rates are far above what Envoy and the gRPC clients do, and far below what makes a flood
    worth while. A breach ends the connection with ENHANCE_YOUR_CALM; a stream that is too large
    ends alone, with RESOURCE_EXHAUSTED.
    """

    max_frame_size: int = 16 * KIB
    """The largest frame taken (SETTINGS_MAX_FRAME_SIZE, 16 KiB to 16 MiB - 1)."""
    stream_window: int = 1 * MIB
    """How much a client may send on one stream before it hears from us (64 KiB - 1 or more)."""
    connection_window: int = 16 * MIB
    """The same for all streams of a connection together (64 KiB - 1 or more)."""
    max_streams: int = 20_000
    """Streams open at once. One more is refused alone, with REFUSED_STREAM."""
    max_header_list: int = 64 * KIB
    """A header list as RFC 7541 4.1 counts it, and the encoded block that it came in."""
    max_header_fields: int = 200
    max_continuations: int = 16
    """CONTINUATION frames of one header block."""
    max_message: int = 64 * MIB
    """One gRPC message. It must hold a whole request body where Envoy buffers bodies."""
    max_unread: int = 512 * MIB
    """Unfinished messages of all streams together."""
    max_unsent_stream: int = 96 * MIB
    """Answers of one stream that the client's flow control holds up."""
    max_unsent: int = 512 * MIB
    """The same for all streams together. A breach ends the connection."""
    handshake_timeout: float = 10.0
    """From the connection's start to the client's first SETTINGS; also for a header block that was
    begun."""
    stall_timeout: float = 60.0
    """How long a client may hold up an answer by its flow control."""
    resets: Rate = Rate(1_000, 10_000)
    """Streams that the client reset before there was any answer, or made us reset by its faults."""
    pings: Rate = Rate(2_000, 10_000)
    settings: Rate = Rate(10, 100)
    empty_frames: Rate = Rate(100, 1_000)
    """DATA, HEADERS and CONTINUATION frames that carry nothing and end nothing."""
    crumbs: Rate = Rate(1_000, 10_000)
    """DATA frames of less than 256 bytes that complete no message: each costs as much as a large
    one. What clients send byte by byte, Envoy sends as messages that are whole."""
    large_headers: Rate = Rate(100, 1_000)
    """Header blocks of more than 4 KiB. Envoy's and probes' have some hundred bytes."""
    window_updates: Rate = Rate(100_000, 200_000)
    ignored_frames: Rate = Rate(1_000, 10_000)
    """PRIORITY frames, frames of unknown types and those for streams that are gone."""

    def __post_init__(self) -> None:
        if not 16_384 <= self.max_frame_size < 1 << 24:
            raise ValueError(f"max_frame_size is {self.max_frame_size}: use 16384 to 16777215")
        for name in ("stream_window", "connection_window"):
            value = getattr(self, name)
            if not 65_535 <= value < 1 << 31:
                raise ValueError(f"{name} is {value}: use 65535 to 2147483647")


class Bucket:
    """A token bucket for one :class:`Rate`."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more is within the rate."""
        rate = self._rate
        tokens = self._tokens
        if now > self._at:
            tokens = min(float(rate.burst), tokens + (now - self._at) * rate.per_second)
            self._at = now
        if tokens < 1.0:
            self._tokens = tokens
            return False
        self._tokens = tokens - 1.0
        return True
