"""Putting the client's model name back into a response that flows past in chunks."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_SPACE: Final = b" \t\r\n"
_MAX_SPACE: Final = 16
"""Blanks on either side of the colon; more than any serialiser writes."""


class ModelRestorer:
    """Replaces ``"model": "told"`` by ``"model": "asked"``, also where chunks cut it in two.

    Bytes that might be the beginning of it are held until the next chunk; everything else is
    returned at once. Text that only quotes such JSON has its quotes escaped, so it is left alone.
    """

    __slots__ = ("_asked", "_held", "_key", "_pattern", "_told")

    def __init__(self, told: str, asked: str) -> None:
        self._told = msgspec.json.encode(told)
        self._asked = msgspec.json.encode(asked)
        self._key = b'"model"'
        blank = rb"[ \t\r\n]{0,%d}" % _MAX_SPACE
        self._pattern = re.compile(rb'("model"%b:%b)%b' % (blank, blank, re.escape(self._told)))
        self._held = b""

    def feed(self, chunk: bytes, *, end: bool) -> bytes:
        """What can be sent on. At the ``end`` nothing is held back."""
        data = self._held + chunk
        pieces: list[bytes] = []
        at = 0
        for match in self._pattern.finditer(data):
            pieces += (data[at : match.end(1)], self._asked)
            at = match.end()
        # What was replaced cannot begin another match.
        cut = len(data) if end else self._possible_start(data, at)
        pieces.append(data[at:cut])
        self._held = data[cut:]
        return b"".join(pieces)

    def _possible_start(self, data: bytes, after: int) -> int:
        """The first index, not before ``after``, from which ``data`` may go on to become a
        match."""
        longest = len(self._key) + 2 * _MAX_SPACE + 1 + len(self._told)
        at = max(after, len(data) - longest)
        while (at := data.find(b'"', at)) >= 0:
            if self._may_become_match(data[at:]):
                return at
            at += 1
        return len(data)

    def _may_become_match(self, tail: bytes) -> bool:
        if len(tail) <= len(self._key):
            return self._key.startswith(tail)
        if not tail.startswith(self._key):
            return False
        rest = tail[len(self._key) :].lstrip(_SPACE)
        if not rest:
            return True
        if rest[:1] != b":":
            return False
        return self._told.startswith(rest[1:].lstrip(_SPACE))
