"""List, then watch: keeping one collection of the cache as the API server has it.

client-go calls this a reflector. The rules are here, without a socket or a clock:

- List all pages, then watch from the list's resource version; bookmarks move it on.
- A watch that ends is taken up where it ended. 410 (that version is forgotten) leads to a new list,
  which replaces everything at once: nobody ever sees half of it.
- A watch that is refused again and again leads to a new list too: whatever is wrong with our
  version, that mends it. That the server is away does not: it may know our version when it is back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pools.kubernetes.cache import Cache
from pools.kubernetes.kinds import Item, Scope
from pools.model import ObjectName

RELIST_AFTER = 3
"""Refusals in a row after which a watch is not retried from its version."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """Ask for a page of the list; ``limit`` None is all that is left."""

    limit: int | None
    token: str = ""
    """From the page before; empty for the first one."""


@dataclass(frozen=True, slots=True)
class WatchFrom:
    """Ask for what happened after this resource version."""

    version: str


class Reflection:
    """One collection. Ask for :attr:`next`, then tell what came of it.

    What changes the cache returns whether it did.
    """

    def __init__(self, cache: Cache, scope: Scope, page_size: int) -> None:
        self._cache = cache
        self._scope = scope
        self._page_size = page_size
        self._pages: list[Item] = []
        self._refusals = 0
        self.next: ListPage | WatchFrom = ListPage(page_size)
        self.listed = False
        """Whether the cache holds a whole list, be it an old one."""
        self.failures = 0
        """In a row: without an event or a whole watch between them."""

    def page(self, items: Iterable[Item], version: str, token: str) -> bool:
        """A page of the list came; ``token`` leads to the next one, if there is one."""
        self._pages += items
        if token:
            self.next = ListPage(self._page_size, token)
            return False
        items, self._pages = self._pages, []
        changed = self._cache.replace(self._scope, items) or not self.listed
        self.listed = True
        self.next = WatchFrom(version)
        return changed

    def put(self, item: Item, version: str) -> bool:
        """The watch says that an object is new or has changed."""
        self.bookmark(version)
        return self._cache.put(self._scope, item)

    def remove(self, name: ObjectName, version: str) -> bool:
        """The watch says that an object was deleted."""
        self.bookmark(version)
        return self._cache.remove(self._scope, name)

    def bookmark(self, version: str) -> None:
        """The watch has come to this version."""
        self.failures = self._refusals = 0
        if version:
            self.next = WatchFrom(version)

    def expired(self) -> None:
        """The server no longer knows our version (410), or nothing fits any more: start anew.

        If it was the token of a page, the list took too long in pieces, so it is asked for in one.
        """
        self.failures += 1
        in_pages = isinstance(self.next, ListPage) and bool(self.next.token)
        self._pages = []
        self.next = ListPage(None if in_pages else self._page_size)

    def ended(self) -> None:
        """A watch ended as it should, after some time."""
        self.failures = self._refusals = 0

    def failed(self, *, answered: bool) -> None:
        """A request failed, or its answer broke off. ``answered``: the server answered, but not
        with what was asked for."""
        self.failures += 1
        if answered:
            self._refusals += 1
        if self._refusals >= RELIST_AFTER and isinstance(self.next, WatchFrom):
            self._refusals = 0
            self.next = ListPage(self._page_size)
