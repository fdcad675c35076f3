"""A heap whose entries can be taken back."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")

_SPARE = 64
"""So many dead entries are always allowed."""


class Entry(Generic[T]):
    """A place in a heap."""

    __slots__ = ("item", "key", "order")

    def __init__(self, key: float, order: int, item: T) -> None:
        self.key = key
        self.order = order
        self.item: T | None = item
        """None: taken back."""

    def __lt__(self, other: Entry[T]) -> bool:
        return self.key < other.key or (self.key == other.key and self.order < other.order)


class Heap(Generic[T]):
    """The least key first; of equal keys the oldest. Adding is O(log n), removing O(1)."""

    __slots__ = ("_dead", "_entries", "_order")

    def __init__(self) -> None:
        self._entries: list[Entry[T]] = []
        self._order = itertools.count()
        self._dead = 0

    def __len__(self) -> int:
        return len(self._entries) - self._dead

    def add(self, key: float, item: T) -> Entry[T]:
        entry = Entry(key, next(self._order), item)
        heapq.heappush(self._entries, entry)
        return entry

    def remove(self, entry: Entry[T]) -> None:
        """Take an entry back. One that is not in the heap any more may be given."""
        if entry.item is None:
            return
        entry.item = None
        self._dead += 1
        if self._dead > _SPARE + len(self._entries) // 2:
            # They would fill the memory of a queue in which nobody stays to the end.
            self._entries = [entry for entry in self._entries if entry.item is not None]
            heapq.heapify(self._entries)
            self._dead = 0

    def first(self) -> tuple[float, T] | None:
        """The least key and what has it."""
        entries = self._entries
        while entries:
            entry = entries[0]
            if entry.item is not None:
                return entry.key, entry.item
            heapq.heappop(entries)
            self._dead -= 1
        return None
