"""Finding and replacing the model name in a JSON body without touching any other byte.

A request that is sent to another model must otherwise reach the pod exactly as the client wrote it:
re-encoding would reorder keys, round numbers and change escapes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import msgspec

_GAP = re.compile(rb"[ \t\r\n,]*")
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_SCALAR = re.compile(rb"[^ \t\r\n,\]}]*")
_STRUCTURE = re.compile(rb'["\[\]{}]')
_QUOTE, _BACKSLASH, _BRACE, _BRACKET = b'"\\{['


def _string_end(body: bytes, start: int) -> int:
    """The index after the string that begins at ``start``; -1 if it is cut off."""
    at = start + 1
    while (quote := body.find(b'"', at)) >= 0:
        before = quote - 1
        while body[before] == _BACKSLASH:
            before -= 1
        if (quote - before) % 2:  # an even number of backslashes: the quote is not escaped
            return quote + 1
        at = quote + 1
    return -1


def _container_end(body: bytes, start: int) -> int:
    """The index after the object or array that begins at ``start``; -1 if it is cut off."""
    depth, at = 0, start
    while found := _STRUCTURE.search(body, at):
        at = found.start()
        char = body[at]
        if char == _QUOTE:
            at = _string_end(body, at)
            if at < 0:
                return -1
            continue
        depth += 1 if char in (_BRACE, _BRACKET) else -1
        at += 1
        if depth == 0:
            return at
    return -1


def _value_end(body: bytes, start: int) -> int:
    if start >= len(body):
        return -1
    char = body[start]
    if char == _QUOTE:
        return _string_end(body, start)
    if char in (_BRACE, _BRACKET):
        return _container_end(body, start)
    scalar = _SCALAR.match(body, start)
    # A scalar at the very end may go on in bytes that we have not seen.
    return scalar.end() if scalar and scalar.end() < len(body) else -1


def members(body: bytes) -> Iterator[tuple[str, int, int]]:
    """Key and value span of each member of the top-level object, in order, duplicates included.

    ``body`` is the JSON text of an object, or a prefix of one: then the members that are complete.
    """
    at = _GAP.match(body).end()  # type: ignore[union-attr] # matches the empty string as well
    if body[at : at + 1] != b"{":
        return
    at += 1
    while True:
        at = _GAP.match(body, at).end()  # type: ignore[union-attr]
        if body[at : at + 1] != b'"':
            return
        key_end = _string_end(body, at)
        colon = _COLON.match(body, key_end) if key_end >= 0 else None
        if colon is None:
            return
        key = body[at:key_end]
        start = colon.end()
        at = _value_end(body, start)
        if at < 0:
            return
        yield _text(key), start, at


def _text(key: bytes) -> str:
    if _BACKSLASH in key:
        return str(json.loads(key))
    return key[1:-1].decode("utf-8", "replace")


def spans(body: bytes) -> list[tuple[int, int]]:
    """Where the values of every top-level ``model`` key are."""
    first = body.find(b'"model"')
    # Once, and no key can be an escaped spelling of it (m, o, d, e and l are \u006x): then it is
    # the key itself, not a string value or a key further in, as the caller read a top-level model.
    if first >= 0 and body.find(b'"model"', first + 7) < 0 and b"\\u006" not in body:
        colon = _COLON.match(body, first + 7)
        if colon is not None and body[colon.end()] == _QUOTE:
            end = _string_end(body, colon.end())
            if end >= 0:
                return [(colon.end(), end)]
    return [(start, end) for key, start, end in members(body) if key == "model"]


def replaced(body: bytes, name: str) -> bytes:
    """``body`` with ``name`` as its model; every other byte stays.

    Where the key occurs more than once, parsers disagree on which one counts (most take the last),
    so each is replaced. ``body`` must be the JSON text of an object with a top-level ``model``.
    """
    value = msgspec.json.encode(name)
    pieces: list[bytes] = []
    at = 0
    for start, end in spans(body):
        pieces += (body[at:start], value)
        at = end
    pieces.append(body[at:])
    return b"".join(pieces)
