"""A whole configuration for one kind of node, and where it comes from.

The server core knows nothing of pools: whoever embeds it implements :class:`SnapshotProvider`, and
calls the server's ``refresh`` when what it provides has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Protocol

from xds.consistency import dangling
from xds.resource import Resource

_PROBLEMS_NAMED = 10


class InconsistentError(ValueError):
    """Resources refer to what is not there; names them and what is missing."""


@dataclass(frozen=True, slots=True)
class Node:
    """Who is asking, from the first request of a stream."""

    id: str
    cluster: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    locality: str = ""
    """``region/zone/sub_zone``, empty parts left out."""
    user_agent: str = ""
    version: tuple[int, int, int] | None = None
    """Of Envoy; None for clients that do not say."""
    extensions: frozenset[str] = frozenset()
    """Names of the extensions compiled into this Envoy; empty where the client does not say."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable set of resources, by type URL and name.

    Raises InconsistentError where a resource refers to one that is missing.
    """

    resources: Mapping[str, Mapping[str, Resource]]
    version: str
    """A hash of all resource versions: equal for equal content."""
    cause: str = ""
    """Why it was made, for people: ``pools.yaml changed: InferencePool default/llama``."""
    notes: tuple[str, ...] = ()
    """What was left out or replaced for nodes of this kind, and why."""

    def __post_init__(self) -> None:
        problems = dangling(self.resources)
        text = "; ".join(islice(problems, _PROBLEMS_NAMED))
        if text:
            more = sum(1 for _ in problems)
            raise InconsistentError(text + (f"; and {more} more" if more else ""))

    @classmethod
    def of(
        cls, resources: Iterable[Resource], *, cause: str = "", notes: Iterable[str] = ()
    ) -> Snapshot:
        """Build a snapshot. Raises ValueError for two resources of one type and name, and
        InconsistentError for one that refers to what is missing."""
        by_type: dict[str, dict[str, Resource]] = {}
        for resource in resources:
            named = by_type.setdefault(resource.type_url, {})
            if resource.name in named:
                raise ValueError(f"two resources {resource.name!r} of type {resource.type_url}")
            named[resource.name] = resource
        digest = hashlib.sha256()
        for type_url in sorted(by_type):
            for name in sorted(by_type[type_url]):
                digest.update(f"{type_url}\0{name}\0{by_type[type_url][name].version}\0".encode())
        return cls(
            MappingProxyType({t: MappingProxyType(named) for t, named in by_type.items()}),
            digest.hexdigest()[:16],
            cause,
            tuple(notes),
        )

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        return self.resources.get(type_url, {})


class SnapshotProvider(Protocol):
    """Says which nodes get which resources."""

    def group(self, node: Node) -> str:
        """The group that a node belongs to, for people and for metrics. Few distinct values."""

    def snapshot(self, node: Node) -> Snapshot | None:
        """What the node gets now. None: nothing is known yet, so the node must wait (an empty
        answer would delete what it has). Called often: return the same object until it changes.
        Raises PermissionError for a node that may have nothing. Where it raises anything else, the
        node keeps what it has, and the status of its group says why."""
