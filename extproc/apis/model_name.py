"""Finding and replacing the model name in a JSON body without touching any other byte.

A request that is sent to another model must otherwise reach the pod exactly as the client wrote it:
re-encoding would reorder keys, round numbers and change escapes.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Final

import msgspec

_GAP: Final = re.compile(rb"[ \t\r\n,]*")
_COLON: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_SCALAR: Final = re.compile(rb"[^ \t\r\n,\]}]*")
# Everything below is possessive: no input makes it backtrack, or takes memory to be able to.
_CHARS: Final = rb'(?:[^"\\]++|\\.)*+'
_STRING_REST: Final = re.compile(_CHARS + b'"', re.DOTALL)


def _nested(depth: int) -> bytes:
    """A pattern for the inside of a container that nests no deeper than ``depth``."""
    flat = rb'[^"\[\]{}]++|"' + _CHARS + b'"'
    inside = b"(?:" + flat + b")*+"
    for _ in range(depth):
        inside = b"(?:" + flat + rb"|[\[{]" + inside + rb"[\]}])*+"
    return inside


_LARGE: Final = 1_048_576
"""Bytes of a body in which less is skipped in bulk: what nests deeper than a pattern can skip is
looked at once for each level of the pattern, which 30 MB would take seconds for."""
_DEPTH: Final = 12
_DEPTH_IN_LARGE: Final = 2
_INSIDE: Final = re.compile(_nested(_DEPTH), re.DOTALL)
_INSIDE_LARGE: Final = re.compile(_nested(_DEPTH_IN_LARGE), re.DOTALL)
_USUAL: Final = 64
"""Members of a body; with more, they are skipped in bulk."""
_MOST_KEYS: Final = 100
"""Model keys whose values are replaced: each may become as long as a header."""
_MOST_TURNS: Final = 100_000
"""Steps that nothing skips in bulk; they take 0.1 s."""
_ANY: Final = 1 << 60
# The key in any spelling that a JSON parser takes for it.
_MODEL: Final = rb'"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"'


def _others(depth: int) -> re.Pattern[bytes]:
    """Members that are not the model and nest no deeper than ``depth``, each with its comma."""
    return re.compile(
        rb'(?:[ \t\r\n]*+(?!%b)"%b"[ \t\r\n]*+:[ \t\r\n]*+'
        rb'(?:"%b"|[\[{]%b[\]}]|[^"\[\]{}, \t\r\n]++)[ \t\r\n]*+,)*+'
        % (_MODEL, _CHARS, _CHARS, _nested(depth)),
        re.DOTALL,
    )


_OTHERS: Final = _others(_DEPTH)
_OTHERS_LARGE: Final = _others(_DEPTH_IN_LARGE)
_QUOTE, _BACKSLASH, _BRACE, _BRACKET = b'"\\{['


def _string_end(body: bytes, start: int) -> int:
    """The index after the string that begins at ``start``; -1 if it is cut off."""
    at = start + 1
    for _ in range(8):
        quote = body.find(b'"', at)
        if quote < 0:
            return -1
        before = quote - 1
        while body[before] == _BACKSLASH and quote - before < 64:
            before -= 1
        if quote - before == 64:
            break
        if (quote - before) % 2:  # an even number of backslashes: the quote is not escaped
            return quote + 1
        at = quote + 1
    # Code or JSON as text, full of escapes: from here a regular expression is faster.
    rest = _STRING_REST.match(body, at)
    return rest.end() if rest else -1


class IntricateError(Exception):
    """To find every model key in this body would take too long, or there are too many of them.
    No client writes such a body, unless it wants others to wait."""


def _container_end(body: bytes, start: int, turns: int) -> tuple[int, int]:
    """The index after the object or array that begins at ``start`` (-1 if it is cut off), and how
    many ``turns`` are left.

    :raises IntricateError: there were too few.
    """
    depth, at, size = 0, start, len(body)
    inside = _INSIDE if size <= _LARGE else _INSIDE_LARGE
    while at < size:
        turns -= 1
        if turns < 0:
            raise IntricateError
        char = body[at]
        if char in (_BRACE, _BRACKET):
            depth += 1
        elif char == _QUOTE:  # a string that is cut off: whole ones were skipped
            return -1, turns
        else:
            depth -= 1
            if depth == 0:
                return at + 1, turns
        skipped = inside.match(body, at + 1)
        at = skipped.end() if skipped else size
    return -1, turns


def _value_end(body: bytes, start: int, turns: int) -> tuple[int, int]:
    if start >= len(body):
        return -1, turns
    char = body[start]
    if char == _QUOTE:
        return _string_end(body, start), turns
    if char in (_BRACE, _BRACKET):
        return _container_end(body, start, turns)
    scalar = _SCALAR.match(body, start)
    # A scalar at the very end may go on in bytes that we have not seen.
    return (scalar.end() if scalar and scalar.end() < len(body) else -1), turns


def members(body: bytes) -> Iterator[tuple[str, int, int]]:
    """Key and value span of each member of the top-level object, in order, duplicates included.

    ``body`` is the JSON text of an object, or a prefix of one: then the members that are complete.
    """
    at = _begin(body)
    while (member := _member(body, at, _ANY)) is not None:
        key, start, at, _ = member
        yield _text(key), start, at


def _begin(body: bytes) -> int:
    """The index after the opening brace; beyond the end if there is none."""
    at = len(body) - len(body.lstrip(b" \t\r\n"))
    return at + 1 if body[at : at + 1] == b"{" else len(body)


def _member(body: bytes, at: int, turns: int) -> tuple[bytes, int, int, int] | None:
    """Key (with its quotes) and value span of the member at ``at``, or after its comma; and how
    many ``turns`` are left.

    :raises IntricateError: there were too few.
    """
    gap = _GAP.match(body, at)
    at = gap.end() if gap else at
    if body[at : at + 1] != b'"':
        return None
    key_end = _string_end(body, at)
    colon = _COLON.match(body, key_end) if key_end >= 0 else None
    if colon is None:
        return None
    start = colon.end()
    end, turns = _value_end(body, start, turns)
    return (body[at:key_end], start, end, turns) if end >= 0 else None


def _text(key: bytes) -> str:
    if _BACKSLASH in key:
        # A body of which only the beginning is shown is not known to be JSON; a key with escapes
        # that mean nothing is none that we look for.
        with contextlib.suppress(ValueError):
            return str(json.loads(key))
    return key[1:-1].decode("utf-8", "replace")


def spans(body: bytes) -> list[tuple[int, int]]:
    """Where the values of every top-level ``model`` key are.

    :raises IntricateError: that is no body to look through.
    """
    found: list[tuple[int, int]] = []
    at, seen, turns = _begin(body), 0, _MOST_TURNS
    skippable = _OTHERS if len(body) <= _LARGE else _OTHERS_LARGE
    while (member := _member(body, at, turns)) is not None:
        key, start, at, turns = member
        turns -= 1
        if _text(key) == "model":
            found.append((start, at))
            if len(found) > _MOST_KEYS:
                raise IntricateError
        seen += 1
        if seen > _USUAL:
            gap = _GAP.match(body, at)
            others = skippable.match(body, gap.end() if gap else at)
            at = others.end() if others else at
    return found


def replaced(body: bytes, name: str) -> bytes:
    """``body`` with ``name`` as its model; every other byte stays.

    Where the key occurs more than once, parsers disagree on which one counts (most take the last),
    so each is replaced. ``body`` must be the JSON text of an object with a top-level ``model``.

    :raises IntricateError: that is no body to look through.
    """
    value = msgspec.json.encode(name)
    pieces: list[bytes] = []
    at = 0
    for start, end in spans(body):
        pieces += (body[at:start], value)
        at = end
    pieces.append(body[at:])
    return b"".join(pieces)
