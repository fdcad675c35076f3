"""What is wrong with a snapshot before anybody gets it."""

from __future__ import annotations

from dataclasses import dataclass

from xds.resource import CLUSTER, ENDPOINT, Resource
from xds.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Inconsistency:
    text: str
    fatal: bool
    """A reference into the void: a proxy would answer errors, or wait for ever."""


def _short(type_url: str) -> str:
    return type_url.rpartition(".")[2]


def _named(resource: Resource) -> str:
    origin = f" ({resource.origin})" if resource.origin else ""
    return f"{_short(resource.type_url)} {resource.name!r}{origin}"


def inconsistencies(snapshot: Snapshot) -> list[Inconsistency]:
    """Resources that refer to what is not there, and assignments that nobody refers to."""
    found = [
        Inconsistency(f"{_named(resource)} needs {_short(kind)} {name!r}, which is missing", True)
        for resource, (kind, name) in snapshot.dangling()
    ]
    clusters = snapshot.of_type(CLUSTER).values()
    if clusters:
        wanted = {n for c in clusters for kind, n in c.needs if kind == ENDPOINT}
        wanted.update(c.name for c in clusters if not c.needs)
        found.extend(
            Inconsistency(f"no cluster refers to {_named(resource)}", False)
            for name, resource in snapshot.of_type(ENDPOINT).items()
            if name not in wanted
        )
    return found
