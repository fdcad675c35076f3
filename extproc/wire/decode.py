"""Hand-written decoders of the two ext-proc messages that come with every request.

protobuf's classes make an object of each header, and copy a body twice. What is not as Envoy writes
it is left to them: then these functions return None. A test compares the two, field by field, for
messages of any shape.
"""

from __future__ import annotations

from typing import Final

_REQUEST_HEADERS: Final = 2 << 3 | 2
_REQUEST_BODY: Final = 4 << 3 | 2
_METADATA: Final = 8 << 3 | 2
_OBSERVABILITY: Final = 10 << 3
_PROTOCOL: Final = 11 << 3 | 2
# Of HttpHeaders, HeaderMap, HeaderValue and HttpBody.
_FIRST: Final = 1 << 3 | 2
_RAW_VALUE: Final = 3 << 3 | 2
_HEADERS_END: Final = 3 << 3
_BODY_END: Final = 2 << 3
_MOST_BYTES: Final = 5
"""Of a length: what is longer would be a message of 32 GiB."""


class RequestHeaders:
    """The first message of an exchange."""

    __slots__ = ("end_of_stream", "metadata", "modes", "observed", "values")

    def __init__(
        self,
        values: dict[str, str],
        *,
        end_of_stream: bool,
        metadata: bytes,
        observed: bool,
        modes: tuple[int, int, bool] | None,
    ) -> None:
        self.values = values
        """By name in lower case; what came more than once is joined by a comma."""
        self.end_of_stream = end_of_stream
        self.metadata = metadata
        """A ``Metadata`` message, not decoded; empty: there is none."""
        self.observed = observed
        """Envoy takes no answers (``observability_mode``)."""
        self.modes = modes
        """``ProtocolConfiguration``: the body modes of request and response, and whether bodies
        come before headers are answered. None: Envoy does not tell."""


class _NotPlainError(Exception):
    """It is for protobuf to read."""


def request_headers(message: bytes) -> RequestHeaders | None:
    """A ``ProcessingRequest`` with the headers of a request; None if it is another, or to be read
    by protobuf."""
    if not message or message[0] != _REQUEST_HEADERS:
        return None
    try:
        return _request_headers(message)
    except (_NotPlainError, IndexError, UnicodeDecodeError):
        return None


def request_body(message: bytes) -> tuple[bytes, bool] | None:
    """A ``ProcessingRequest`` with a piece of a request's body: the piece, and whether it is the
    last. None if it is another, or to be read by protobuf."""
    if not message or message[0] != _REQUEST_BODY:
        return None
    try:
        return _request_body(message)
    except (_NotPlainError, IndexError):
        return None


def _request_headers(message: bytes) -> RequestHeaders:
    end = len(message)
    at, stop = _inside(message, 1, end)
    values: dict[str, str] = {}
    if at < stop and message[at] == _FIRST:
        at, inner = _inside(message, at + 1, stop)
        _add_headers(values, message, at, inner)
        at = inner
    end_of_stream = False
    if at < stop:
        end_of_stream, at = _flag(message, at, _HEADERS_END)
        if at != stop:
            raise _NotPlainError
    metadata = b""
    observed = False
    modes: tuple[int, int, bool] | None = None
    while at < end:
        tag = message[at]
        if tag == _OBSERVABILITY:
            observed, at = _flag(message, at, tag)
        elif tag == _METADATA and not metadata:
            at, stop = _inside(message, at + 1, end)
            metadata = message[at:stop]
            at = stop
        elif tag == _PROTOCOL and modes is None:
            at, stop = _inside(message, at + 1, end)
            modes = _modes(message, at, stop)
            at = stop
        else:
            raise _NotPlainError
    return RequestHeaders(
        values, end_of_stream=end_of_stream, metadata=metadata, observed=observed, modes=modes
    )


def _add_headers(values: dict[str, str], message: bytes, at: int, end: int) -> None:
    """Each is a ``HeaderValue`` of a key and a raw value. (Before 1.27 Envoy sent text.)"""
    while at < end:
        if message[at] != _FIRST:
            raise _NotPlainError
        at, entry = _inside(message, at + 1, end)
        if at == entry or message[at] != _FIRST:
            raise _NotPlainError
        at, stop = _inside(message, at + 1, entry)
        key = message[at:stop].decode()
        value = ""
        if stop < entry:
            if message[stop] != _RAW_VALUE:
                raise _NotPlainError
            at, stop = _inside(message, stop + 1, entry)
            value = message[at:stop].decode("latin-1")
            if stop != entry:
                raise _NotPlainError
        values[key] = f"{values[key]},{value}" if key in values else value
        at = entry


def _modes(message: bytes, at: int, end: int) -> tuple[int, int, bool]:
    found = [0, 0, 0]
    while at < end:
        tag, value = message[at], message[at + 1]
        number = tag >> 3
        if tag & 7 or not 1 <= number <= len(found) or value > 127:
            raise _NotPlainError
        found[number - 1] = value
        at += 2
    if at != end:
        raise _NotPlainError
    return found[0], found[1], found[2] != 0


def _request_body(message: bytes) -> tuple[bytes, bool]:
    end = len(message)
    at, stop = _inside(message, 1, end)
    piece = b""
    if at < stop and message[at] == _FIRST:
        at, inner = _inside(message, at + 1, stop)
        piece = message[at:inner]
        at = inner
    end_of_stream = False
    if at < stop:
        end_of_stream, at = _flag(message, at, _BODY_END)
        if at != stop:
            raise _NotPlainError
    if at < end:
        # Envoy sends its metadata with every message; it mattered with the headers.
        if message[at] != _METADATA:
            raise _NotPlainError
        at, stop = _inside(message, at + 1, end)
        if stop != end:
            raise _NotPlainError
    return piece, end_of_stream


def _inside(message: bytes, at: int, end: int) -> tuple[int, int]:
    """Where the content of a length-delimited field begins and ends, from its length at ``at``."""
    size = message[at]
    at += 1
    if size > 127:
        size &= 127
        for place in range(1, _MOST_BYTES):
            byte = message[at]
            at += 1
            size |= (byte & 127) << 7 * place
            if byte < 128:
                break
        else:
            raise _NotPlainError
    stop = at + size
    if stop > end:
        raise _NotPlainError
    return at, stop


def _flag(message: bytes, at: int, tag: int) -> tuple[bool, int]:
    """A field that is 0 or 1, and where it ends."""
    value = message[at + 1]
    if message[at] != tag or value > 1:
        raise _NotPlainError
    return value == 1, at + 2
