"""A request body on its way through an exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from extproc.wire import encode

_SMALL_PIECE: Final = 4096


class Body:
    """The chunks of one body, held until the pick. Only small ones are joined, unless it must be
    read: a client that sends byte by byte must not make us keep, and answer, millions."""

    __slots__ = ("chunks", "size")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0

    def add(self, chunk: bytes) -> None:
        if chunk:
            chunks, size = self.chunks, len(chunk)
            if chunks and len(chunks[-1]) + size <= _SMALL_PIECE:
                chunks[-1] += chunk
            else:
                chunks.append(chunk)
            self.size += size

    def joined(self) -> bytes:
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)

    def clear(self) -> None:
        self.chunks = []
        self.size = 0


def full_duplex(
    chunks: Sequence[bytes], *, ended: bool, trailers: bool = False, response: bool = False
) -> list[bytes]:
    """The answers that hand ``chunks`` back to Envoy in full duplex.

    ``ended``: nothing follows, so the last answer carries ``end_of_stream``, unless ``trailers``
    end the body in its place. An empty body still takes one (empty) answer to end.
    """
    last_eos = ended and not trailers
    if not chunks:
        return [encode.streamed_body(b"", True, response=response)] if last_eos else []
    final = len(chunks) - 1
    answers: list[bytes] = []
    for index, chunk in enumerate(chunks):
        eos = last_eos and index == final
        if len(chunk) <= encode.CHUNK_LIMIT:
            answers.append(encode.streamed_body(chunk, eos, response=response))
        else:
            answers += encode.streamed_chunks(chunk, eos, response=response)
    return answers
