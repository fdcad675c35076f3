"""Reading one HTTP/1.1 response (RFC 9112): bytes in, a status and a body out."""

from __future__ import annotations

import re
from collections.abc import Callable

_HEAD_LIMIT = 64 * 1024
_LINE_LIMIT = 4096
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?").fullmatch
_LENGTH = re.compile(rb"[0-9]{1,18}").fullmatch
_CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?").fullmatch


class BadResponseError(Exception):
    """It is no HTTP/1.1, or is cut off."""


class TooLargeError(BadResponseError):
    """Its body is larger than allowed."""


class ResponseReader:
    """Reads a single answer to a GET. What comes after it is not expected, and makes the connection
    one that cannot be used again."""

    __slots__ = (
        "_at",
        "_body",
        "_buffer",
        "_left",
        "_limit",
        "_size",
        "_step",
        "complete",
        "keep_alive",
        "status",
    )

    def __init__(self, limit: int) -> None:
        """``limit``: bytes of a body."""
        self.status = 0
        self.keep_alive = False
        """Whether the connection may be used again, once this is complete."""
        self.complete = False
        self._limit = limit
        self._buffer = b""
        self._at = 0
        """What comes before it in the buffer has been read."""
        self._body: list[bytes] = []
        self._size = 0
        self._left = 0
        """Bytes that the body, or its chunk, still lacks."""
        # What to do next. Plain functions: bound methods would make circles of garbage.
        self._step: _Step = _read_head

    @property
    def body(self) -> bytes:
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    def feed(self, data: bytes) -> None:
        """
        :raises BadResponseError: there is no use in reading on.
        """
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        while self._step(self):
            pass
        if self.complete and self._at < len(self._buffer):
            self.keep_alive = False

    def end(self) -> None:
        """The connection was closed.

        :raises BadResponseError: before the response was complete.
        """
        if self._step is _read_until_closed:
            self.complete = True
        elif not self.complete:
            raise BadResponseError("the connection was closed in the middle of the answer")

    def head(self, head: bytes) -> None:
        """The status line and the fields after it."""
        first, *lines = head.split(b"\r\n")
        status_line = _STATUS_LINE(first)
        if status_line is None:
            raise BadResponseError("the answer is not HTTP/1.1")
        self.status = int(status_line[2])
        if self.status < 200:  # an interim answer: the real one follows
            return
        fields: dict[bytes, bytes] = {}
        for line in lines:
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip()
            fields[name] = fields[name] + b"," + value if name in fields else value
        connection = fields.get(b"connection", b"").lower()
        self.keep_alive = b"close" not in connection and (
            status_line[1] == b"1" or b"keep-alive" in connection
        )
        self._step = self._framing(fields)

    def _framing(self, fields: dict[bytes, bytes]) -> _Step:
        """How the body ends (RFC 9112 6.3)."""
        if self.status in (204, 304):
            return _read_sized
        coding = fields.get(b"transfer-encoding")
        if coding is not None:
            if coding.lower() != b"chunked":
                raise BadResponseError(f"the answer has the transfer coding {coding[:40]!r}")
            return _read_chunk_line
        length = fields.get(b"content-length")
        if length is None:
            self.keep_alive = False
            return _read_until_closed
        # The same length may be given more than once.
        lengths = {part.strip() for part in length.split(b",")}
        if len(lengths) > 1 or not _LENGTH(length := lengths.pop()):
            raise BadResponseError(f"the answer's content-length is {length[:40]!r}")
        self.expect(int(length))
        return _read_sized

    def expect(self, size: int) -> None:
        """So many bytes of the body come next."""
        if self._size + size > self._limit:
            raise TooLargeError(f"larger than {self._limit} bytes")
        self._left = size

    def take(self) -> bool:
        """Move what is there of the expected bytes to the body. Returns whether that was all."""
        piece = self._buffer[self._at : self._at + self._left]
        if piece:
            self._body.append(piece)
            self._at += len(piece)
            self._size += len(piece)
            self._left -= len(piece)
        return not self._left

    def line(self, end: bytes = b"\r\n", limit: int = _LINE_LIMIT) -> bytes | None:
        """What comes before ``end``, once that is there."""
        found = self._buffer.find(end, self._at)
        if (found if found >= 0 else len(self._buffer)) - self._at > limit:
            raise BadResponseError(f"the answer's head, or a line of it, is over {limit} bytes")
        if found < 0:
            return None
        line = self._buffer[self._at : found]
        self._at = found + len(end)
        return line

    def unread(self) -> bytes:
        """What has come and was not read yet."""
        return self._buffer[self._at :]

    def go_on(self, step: _Step) -> None:
        self._step = step


_Step = Callable[[ResponseReader], bool]
"""Takes what it can, and returns whether another step should follow."""


def _read_head(reader: ResponseReader) -> bool:
    head = reader.line(b"\r\n\r\n", _HEAD_LIMIT)
    if head is None:
        if not b"HTTP/1.".startswith(reader.unread()[:7]):
            raise BadResponseError("the answer is not HTTP/1.1")
        return False
    reader.head(head)
    return True


def _read_sized(reader: ResponseReader) -> bool:
    reader.complete = reader.take()
    return False


def _read_until_closed(reader: ResponseReader) -> bool:
    reader.expect(len(reader.unread()))
    reader.take()
    return False


def _read_chunk_line(reader: ResponseReader) -> bool:
    line = reader.line()
    if line is None:
        return False
    size = _CHUNK_LINE(line)
    if size is None:
        raise BadResponseError(f"a chunk of the answer begins with {line[:40]!r}")
    reader.expect(int(size[1], 16))
    reader.go_on(_read_chunk if int(size[1], 16) else _read_trailer)
    return True


def _read_chunk(reader: ResponseReader) -> bool:
    if not reader.take():
        return False
    reader.go_on(_read_chunk_end)
    return True


def _read_chunk_end(reader: ResponseReader) -> bool:
    line = reader.line()
    if line:
        raise BadResponseError("a chunk of the answer is longer than it says")
    reader.go_on(_read_chunk_line if line is not None else _read_chunk_end)
    return line is not None


def _read_trailer(reader: ResponseReader) -> bool:
    line = reader.line()
    reader.complete = line == b""
    return line is not None and not reader.complete
