"""The header blocks that we send. All are literals or static entries, so they hold on every
connection and the common ones are made once."""

from __future__ import annotations

from typing import Final

from extproc.transport.api import GrpcStatus
from extproc.transport.h2.headers import encode_fields
from extproc.transport.h2.request import Refusal

_STATUS_200: Final = b"\x88"  # static entry 8
_LONGEST_MESSAGE: Final = 1024

RESPONSE: Final = _STATUS_200 + encode_fields([(b"content-type", b"application/grpc")])
TRAILERS_OK: Final = encode_fields([(b"grpc-status", b"0")])


def trailers(status: GrpcStatus, message: str) -> bytes:
    """The block that ends a call."""
    if status is GrpcStatus.OK and not message:
        return TRAILERS_OK
    fields = [(b"grpc-status", b"%d" % status)]
    if message:
        fields.append((b"grpc-message", _percent_encode(message)))
    return encode_fields(fields)


def refusal(answer: Refusal) -> bytes:
    """The block before the text of an HTTP answer."""
    return encode_fields(
        [
            (b":status", b"%d" % answer.status),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(answer.text.encode())),
        ]
    )


def _percent_encode(message: str) -> bytes:
    """grpc-message: UTF-8, with what is not printable ASCII, and "%", percent-encoded."""
    raw = message.encode("utf-8", "replace")[:_LONGEST_MESSAGE]
    if raw.isascii() and raw.decode("ascii").isprintable() and b"%" not in raw:
        return raw
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in raw
    )
