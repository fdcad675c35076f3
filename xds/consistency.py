"""What is wrong with a set of resources before anybody gets it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from xds.resource import CLUSTER, ENDPOINT, Resource

ByType = Mapping[str, Mapping[str, Resource]]
"""Resources by type URL and name."""


def dangling(resources: ByType) -> Iterator[str]:
    """References into the void: a proxy would answer errors, or wait for ever."""
    nothing: Mapping[str, Resource] = {}
    for named in resources.values():
        for resource in named.values():
            for kind, name in resource.needs:
                if name not in resources.get(kind, nothing):
                    yield f"{_named(resource)} needs {_short(kind)} {name!r}, which is missing"


def unreferenced(resources: ByType) -> Iterator[str]:
    """Assignments that no cluster refers to. They do no harm."""
    clusters = resources.get(CLUSTER, {}).values()
    if not clusters:
        return
    wanted = {name for cluster in clusters for kind, name in cluster.needs if kind == ENDPOINT}
    wanted.update(cluster.name for cluster in clusters if not cluster.needs)
    for name, resource in resources.get(ENDPOINT, {}).items():
        if name not in wanted:
            yield f"no cluster refers to {_named(resource)}"


def _short(type_url: str) -> str:
    return type_url.rpartition(".")[2]


def _named(resource: Resource) -> str:
    origin = f" ({resource.origin})" if resource.origin else ""
    return f"{_short(resource.type_url)} {resource.name!r}{origin}"
