"""What servers say themselves of their prefix caches (vLLM's KV cache events).

An event names blocks by the server's own hashes, which nobody else can compute, but it has their
token ids too. So they are indexed by content, and found by prompts that come as token ids. Text
would need the server's tokenizer; for it, the approximate index stays in use.

Only a server that was heard from its first event on, or from the last time that it cleared its
cache, is taken at its word. After a gap in the numbering it may have evicted anything, so all that
is known of it is forgotten. Until it clears its cache or is started again, the approximate index
serves for it.

A server may have several caches, one for each data-parallel rank, each of which publishes for
itself. Who sends a request cannot tell which rank will take it, so the server has what any of its
ranks has, and is taken at its word when all of them can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.prefix.blocks import even_chain_of, seed_of
from extproc.picking.scheduling.prefix.index import Places, PrefixIndex
from extproc.picking.scheduling.prefix.match import PrefixMatch
from extproc.picking.scheduling.prefix.prompt import token_bytes

BlockHash = int | bytes
"""A block as the server names it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks were added that follow one another; the first follows ``parent`` (None: nothing)."""

    hashes: Sequence[BlockHash]
    parent: BlockHash | None
    token_ids: Sequence[int]
    block_size: int
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Removed:
    hashes: Sequence[BlockHash]


@dataclass(frozen=True, slots=True)
class Cleared:
    """Everything was removed."""


CacheEvent = Stored | Removed | Cleared


class _Rank:
    """One cache of a server, and who publishes its events."""

    __slots__ = ("complete", "ours", "sequence")

    def __init__(self) -> None:
        self.ours: dict[BlockHash, int] = {}
        """The hash of the content, by the server's name of the block."""
        self.sequence = -1
        self.complete = False
        """Nothing of what it has was missed."""


class _Server:
    __slots__ = ("block_size", "held", "ranks")

    def __init__(self, ranks: Collection[int]) -> None:
        self.block_size = 0
        self.ranks = {rank: _Rank() for rank in ranks}
        self.held: Counter[int] = Counter()
        """How many of its blocks have this content: ranks may have the same."""

    @property
    def complete(self) -> bool:
        return all(rank.complete for rank in self.ranks.values())


class ExactIndex:
    """The caches of the servers whose events arrive."""

    def __init__(self, places: Places, max_entries: int) -> None:
        self._places = places
        self._max_entries = max_entries
        self._servers: dict[Candidate, _Server] = {}
        self._indexes: dict[int, PrefixIndex] = {}
        """By the size of a block in tokens."""
        self.live = 0
        """The bits of the servers that are taken at their word."""

    def __len__(self) -> int:
        return sum(len(index) for index in self._indexes.values())

    def keep(self, candidates: Collection[Candidate]) -> None:
        """Forget all other endpoints."""
        for candidate in [c for c in self._servers if c not in candidates]:
            self.lost(candidate)

    def lost(self, candidate: Candidate) -> None:
        """Its events do not arrive any more: nothing that is known of it can be relied on."""
        if self._servers.pop(candidate, None) is not None:
            self.live &= ~candidate.bit
            self._follow()

    def follow(self, candidate: Candidate, ranks: Collection[int]) -> None:
        """Events of these ranks are going to arrive; what was known before is forgotten."""
        self.lost(candidate)
        self._servers[candidate] = _Server(ranks)

    def began(self, candidate: Candidate, rank: int) -> None:
        """The rank has published nothing yet: its cache is empty."""
        if (found := self._rank_of(candidate, rank)) is not None:
            self._clear(candidate, *found, complete=True)

    def heard(
        self, candidate: Candidate, rank: int, sequence: int, events: Sequence[CacheEvent]
    ) -> None:
        """A batch of events of a rank that is followed. Batches are numbered one by one."""
        if (found := self._rank_of(candidate, rank)) is None:
            return
        server, cache = found
        if sequence == 0:
            self._clear(candidate, server, cache, complete=True)
        elif sequence != cache.sequence + 1:
            self._clear(candidate, server, cache, complete=False)
        cache.sequence = sequence
        for event in events:
            if isinstance(event, Stored):
                self._stored(candidate, server, cache, event)
            elif isinstance(event, Removed):
                names = [name for name in event.hashes if name in cache.ours]
                self._drop(candidate, server, [cache.ours.pop(name) for name in names])
            else:
                self._clear(candidate, server, cache, complete=True)

    def missed(self, candidate: Candidate, rank: int) -> None:
        """A batch of the rank's events came to nothing: what it holds is not known any more."""
        if (found := self._rank_of(candidate, rank)) is not None:
            self._clear(candidate, *found, complete=False)

    def knows(self, candidate: Candidate) -> bool:
        """Whether the server is taken at its word."""
        server = self._servers.get(candidate)
        return server is not None and server.complete

    def _rank_of(self, candidate: Candidate, rank: int) -> tuple[_Server, _Rank] | None:
        server = self._servers.get(candidate)
        cache = server.ranks.get(rank) if server is not None else None
        return (server, cache) if server is not None and cache is not None else None

    def corrected(self, match: PrefixMatch, data: bytes, model: str) -> PrefixMatch:
        """``match`` with what the servers themselves say of this prompt of token ids."""
        for size, index in self._indexes.items():
            live = 0
            base = 0
            for candidate, server in self._servers.items():
                if server.complete and server.block_size == size:
                    live |= candidate.bit
                    if model not in candidate.known_adapters:
                        base |= candidate.bit
            for bits, adapter in ((base, ""), (live & ~base, model)):
                if bits:
                    exact = index.match(even_chain_of(data, seed_of(adapter, ""), size))
                    match = match.corrected(exact, bits)
        return match

    def _stored(self, candidate: Candidate, server: _Server, cache: _Rank, event: Stored) -> None:
        size = event.block_size
        if size < 1:
            return
        if size != server.block_size:
            for other in server.ranks.values():
                self._clear(candidate, server, other, complete=other.complete)
            server.block_size = size
            self._follow()
        if event.parent is None:
            parent = seed_of(event.adapter, "")
        elif (known := cache.ours.get(event.parent)) is not None:
            parent = known
        else:
            return
        chain = even_chain_of(token_bytes(event.token_ids), parent, size)
        names = event.hashes
        if len(chain) != len(names):
            return
        if again := [name for name in names if name in cache.ours]:
            self._drop(candidate, server, [cache.ours.pop(name) for name in again])
        server.held.update(chain)
        cache.ours.update(zip(names, chain, strict=True))
        index = self._indexes[size]
        index.put(candidate, chain)
        if len(server.held) > 2 * max(1, index.capacity_of(candidate)):
            # It never says what it removes; nothing may grow for ever.
            self._clear(candidate, server, cache, complete=False)

    def _drop(self, candidate: Candidate, server: _Server, hashes: Sequence[int]) -> None:
        """These blocks went; their contents are gone where no other block has them."""
        held = server.held
        held.subtract(hashes)
        gone = [hash_ for hash_ in {*hashes} if held[hash_] <= 0]
        for hash_ in gone:
            del held[hash_]
        if (index := self._indexes.get(server.block_size)) is not None:
            index.remove(candidate, gone)

    def _clear(
        self, candidate: Candidate, server: _Server, cache: _Rank, *, complete: bool
    ) -> None:
        blocks = [*cache.ours.values()]
        cache.ours.clear()
        cache.complete = complete
        self._drop(candidate, server, blocks)
        self._count_live()

    def _follow(self) -> None:
        """Tell each index its servers."""
        share = self._max_entries // max(1, len(self._servers))
        by_size: dict[int, list[Candidate]] = {}
        for candidate, server in self._servers.items():
            if server.block_size:
                by_size.setdefault(server.block_size, []).append(candidate)
        for size in [*self._indexes]:
            if size not in by_size:
                self._indexes.pop(size).follow({})
        for size, candidates in by_size.items():
            index = self._indexes.get(size)
            if index is None:
                index = PrefixIndex(size, self._max_entries, self._places, even=True)
                self._indexes[size] = index
            index.follow(dict.fromkeys(candidates, share * size))
        self._count_live()

    def _count_live(self) -> None:
        self.live = 0
        for candidate, server in self._servers.items():
            if server.complete and server.block_size:
                self.live |= candidate.bit
