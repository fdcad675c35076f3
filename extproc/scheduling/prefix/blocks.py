"""A prompt as a chain of block hashes.

Each hash covers its block and all before it: two prompts share a hash exactly as far as they share
a prefix. Blocks are bytes, four for a token: of text that is a rough average, of token ids it is
exact. A last block that is not full has no hash; servers cache whole blocks only.
"""

from __future__ import annotations

import functools
import struct

from xxhash import xxh3_64_intdigest

BYTES_PER_TOKEN = 4
"""A rough average over languages and tokenizers; only compared with itself."""
BLOCK_TOKENS = 64
"""Tokens of a block. Servers use 16 mostly; four of those at once cost a quarter to look up, and
round a prompt's match down by half a block on average."""
MAX_TOKENS = 131_072
"""What a prompt has beyond this is not hashed: it is taken for not cached."""

_hash = xxh3_64_intdigest


@functools.lru_cache(maxsize=4096)
def seed_of(model: str, salt: str) -> int:
    """What goes into the first hash: prompts for another model, adapter or salt share nothing."""
    return int(_hash(f"{model}\0{salt}".encode("utf-8", "surrogatepass")))


@functools.lru_cache(maxsize=16)
def _blocks(size: int) -> struct.Struct:
    return struct.Struct(f"{size}s")


def chain_of(data: bytes, seed: int, block_tokens: int = BLOCK_TOKENS) -> list[int]:
    """The hashes of the full blocks of ``data``, in order."""
    size = block_tokens * BYTES_PER_TOKEN
    full = min(len(data), MAX_TOKENS * BYTES_PER_TOKEN) // size * size
    parent = seed
    blocks = _blocks(size).iter_unpack(memoryview(data)[:full])
    return [parent := _hash(block, parent) for (block,) in blocks]
