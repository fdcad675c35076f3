"""A request's header list: which are well-formed, which are gRPC, and what they say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from extproc.transport.h2.headers import Field, HeaderDecoder

# RFC 9113 8.2.1, and the token of RFC 9110 5.6.2 without upper case.
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]$").search
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
# RFC 9113 8.2.2.
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_CONTENT_TYPE: Final = re.compile(r"application/grpc(?:\+proto)?(?:\s*;.*)?", re.I).fullmatch
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])").fullmatch
_KEPT: Final = 64
_LONGEST_KEPT: Final = 1024
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class MalformedError(ValueError):
    """A header list that RFC 9113 8.1.1 calls malformed."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP answer for what is not gRPC."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Request:
    """How a gRPC call begins. ``metadata`` has no pseudo-headers; a name that comes more than once
    has its values joined by commas. ``timeout`` is that of grpc-timeout, in seconds."""

    path: str
    authority: str
    metadata: Mapping[str, str]
    timeout: float | None
    content_length: int | None
    refusal: Refusal | None


class RequestReader:
    """Reads the header blocks that open streams. Clients repeat themselves: the same block means
    the same as long as the decoder's table is the same, so what it said is kept until then."""

    __slots__ = ("_decoder", "_generation", "_kept")

    def __init__(self, decoder: HeaderDecoder) -> None:
        self._decoder = decoder
        self._generation = decoder.generation
        self._kept: dict[bytes, Request] = {}

    def read(self, block: bytes) -> Request:
        """
        :raises MalformedError: the stream must be reset with PROTOCOL_ERROR.
        :raises ConnectionBrokenError: the block cannot be decoded.
        """
        decoder = self._decoder
        kept = self._kept
        if self._generation == decoder.generation:
            request = kept.get(block)
            if request is not None:
                return request
        elif kept:
            kept.clear()
        before = decoder.generation
        request = read_request(decoder.decode(block))
        if before == decoder.generation and len(block) <= _LONGEST_KEPT:
            if len(kept) >= _KEPT:
                kept.clear()
            self._generation = before
            kept[block] = request
        return request


def read_request(fields: list[Field]) -> Request:
    """
    :raises MalformedError: the stream must be reset with PROTOCOL_ERROR.
    """
    pseudo: dict[bytes, bytes] = {}
    metadata: dict[str, str] = {}
    for name, value in fields:
        if name in _PSEUDO:
            if metadata:
                raise MalformedError(f"{name.decode()} after a regular field")
            if name in pseudo:
                raise MalformedError(f"{name.decode()} twice")
            if _BAD_VALUE(value):
                raise MalformedError(f"the value of {name.decode()} has a forbidden character")
            pseudo[name] = value
        else:
            _check_regular(name, value)
            key, text = name.decode("latin-1"), value.decode("latin-1")
            before = metadata.get(key)
            metadata[key] = text if before is None else f"{before},{text}"
    for name in (b":method", b":scheme", b":path"):
        if not pseudo.get(name):
            raise MalformedError(f"{name.decode()} is missing or empty")
    return Request(
        path=pseudo[b":path"].decode("latin-1"),
        authority=pseudo.get(b":authority", b"").decode("latin-1"),
        metadata=MappingProxyType(metadata),
        timeout=_timeout(metadata.get("grpc-timeout")),
        content_length=_content_length(metadata.get("content-length")),
        refusal=_refusal(pseudo[b":method"], metadata.get("content-type", "")),
    )


def check_trailers(fields: list[Field]) -> None:
    """
    :raises MalformedError: the stream must be reset with PROTOCOL_ERROR.
    """
    for name, value in fields:
        _check_regular(name, value)


def _check_regular(name: bytes, value: bytes) -> None:
    if not _NAME(name):
        # Pseudo-headers that are unknown, or where none may be, come here as well.
        raise MalformedError(f"{name[:40]!r} is no field name for this place")
    if name in _CONNECTION_SPECIFIC:
        raise MalformedError(f"{name.decode()} means nothing in HTTP/2")
    if name == b"te" and value != b"trailers":
        raise MalformedError("te may only be trailers")
    if _BAD_VALUE(value):
        raise MalformedError(f"the value of {name.decode()} has a forbidden character")


def _content_length(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise MalformedError(f"content-length is {text[:40]!r}")
    return int(text)


def _timeout(text: str | None) -> float | None:
    if text is None:
        return None
    match = _TIMEOUT(text)
    if match is None:
        raise MalformedError(f"grpc-timeout is {text[:40]!r}, not a number and its unit")
    return int(match[1]) * _UNITS[match[2]]


def _refusal(method: bytes, content_type: str) -> Refusal | None:
    if method != b"POST":
        return Refusal(405, "This is a gRPC server: requests are POST.\n")
    if not _CONTENT_TYPE(content_type):
        return Refusal(415, "This is a gRPC server: content-type is application/grpc.\n")
    return None
