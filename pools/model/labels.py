"""Label selectors, as Kubernetes has them."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


class LabelOperator(enum.StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"

    @property
    def needs_values(self) -> bool:
        """The others take none."""
        return self in (LabelOperator.IN, LabelOperator.NOT_IN)


@dataclass(frozen=True, slots=True)
class LabelRequirement:
    """One of a label selector's ``matchExpressions``."""

    key: str
    operator: LabelOperator
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case LabelOperator.IN:
                return value in self.values
            case LabelOperator.NOT_IN:
                return value not in self.values
            case LabelOperator.EXISTS:
                return value is not None
            case LabelOperator.DOES_NOT_EXIST:
                return value is None


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All of its requirements must hold. Without any, everything is selected."""

    requirements: tuple[LabelRequirement, ...] = ()

    @classmethod
    def of(
        cls, labels: Mapping[str, str], expressions: Iterable[LabelRequirement]
    ) -> LabelSelector:
        """From ``matchLabels`` and ``matchExpressions``."""
        equal = (LabelRequirement(key, LabelOperator.IN, (v,)) for key, v in labels.items())
        return cls((*equal, *expressions))

    def selects(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.holds(labels) for requirement in self.requirements)
