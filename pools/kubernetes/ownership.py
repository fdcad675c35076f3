"""Which Gateways and routes of a cluster are ours. What is wrong with others' is not our business.
Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pools.kubernetes.kinds import Item
from pools.model import Gateway, GatewayClass, HTTPRoute, ObjectName


@dataclass(frozen=True, slots=True)
class Ownership:
    controller: str
    classes: frozenset[ObjectName]
    """Of ours."""
    others: frozenset[ObjectName]
    """Gateways of other controllers, or of no class that exists."""

    @classmethod
    def among(cls, items: Collection[Item], controller: str) -> Ownership:
        """``controller`` is ours: it says which GatewayClasses are, these which Gateways."""
        values = [item.value for item in items]
        classes = frozenset(
            value.name
            for value in values
            if isinstance(value, GatewayClass) and value.controller == controller
        )
        others = {
            value.name
            for value in values
            if isinstance(value, Gateway) and ObjectName("", value.class_name) not in classes
        }
        others |= {
            item.name for item in items if item.value is None and _is_of_others(item, classes)
        }
        return cls(controller, classes, frozenset(others))

    def covers(self, item: Item) -> bool:
        """Whether an object is ours, or that of nobody else."""
        match item.value:
            case GatewayClass():
                return item.value.controller == self.controller
            case Gateway():
                return item.name not in self.others
            case HTTPRoute():
                return not item.value.of_others and not self._all_of_others(
                    parent.gateway for parent in item.value.parents
                )
            case None:
                return not _is_of_others(item, self.classes) and not self._all_of_others(
                    item.gateways
                )
        return True

    def _all_of_others(self, gateways: Iterable[ObjectName]) -> bool:
        named = frozenset(gateways)
        return bool(named) and named <= self.others


def _is_of_others(gateway: Item, classes: Collection[ObjectName]) -> bool:
    """Whether that is a Gateway which cannot be read, and not one of ours."""
    return bool(gateway.class_name) and ObjectName("", gateway.class_name) not in classes
