"""A prompt as a chain of block hashes.

Each hash covers its block and all before it: two prompts share a hash exactly as far as they share
a prefix. Blocks are bytes, four for a token: of text that is a rough average, of token ids it is
exact. A last block that is not full has no hash; servers cache whole blocks only.

Blocks grow with what comes before them: four times as large from each place on where that is still
only a sixteenth. So a prompt of 128k tokens has 176 blocks instead of 2,048, and what is known of
it is rounded down by a sixteenth at most, by a thirty-second on average::

    tokens before   0       4,096    16,384    65,536
    block          64         256     1,024     4,096
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
_GROWTH = 4
_LEAST_BEFORE = 16
"""A block larger than the first follows at least so many times its own size."""
_LONGEST_KEPT = 512
"""Characters of a model and a salt whose hash is kept."""

_hash = xxh3_64_intdigest


def seed_of(model: str, salt: str) -> int:
    """What goes into the first hash: prompts for another model, adapter or salt share nothing."""
    # Clients choose both: what is long is not kept.
    if len(model) + len(salt) > _LONGEST_KEPT:
        return _seed(model, salt)
    return _kept_seed(model, salt)


def _seed(model: str, salt: str) -> int:
    return int(_hash(f"{model}\0{salt}".encode("utf-8", "surrogatepass")))


@functools.lru_cache(maxsize=4096)
def _kept_seed(model: str, salt: str) -> int:
    return _seed(model, salt)


@functools.lru_cache(maxsize=16)
def _blocks(size: int) -> struct.Struct:
    return struct.Struct(f"{size}s")


@functools.lru_cache(maxsize=16)
def _stages(block_tokens: int) -> tuple[tuple[int, int], ...]:
    """Sizes of blocks, each with the end of the part that is cut into them; in tokens."""
    stages: list[tuple[int, int]] = []
    size, end = block_tokens, 0
    while end < MAX_TOKENS:
        larger = size * _GROWTH
        end = min(larger * _LEAST_BEFORE, MAX_TOKENS)
        stages.append((size, end))
        size = larger
    return tuple(stages)


@functools.lru_cache(maxsize=16)
def sizes_of(block_tokens: int) -> tuple[int, ...]:
    """The sizes of the blocks of any prompt, in blocks of ``block_tokens``."""
    sizes: list[int] = []
    start = 0
    for size, end in _stages(block_tokens):
        count = (end - start) // size
        sizes += [size // block_tokens] * count
        start += count * size
    return tuple(sizes)


def chain_of(data: bytes, seed: int, block_tokens: int = BLOCK_TOKENS) -> list[int]:
    """The hashes of the full blocks of ``data``, in order. The first blocks have ``block_tokens``,
    later ones more."""
    chain: list[int] = []
    start, length = 0, len(data)
    view = memoryview(data)
    for tokens, last in _stages(block_tokens):
        size, end = tokens * BYTES_PER_TOKEN, last * BYTES_PER_TOKEN
        full = start + ((length if length < end else end) - start) // size * size
        seed = _extend(chain, seed, view[start:full], size)
        if length < end:
            break
        start = full
    return chain


def even_chain_of(data: bytes, seed: int, block_tokens: int) -> list[int]:
    """The same with all blocks of one size, as servers cut their prompts."""
    size = block_tokens * BYTES_PER_TOKEN
    full = min(len(data), MAX_TOKENS * BYTES_PER_TOKEN) // size * size
    chain: list[int] = []
    _extend(chain, seed, memoryview(data)[:full], size)
    return chain


def _extend(chain: list[int], parent: int, data: memoryview, size: int) -> int:
    """Append the hashes of blocks of ``size`` bytes. Returns the last."""
    blocks = _blocks(size).iter_unpack(data)
    chain += [parent := _hash(block, parent) for (block,) in blocks]
    return parent
