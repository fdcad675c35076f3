"""An approximate index of the prefix caches of all endpoints.

No server was asked: what was sent to an endpoint is taken to be cached there, until so much else
was sent that it must have been evicted. Nodes of one global table say which endpoints have a block,
as the bits of a number, so that a look-up costs one ``and`` for each block however many endpoints
there are::

    hash of the block -> endpoints that have it

For each endpoint a dictionary keeps the blocks in the order of their last use (Python's keep the
order of insertion), for evicting the oldest. A pick uses its whole chain, last block first, so a
block is never evicted before those that follow it, and a look-up, which walks the chain while any
endpoint has *every* block so far, never credits an endpoint with a block that its cache could not
reach.

Late blocks of long prompts are larger (see ``blocks``). Sizes of caches are counted in blocks of
the first size, and a larger one counts for as many as it covers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.prefix.blocks import BLOCK_TOKENS, MAX_TOKENS, sizes_of
from extproc.picking.scheduling.prefix.match import Level, PrefixMatch

DEFAULT_TOKENS = 500_000
"""Taken for the size of a cache that does not tell its own."""
MAX_ENTRIES = 1_000_000
"""Blocks that are remembered in all, over all endpoints. An entry takes about 160 bytes."""
_EVICTED_AT_ONCE = 32
"""A full cache makes room for a 32nd more than it needs: finding the oldest costs less for many."""


class Places:
    """The bits of the endpoints, the same in every index that shares them."""

    def __init__(self) -> None:
        self.by_bit: list[Candidate | None] = []
        self._users: dict[Candidate, int] = {}

    def take(self, candidate: Candidate) -> int:
        """The endpoint's bit, until it is given back as often as it was taken."""
        users = self._users[candidate] = self._users.get(candidate, 0) + 1
        if users == 1:
            by_bit = self.by_bit
            place = next((n for n, taken in enumerate(by_bit) if taken is None), len(by_bit))
            if place == len(by_bit):
                by_bit.append(candidate)
            else:
                by_bit[place] = candidate
            candidate.bit = 1 << place
        return candidate.bit

    def give_back(self, candidate: Candidate) -> None:
        self._users[candidate] -= 1
        if not self._users[candidate]:
            del self._users[candidate]
            self.by_bit[candidate.bit.bit_length() - 1] = None
            candidate.bit = 0


class _Cache:
    """What one endpoint has, as far as we know."""

    __slots__ = ("bit", "blocks", "candidate", "capacity", "used")

    def __init__(self, candidate: Candidate, bit: int, capacity: int) -> None:
        self.candidate = candidate
        self.bit = bit
        self.capacity = capacity
        self.blocks: dict[int, int] = {}
        """The size of each, the oldest use first."""
        self.used = 0
        """Their sizes together."""


class PrefixIndex:
    """Look up with :meth:`match`, record a pick with :meth:`add`."""

    def __init__(
        self,
        block_tokens: int = BLOCK_TOKENS,
        max_entries: int = MAX_ENTRIES,
        places: Places | None = None,
        *,
        even: bool = False,
    ) -> None:
        """``even``: blocks do not grow with the prompt."""
        if block_tokens < 1 or max_entries < 1:
            raise ValueError("block_tokens and max_entries must be at least 1")
        self.block_tokens = block_tokens
        self.max_entries = max_entries
        self._sizes = (1,) * (MAX_TOKENS // block_tokens) if even else sizes_of(block_tokens)
        self._ends = (0, *accumulate(self._sizes))
        """By a number of blocks, the size of so many at the beginning of a prompt."""
        self._holders: dict[int, int] = {}
        self._caches: dict[Candidate, _Cache] = {}
        self._places = places if places is not None else Places()

    def __len__(self) -> int:
        """Entries: blocks, each counted once for every endpoint that has it, and by its size."""
        return sum(cache.used for cache in self._caches.values())

    def entries_of(self, candidate: Candidate) -> int:
        cache = self._caches.get(candidate)
        return cache.used if cache is not None else 0

    def capacity_of(self, candidate: Candidate) -> int:
        """Blocks; 0 for an endpoint that is not followed."""
        cache = self._caches.get(candidate)
        return cache.capacity if cache is not None else 0

    # Which endpoints there are.

    def follow(self, tokens: Mapping[Candidate, int]) -> None:
        """These are the endpoints from now on, each with the size of its cache in tokens. What was
        known of others is forgotten."""
        for candidate in [c for c in self._caches if c not in tokens]:
            self._leave(candidate)
        share = self.max_entries // max(1, len(tokens))
        for candidate, size in tokens.items():
            cache = self._caches.get(candidate) or self._join(candidate)
            cache.capacity = min(size // self.block_tokens, share)
            self._make_room(cache, 0)

    def forget(self, candidate: Candidate) -> None:
        """Its cache is empty: the server was started again."""
        cache = self._caches.get(candidate)
        if cache is not None:
            self._drop(cache, cache.blocks)
            cache.blocks = {}
            cache.used = 0

    def contents(self, candidate: Candidate) -> dict[int, int]:
        """Its blocks with their sizes, the oldest use first."""
        return dict(self._caches[candidate].blocks)

    def restore(self, candidate: Candidate, blocks: Iterable[tuple[int, int]]) -> None:
        """What :meth:`contents` told, of an endpoint of which nothing is known yet."""
        cache = self._caches[candidate]
        holders, bit = self._holders, cache.bit
        for block, size in blocks:
            if block not in cache.blocks:
                cache.blocks[block] = size
                cache.used += size
                holders[block] = holders.get(block, 0) | bit
        self._make_room(cache, 0)

    def _join(self, candidate: Candidate) -> _Cache:
        cache = self._caches[candidate] = _Cache(candidate, self._places.take(candidate), 0)
        return cache

    def _leave(self, candidate: Candidate) -> None:
        self.forget(candidate)
        del self._caches[candidate]
        self._places.give_back(candidate)

    # What they have.

    def match(self, chain: Sequence[int]) -> PrefixMatch:
        """How far each endpoint has the blocks of this chain."""
        holders = self._holders
        ends, block_tokens = self._ends, self.block_tokens
        levels: list[Level] = []
        have = -1
        depth = 0
        for block in chain:
            now = holders.get(block, 0) & have
            if now != have:
                if depth:
                    levels.append((ends[depth] * block_tokens, have ^ now))
                have = now
                if not now:
                    break
            depth += 1
        if have > 0:
            levels.append((ends[depth] * block_tokens, have))
        if len(levels) > 1:
            levels.reverse()
        return PrefixMatch(chain, levels, self._places.by_bit)

    def add(self, candidate: Candidate, chain: Sequence[int]) -> int:
        """A prompt was sent there. Returns how many of its blocks were not known to be there.

        A chain longer than the cache is only taken as far as it fits.
        """
        cache = self._caches.get(candidate)
        if cache is None or not chain:
            return 0
        ends = self._ends
        if ends[len(chain)] > cache.capacity:
            chain = chain[: bisect_right(ends, cache.capacity) - 1]
        blocks = cache.blocks
        kept = 0
        for block in chain:
            if block not in blocks:
                break
            kept += 1
        new = len(chain) - kept
        if new:
            self._record(cache, chain[kept:] if kept else chain, self._sizes[kept : len(chain)])
        # Those that stay, as the most recently used; the first block last.
        take = blocks.pop
        for block in chain[kept - 1 :: -1] if kept else ():
            blocks[block] = take(block)
        if cache.used > cache.capacity:
            self._make_room(cache, cache.capacity // _EVICTED_AT_ONCE)
        return new

    def put(self, candidate: Candidate, blocks: Sequence[int]) -> None:
        """It has these blocks, which follow one another, and said so itself."""
        cache = self._caches.get(candidate)
        if cache is not None:
            self._record(cache, blocks, self._sizes[: len(blocks)])
            self._make_room(cache, cache.capacity // _EVICTED_AT_ONCE)

    def remove(self, candidate: Candidate, blocks: Iterable[int]) -> None:
        """These did not get there after all."""
        cache = self._caches.get(candidate)
        if cache is None:
            return
        gone = [block for block in blocks if block in cache.blocks]
        self._drop(cache, gone)
        for block in gone:
            cache.used -= cache.blocks.pop(block)

    def _record(self, cache: _Cache, chain: Sequence[int], sizes: Sequence[int]) -> None:
        # Of a long prompt most blocks are new, and looking one up mostly means waiting for memory:
        # so each is looked up once in each dictionary.
        holders, blocks, bit = self._holders, cache.blocks, cache.bit
        before = after = 0
        used, count = cache.used, len(blocks)
        for block, size in zip(reversed(chain), reversed(sizes), strict=True):
            old = holders.setdefault(block, bit)
            if not old & bit:
                # Neighbours mostly have the same holders: then they share one number.
                if old != before:
                    before, after = old, old | bit
                holders[block] = after
            blocks[block] = size
            if len(blocks) > count:
                count += 1
                used += size
            else:
                # It was there: from now on as the most recently used.
                blocks[block] = blocks.pop(block)
        cache.used = used

    def _make_room(self, cache: _Cache, more: int) -> None:
        used = cache.used
        if used <= cache.capacity:
            return
        target = max(0, cache.capacity - more)
        blocks = cache.blocks
        oldest: list[int] = []
        for block, size in blocks.items():
            if used <= target:
                break
            oldest.append(block)
            used -= size
        self._drop(cache, oldest)
        for block in oldest:
            del blocks[block]
        cache.used = used

    def _drop(self, cache: _Cache, blocks: Iterable[int]) -> None:
        holders, bit = self._holders, cache.bit
        for block in blocks:
            left = holders.pop(block) & ~bit
            if left:
                holders[block] = left
