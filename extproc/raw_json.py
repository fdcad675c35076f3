"""What is looked for in JSON text that is too large to be parsed."""

from __future__ import annotations

import re
from typing import Final

DATA_URL: Final = re.compile(rb'"data:[^"]{1000,}+"')
"""Shorter ones count as text: each takes its time, and there may be millions."""
TOKEN_IDS: Final = re.compile(rb"[\[ \t\r\n]*+[0-9]")
"""A prompt of token ids, or of several lists of them."""

_ODD: Final = (
    # Text, and two others of its length. The blanks keep them apart from what stands beside them:
    # neither 1NaN nor -NaN must become a number.
    (b"NaN", b" 0 ", b" 1 "),
    (b"-Infinity", b"    0    ", b"    2    "),
    (b"Infinity", b"    0   ", b"    4   "),
    # Every surrogate becomes a character of the private use area, where half a pair is valid.
    (b"\\ud", b"\\uf", b"\\ue"),
    (b"\\uD", b"\\uF", b"\\uE"),
)


def _difference(one: bytes, other: bytes) -> bytes:
    bits = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return bits.to_bytes(len(one), "big")


_UNDO: Final = tuple(
    (bytes([max(seen)]), seen, change)
    for seen, change in {
        _difference(first, second): _difference(first, odd) for odd, first, second in _ODD
    }.items()
)
"""The one byte in which the two differ, how they differ, and how the first differs from the
original. In this order: the last one's change has a byte that another is known by."""
_BARE: Final = {(first.strip(), second.strip()): odd for odd, first, second in _ODD[:3]}
"""Of a value that is nothing else, the blanks are not part."""
_LONGEST: Final = 9
_PIECE: Final = 1 << 16
"""Bytes. Most pieces of a usual text have nothing to undo."""


def made_strict(text: bytes) -> tuple[bytes, bytes]:
    """``text`` with what Python reads beyond JSON (NaN, lone surrogates) replaced by JSON, twice.

    Every value is where it was. What is no JSON to Python either is none afterwards. In strings it
    is replaced as well (:func:`undone` brings it back), but no key becomes one of letters and
    underscores that it was not. Takes some 12 ms for each MiB at most, whatever the text is.
    """
    first = second = text
    for odd, one, other in _ODD:
        first = first.replace(odd, one)
        second = second.replace(odd, other)
    return first, second


def undone(first: bytes, second: bytes) -> bytes:
    """The original of a value, of which :func:`made_strict` made these two.

    Where they differ, something was replaced; how they differ tells what.
    """
    if first == second:
        return first
    if bare := _BARE.get((first, second)):
        return bare
    pieces: list[bytes] = []
    for at in range(0, len(first), _PIECE):
        # What is cut in two at an edge is seen whole, since the neighbourhood is looked at as well.
        begin, end = max(0, at - _LONGEST), at + _PIECE + _LONGEST
        one, other = first[begin:end], second[begin:end]
        if one != other:
            changes = _difference(one, other)
            for mark, seen, change in _UNDO:
                if mark in changes:
                    changes = changes.replace(seen, change)
            one = _difference(one, changes)
        pieces.append(one[at - begin : at - begin + _PIECE])
    return b"".join(pieces)
