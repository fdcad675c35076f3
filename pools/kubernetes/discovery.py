"""Which kinds the API server has, and when one that it lacks is believed to be gone. Pure."""

from __future__ import annotations

from collections.abc import Collection as AnyOf
from collections.abc import Iterable, Mapping

import msgspec

from pools.kubernetes.kinds import Kind, group_path

ABSENT_FOR = 10.0
"""Seconds for which a kind must be missing before its objects go. A server that has just started
may not know all of its custom kinds yet; and when their definition is deleted, the objects are
deleted first, one by one."""


class _Resource(msgspec.Struct):
    name: str


class _Resources(msgspec.Struct):
    resources: list[_Resource] = []


def read_resources(document: bytes) -> frozenset[str]:
    """The plural names in the API server's answer to the path of a group and version. Raises
    msgspec.MsgspecError."""
    answer = msgspec.json.decode(document, type=_Resources)
    return frozenset(resource.name for resource in answer.resources)


def paths(kinds: Iterable[Kind]) -> frozenset[str]:
    """What to ask for. The core group is always there."""
    return frozenset(
        group_path(kind, version) for kind in kinds if kind.group for version in kind.versions
    )


class Discovery:
    """The version at which each kind is to be followed."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds = tuple(kinds)
        self._missing_since: dict[Kind, float] = {}
        self.present: dict[Kind, str] = {}
        """By kind. Empty before the first update."""

    def update(self, found: Mapping[str, AnyOf[str]], now: float) -> None:
        """Take in what the server has: plural names for each of :func:`paths`."""
        for kind in self._kinds:
            version = _version(kind, found)
            if version is not None:
                self.present[kind] = version
                self._missing_since.pop(kind, None)
            elif kind in self.present:
                since = self._missing_since.setdefault(kind, now)
                if now - since >= ABSENT_FOR:
                    del self.present[kind]
                    del self._missing_since[kind]

    @property
    def absent(self) -> tuple[Kind, ...]:
        return tuple(kind for kind in self._kinds if kind not in self.present)

    def deadline(self) -> float | None:
        """When to look again, because a kind may be believed to be gone then."""
        if not self._missing_since:
            return None
        return min(self._missing_since.values()) + ABSENT_FOR


def _version(kind: Kind, found: Mapping[str, AnyOf[str]]) -> str | None:
    if not kind.group:
        return kind.versions[0]
    for version in kind.versions:
        if kind.plural in found.get(group_path(kind, version), ()):
            return version
    return None
