"""Which resources of one type a client on one stream wants.

The rules are those of "How the client specifies what resources to return" in Envoy's description of
the xDS transport protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from xds.resource import VIRTUAL_HOST

WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Change:
    """What a request did to a subscription."""

    added: frozenset[str] = frozenset()
    """Names asked for, among them those asked for again: all must be answered."""
    dropped: frozenset[str] = frozenset()
    """Names no longer wanted, and not covered by a wildcard either."""
    uncovered: frozenset[str] = frozenset()
    """Names given up which the wildcard still covers: the client must be told their state."""
    wildcard_added: bool = False
    wildcard_dropped: bool = False


NOTHING = Change()


class Subscription:
    """Names and wildcard of one type.

    A client that has never named anything on this stream means everything by naming nothing (the
    legacy wildcard). Once it has named something that is over for good, and an empty list means
    nothing at all. The name ``*`` is the explicit wildcard; it may stand beside names.
    """

    __slots__ = ("_legacy", "_namespaces", "names", "wildcard")

    def __init__(self, type_url: str) -> None:
        self.names: set[str] = set()
        self.wildcard = False
        self._legacy = True
        self._namespaces = type_url == VIRTUAL_HOST

    @property
    def legacy(self) -> bool:
        """Whether the wildcard in force is the unspoken one."""
        return self._legacy and self.wildcard

    def is_namespace(self, name: str) -> bool:
        """VHDS: whether a name stands for all virtual hosts of a route configuration, which are
        named ``<route configuration>/<host>``."""
        return self._namespaces and "/" not in name

    def covers(self, name: str) -> bool:
        if self.wildcard or name in self.names:
            return True
        return self._namespaces and name.partition("/")[0] in self.names

    def replace(self, names: Collection[str]) -> Change:
        """SotW: the list in each request is the whole subscription."""
        wanted = set(names)
        if not wanted and self._legacy:
            return self._turn_on()
        self._legacy = False
        wildcard = WILDCARD in wanted
        wanted.discard(WILDCARD)
        had_wildcard = self.wildcard
        added = wanted - self.names
        gone = self.names - wanted
        self.names = wanted
        self.wildcard = wildcard
        return self._change(added, gone, had_wildcard)

    def update(self, subscribe: Iterable[str], unsubscribe: Iterable[str], first: bool) -> Change:
        """Delta: each request says what is added and what is given up.

        ``first`` is true for the first request of this type on the stream: naming nothing there is
        the legacy wildcard, which subscribing to a name later does not end (giving up ``*`` does).
        """
        added, gone = set(subscribe), set(unsubscribe)
        if first and not added and not gone:
            return self._turn_on()
        if first:
            self._legacy = False
        had_wildcard = self.wildcard
        if WILDCARD in gone:
            self.wildcard = False
        if WILDCARD in added:
            self.wildcard = True
            self._legacy = False
        added.discard(WILDCARD)
        gone = (gone - {WILDCARD} - added) & (self.names if not self.wildcard else gone)
        self.names -= gone
        self.names |= added
        return self._change(added, gone, had_wildcard)

    def _turn_on(self) -> Change:
        newly = not self.wildcard
        self.wildcard = True
        return Change(wildcard_added=newly)

    def _change(self, added: set[str], gone: set[str], had_wildcard: bool) -> Change:
        covered = frozenset(name for name in gone if self.covers(name))
        return Change(
            added=frozenset(added),
            dropped=frozenset(gone) - covered,
            uncovered=covered,
            wildcard_added=self.wildcard and not had_wildcard,
            wildcard_dropped=had_wildcard and not self.wildcard,
        )
