"""The KV cache of one engine: a fixed number of blocks and an LRU prefix cache within them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class KVCache:
    """Counts blocks; knows the content only of full, hashed ones.

    A block is free, private to a sequence (partly filled, or a copy of a content that is cached
    already), or cached under the chained hash of its content. Cached blocks are shared by
    sequences; those that no sequence uses stay as a prefix cache until the space is needed, least
    recently used first.
    """

    def __init__(self, blocks: int) -> None:
        self.capacity = blocks
        self._private = 0
        self._users: dict[int, int] = {}  # cached block: sequences that use it
        self._unused: OrderedDict[int, None] = OrderedDict()  # cached, without users; oldest first

    @property
    def used(self) -> int:
        """Blocks that sequences hold."""
        return self._private + len(self._users) - len(self._unused)

    @property
    def available(self) -> int:
        """Blocks that could be handed out, evicting what is unused."""
        return self.capacity - self.used

    @property
    def cached(self) -> int:
        """Blocks whose content another request can reuse."""
        return len(self._users)

    def match(self, hashes: Sequence[int], limit: int) -> int:
        """How many of the first ``limit`` blocks of a chain are cached."""
        users = self._users
        count = 0
        for block in hashes[:limit]:
            if block not in users:
                break
            count += 1
        return count

    def take(self, count: int) -> bool:
        """Hand out private blocks, all or none."""
        if count > self.available:
            return False
        self._evict(count)
        self._private += count
        return True

    def admit(self, shared: Sequence[int], fresh: int, room: int) -> bool:
        """Share cached blocks and hand out ``fresh`` private ones, all or none; only where there
        is ``room`` for so many private ones (at least ``fresh``)."""
        users, unused = self._users, self._unused
        revived = sum(1 for block in shared if block in unused)
        if room > self.available - revived:
            return False
        for block in shared:
            users[block] += 1
            unused.pop(block, None)
        return self.take(fresh)

    def publish(self, block: int) -> bool:
        """Cache one private block, which its sequence goes on using.

        False where the same content is cached already: the block stays a private copy.
        """
        if block in self._users:
            return False
        self._private -= 1
        self._users[block] = 1
        return True

    def release(self, shared: Iterable[int], private: int) -> None:
        """Give back what a sequence held; ``shared`` last block first, so that the heads of chains,
        which more requests have in common, are evicted last."""
        users, unused = self._users, self._unused
        for block in shared:
            left = users[block] - 1
            users[block] = left
            if not left:
                unused[block] = None
        self._private -= private

    def forget(self) -> None:
        """Drop every cached block that no sequence uses."""
        for block in self._unused:
            del self._users[block]
        self._unused.clear()

    def _evict(self, count: int) -> None:
        for _ in range(count - (self.capacity - self._private - len(self._users))):
            block, _ = self._unused.popitem(last=False)
            del self._users[block]
