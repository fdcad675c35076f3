"""What clients had accepted when their last stream ended, as far as their requests tell it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from xds.resource import Resource

Accepted = Mapping[str, Resource]


@dataclass(frozen=True, slots=True)
class Recollection:
    has: Accepted
    certain: bool
    """False: it may have taken some of what it rejected since."""


class Memory:
    """Sets that were accepted, by version, for State-of-the-World clients that come back.

    A version is a hash of what was sent, so it tells what the client has, whoever sent it.
    """

    def __init__(self, sets: int = 64, doubts: int = 10_000) -> None:
        self._sets: OrderedDict[tuple[str, str], Accepted] = OrderedDict()
        self._doubts: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._most_sets = sets
        self._most_doubts = doubts

    def acked(self, node_id: str, type_url: str, version: str, has: Accepted) -> None:
        self._doubts.pop((node_id, type_url), None)
        key = (type_url, version)
        if key not in self._sets:
            self._sets[key] = dict(has)
            if len(self._sets) > self._most_sets:
                self._sets.popitem(last=False)
        self._sets.move_to_end(key)

    def nacked(self, node_id: str, type_url: str) -> None:
        self._doubts[node_id, type_url] = None
        if len(self._doubts) > self._most_doubts:
            self._doubts.popitem(last=False)

    def recall(
        self, node_id: str, type_url: str, version: str, current: Mapping[str, Accepted]
    ) -> Recollection | None:
        """What the node has that says it has this version; None where nobody knows. ``current``
        are sets by version that are known anyway."""
        has = self._sets.get((type_url, version), current.get(version))
        if has is None:
            return None
        return Recollection(has, (node_id, type_url) not in self._doubts)
