"""What the nodes of one group have acknowledged, on streams that are open and on earlier ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xds.protocol.view import SnapshotView
from xds.resource import Resource

Resources = Mapping[str, Resource]
"""By name."""


@dataclass(frozen=True, slots=True)
class AckedSet:
    """All resources of one type that a node has acknowledged."""

    resources: Resources
    certain: bool
    """False: it may have taken some of what it rejected since."""


class AckHistory:
    """Sets that were acknowledged, by version, for State-of-the-World clients that reconnect; and
    the last good form of each resource, for nodes that reject its present one.

    A version is a hash of what was sent, so it tells what the client has, whoever sent it.
    """

    def __init__(self, max_sets: int = 64, max_uncertain: int = 10_000) -> None:
        self._sets: OrderedDict[tuple[str, str], Resources] = OrderedDict()
        self._uncertain: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._last_good: dict[tuple[str, str], Resource] = {}
        self._max_sets = max_sets
        self._max_uncertain = max_uncertain

    def acked(self, node_id: str, type_url: str, version: str, resources: Resources) -> None:
        """A node has acknowledged a whole set."""
        self._uncertain.pop((node_id, type_url), None)
        key = (type_url, version)
        if key not in self._sets:
            self._sets[key] = dict(resources)
            if len(self._sets) > self._max_sets:
                self._sets.popitem(last=False)
        self._sets.move_to_end(key)

    def nacked(self, node_id: str, type_url: str) -> None:
        """A node has rejected a whole set, and may have taken some of it."""
        self._uncertain[node_id, type_url] = None
        if len(self._uncertain) > self._max_uncertain:
            self._uncertain.popitem(last=False)

    def acked_set(
        self, node_id: str, type_url: str, version: str, current: Mapping[str, Resources]
    ) -> AckedSet | None:
        """What the node has that says it has this version; None where nobody knows. ``current``
        are sets by version that are known anyway."""
        resources = self._sets.get((type_url, version), current.get(version))
        if resources is None:
            return None
        return AckedSet(resources, (node_id, type_url) not in self._uncertain)

    def accept(self, resources: Iterable[Resource], target: SnapshotView) -> None:
        """A node has accepted these; ``target`` is what its stream is to get in the end."""
        for resource in resources:
            if resource.name in target.of(resource.type_url).resources:
                self._last_good[resource.type_url, resource.name] = resource

    def last_good(self, type_url: str, name: str, target: SnapshotView) -> Resource | None:
        """The form of a resource that a node accepted last, for a node that rejects the present
        form and has no other. None too where it would refer to what is gone."""
        good = self._last_good.get((type_url, name))
        if good is None or any(need not in target.of(kind).resources for kind, need in good.needs):
            return None
        return good

    def forget(self, type_url: str, names: Iterable[str]) -> None:
        """These resources are no longer published."""
        for name in names:
            self._last_good.pop((type_url, name), None)
