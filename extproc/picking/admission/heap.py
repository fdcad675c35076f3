"""A heap whose entries can be taken back, and moved."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")

_SPARE = 64
"""So many dead places are always allowed."""


class Entry(Generic[T]):
    """What is in a heap, and at which of its places."""

    __slots__ = ("item", "order")

    def __init__(self, order: int, item: T) -> None:
        self.order = order
        self.item: T | None = item
        """None: taken back."""


class Heap(Generic[T]):
    """The least key first; of equal keys whoever was put there first. Adding and moving are
    O(log n), removing O(1)."""

    __slots__ = ("_entries", "_live", "_order")

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Entry[T]]] = []
        """Places; dead where the entry was taken back or is at another place by now."""
        self._order = itertools.count()
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def add(self, key: float, item: T) -> Entry[T]:
        order = next(self._order)
        entry = Entry(order, item)
        heapq.heappush(self._entries, (key, order, entry))
        self._live += 1
        return entry

    def move(self, entry: Entry[T], key: float) -> None:
        """Give another key to an entry that is in the heap; it is the newest of that key."""
        entries = self._entries
        order = next(self._order)
        if entries[0][2] is entry and entries[0][1] == entry.order:
            entry.order = order
            heapq.heapreplace(entries, (key, order, entry))
            return
        entry.order = order
        heapq.heappush(entries, (key, order, entry))
        self._tidy()

    def remove(self, entry: Entry[T]) -> None:
        """Take an entry back. One that is not in the heap any more may be given."""
        if entry.item is None:
            return
        entry.item = None
        self._live -= 1
        self._tidy()

    def first(self) -> tuple[float, T] | None:
        """The least key and what has it."""
        entries = self._entries
        while entries:
            key, order, entry = entries[0]
            if entry.item is not None and entry.order == order:
                return key, entry.item
            heapq.heappop(entries)
        return None

    def _tidy(self) -> None:
        entries = self._entries
        if len(entries) - self._live > _SPARE + len(entries) // 2:
            # Dead places would fill the memory of a queue in which nobody stays to the end.
            self._entries = [
                place
                for place in entries
                if place[2].item is not None and place[1] == place[2].order
            ]
            heapq.heapify(self._entries)
