"""Prompts by their structure: which parts they share, without writing the parts out.

A prompt is a list of segments. Two prompts share exactly the leading segments that they have in
common, and (inside the first one that differs) nothing. The same prompt can be seen as the engine
sees it (chained hashes of its blocks) and as a client sends it (text of four bytes a token), and
both agree on what is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

BYTES_PER_TOKEN = 4
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Segment:
    """``tokens`` tokens of some content. Equal ids: equal content, token by token."""

    id: int
    tokens: int


def length(segments: Sequence[Segment]) -> int:
    """Tokens in all."""
    return sum(segment.tokens for segment in segments)


def block_hashes(segments: Sequence[Segment], block_size: int, root: int = 0) -> list[int]:
    """A hash for each full block, chained from the first (:mod:`sim.tokens` does this for text)."""
    hashes: list[int] = []
    parent = root
    pieces: tuple[int, ...] = ()  # of a block that began in an earlier segment
    missing = block_size
    for segment in segments:
        name, tokens = segment.id, segment.tokens
        offset = 0
        if pieces:
            offset = min(missing, tokens)
            pieces = (*pieces, name, offset)
            missing -= offset
            if missing:
                continue
            parent = hash((parent, pieces))
            hashes.append(parent)
            pieces, missing = (), block_size
        full = (tokens - offset) // block_size * block_size
        for start in range(offset, offset + full, block_size):
            parent = hash((parent, name, start))
            hashes.append(parent)
        rest = tokens - offset - full
        if rest:
            pieces = (name, offset + full, rest)
            missing = block_size - rest
    return hashes


def text(segments: Sequence[Segment]) -> str:
    """As text that takes :data:`BYTES_PER_TOKEN` bytes a token, and that
    :func:`sim.tokens.tokenize` takes apart into as many tokens."""
    return "".join([_words(segment.id, segment.tokens) for segment in segments])


@lru_cache(maxsize=4096)
def _words(name: int, tokens: int) -> str:
    digits = []
    for _ in range(6):
        name, digit = divmod(name, 36)
        digits.append(_DIGITS[digit])
    low, high = "".join(digits[:3]), "".join(digits[3:])
    return f" {low} {high}" * (tokens // 2) + (f" {low}" if tokens % 2 else "")
