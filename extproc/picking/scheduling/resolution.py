"""Which model a request means, and how important it is.

Order for the model: an InferenceModelRewrite of the pool, then the request's own rewrite header,
then the legacy InferenceModel, then the name as it is. For the priority: the InferenceObjective
that the request names, then the legacy InferenceModel's criticality, then 0.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence

from pools.model import (
    Criticality,
    InferenceModel,
    InferenceModelRewrite,
    ObjectName,
    TargetModel,
    World,
    seniority,
)

REWRITE_HEADER = "x-gateway-model-name-rewrite"

PRIORITY_OF: Mapping[Criticality, int] = {
    Criticality.CRITICAL: 1,
    Criticality.STANDARD: 0,
    Criticality.SHEDDABLE: -1,
}


class Targets:
    """A weighted choice of target models. If all weights are zero, all are equal."""

    __slots__ = ("_bounds", "_names")

    def __init__(self, targets: Sequence[TargetModel]) -> None:
        weights = [max(0, target.weight) for target in targets]
        if not any(weights):
            weights = [1] * len(targets)
        self._names = [target.name for target in targets]
        self._bounds = list(itertools.accumulate(weights))

    def draw(self, rng: random.Random) -> str:
        if len(self._names) == 1:
            return self._names[0]
        return self._names[bisect(self._bounds, rng.random() * self._bounds[-1])]


class Resolver:
    """The model names and objectives of one pool."""

    __slots__ = ("_any_model", "_models", "_objectives", "_rewrites")

    def __init__(
        self,
        models: Iterable[InferenceModel] = (),
        rewrites: Iterable[InferenceModelRewrite] = (),
        objectives: Mapping[str, int] | None = None,
    ) -> None:
        self._models: dict[str, tuple[Targets, int]] = {}
        for model in sorted(models, key=lambda item: seniority(item.created, item.name)):
            targets = model.targets or (TargetModel(model.model_name),)
            self._models.setdefault(
                model.model_name, (Targets(targets), PRIORITY_OF[model.criticality])
            )
        self._rewrites: dict[str, Targets] = {}
        self._any_model: Targets | None = None
        for rewrite in sorted(rewrites, key=lambda item: seniority(item.created, item.name)):
            for rule in rewrite.rules:
                if not rule.targets:
                    continue
                chosen = Targets(rule.targets)
                for name in rule.models:
                    self._rewrites.setdefault(name, chosen)
                if not rule.models and self._any_model is None:
                    self._any_model = chosen
        self._objectives = dict(objectives or {})

    @classmethod
    def of_pool(cls, world: World, pool: ObjectName) -> Resolver:
        return cls(
            (model for model in world.models if model.pool == pool),
            (rewrite for rewrite in world.rewrites if rewrite.pool == pool),
            {
                objective.name.name: objective.priority
                for objective in world.objectives
                if objective.pool == pool
            },
        )

    @property
    def names(self) -> frozenset[str]:
        """The model names that the pool's configuration mentions."""
        return frozenset(self._models) | frozenset(self._rewrites)

    def priority(self, model: str, objective: str) -> int:
        """How important a request for this model is that names this objective (``""``: none)."""
        legacy = self._models.get(model)
        priority = legacy[1] if legacy is not None else 0
        return self._objectives.get(objective, priority) if objective else priority

    def target(self, model: str, headers: Mapping[str, str], rng: random.Random) -> str:
        """Draw the model that the server is asked for. A request that names no model (``""``) is
        not rewritten."""
        if not model:
            return model
        rewrite = self._rewrites.get(model, self._any_model)
        if rewrite is not None:
            return rewrite.draw(rng)
        if REWRITE_HEADER in headers:
            return headers[REWRITE_HEADER] or model
        legacy = self._models.get(model)
        return legacy[0].draw(rng) if legacy is not None else model
