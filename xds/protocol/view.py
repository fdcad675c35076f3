"""The resources of one type that a stream is meant to see, and how two such sets differ.

A thousand streams compare the same few sets, so what is computed once stays with the set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from xds.resource import Resource
from xds.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Difference:
    changed: frozenset[str]
    """New, or with another version."""
    removed: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        return self.changed | self.removed


NO_DIFFERENCE = Difference(frozenset(), frozenset())


def set_version(resources: Iterable[Resource]) -> str:
    """A version for a set of resources: equal for equal content, on every replica."""
    digest = hashlib.sha256()
    for name, version in sorted((r.name, r.version) for r in resources):
        digest.update(f"{name}\0{version}\0".encode())
    return digest.hexdigest()[:16]


class View:
    """An immutable set of resources of one type."""

    __slots__ = ("__weakref__", "_since", "_version", "resources")

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self.resources = resources
        self._version: str | None = None
        self._since: WeakKeyDictionary[View, Difference] = WeakKeyDictionary()

    @property
    def version(self) -> str:
        if self._version is None:
            self._version = set_version(self.resources.values())
        return self._version

    def since(self, older: View) -> Difference:
        """What must change to get from ``older`` to this."""
        if older is self:
            return NO_DIFFERENCE
        known = self._since.get(older)
        if known is None:
            before = older.resources
            known = Difference(
                frozenset(
                    name
                    for name, resource in self.resources.items()
                    if (old := before.get(name)) is None or old.version != resource.version
                ),
                frozenset(name for name in before if name not in self.resources),
            )
            self._since[older] = known
        return known

    def overlay(self, older: View) -> View:
        """This, and what only ``older`` has."""
        left = self.since(older).removed
        if not left:
            return self
        return View({**{name: older.resources[name] for name in left}, **self.resources})


EMPTY = View({})


class SnapshotView:
    """A snapshot as streams look at it: a view for each type."""

    __slots__ = ("snapshot", "views")

    def __init__(self, snapshot: Snapshot, previous: SnapshotView | None = None) -> None:
        """With ``previous``, types that did not change share its views."""
        self.snapshot = snapshot
        self.views: dict[str, View] = {}
        for type_url, resources in snapshot.resources.items():
            view = View(resources)
            if previous is not None:
                old = previous.of(type_url)
                if not view.since(old).names:
                    view = old
            self.views[type_url] = view

    def of(self, type_url: str) -> View:
        return self.views.get(type_url, EMPTY)
