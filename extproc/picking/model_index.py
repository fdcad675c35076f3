"""Which pool serves a model, for requests whose route names no pool.

What was written down decides before what pods say: an InferenceModel or InferenceModelRewrite that
names the model (of several, the older one, as everywhere), then the pods that report it, then a
rewrite rule that takes any model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pools.model import ObjectName, World, seniority

_Age = tuple[bool, str, ObjectName]


class ModelIndex:
    """Pools by model name. What pods report is kept from one World to the next."""

    def __init__(self, *, expects_reports: bool = False) -> None:
        """``expects_reports``: pods are asked which models they serve."""
        self._expects_reports = expects_reports
        self._named: dict[str, ObjectName] = {}
        self.created: dict[str, str] = {}
        """When a model was given its name, in RFC 3339, where an object names it."""
        self._any_model: ObjectName | None = None
        self._pools_of: dict[str, tuple[ObjectName, ...]] = {}
        """By endpoint key."""
        self._reports: dict[str, frozenset[str]] = {}
        """Model names by endpoint key."""
        self._reported: dict[str, ObjectName] = {}
        self._models: Mapping[str, ObjectName] | None = None
        """Put together when it is asked for, and kept until something changes."""

    def update(self, world: World) -> None:
        """Take over a World."""
        named: dict[str, tuple[_Age, ObjectName]] = {}
        any_model: tuple[_Age, ObjectName] | None = None

        def claim(model: str, age: _Age, pool: ObjectName) -> None:
            if model not in named or age < named[model][0]:
                named[model] = (age, pool)

        for model in world.models:
            if model.pool in world.pools:
                claim(model.model_name, seniority(model.created, model.name), model.pool)
        for rewrite in world.rewrites:
            if rewrite.pool not in world.pools:
                continue
            age = seniority(rewrite.created, rewrite.name)
            for rule in rewrite.rules:
                for name in rule.models:
                    claim(name, age, rewrite.pool)
                if not rule.models and (any_model is None or age < any_model[0]):
                    any_model = (age, rewrite.pool)
        self._named = {model: pool for model, (_, pool) in named.items()}
        self.created = {model: age[1] for model, (age, _) in named.items()}
        self._any_model = any_model[1] if any_model is not None else None
        pools_of: dict[str, list[ObjectName]] = {}
        for pool in sorted(world.pools):
            for endpoint in world.endpoints_of(pool):
                pools_of.setdefault(endpoint.key, []).append(pool)
        self._pools_of = {key: tuple(pools) for key, pools in pools_of.items()}
        self._reports = {key: names for key, names in self._reports.items() if key in pools_of}
        self._count_reports()

    def reported(self, endpoint: str, models: Iterable[str]) -> None:
        """The models that an endpoint says it serves."""
        names = frozenset(models)
        if endpoint in self._pools_of and self._reports.get(endpoint) != names:
            self._reports[endpoint] = names
            self._count_reports()

    def silent(self, endpoint: str) -> None:
        """An endpoint was asked in vain: what it last said stays."""
        if endpoint in self._pools_of:
            self._reports.setdefault(endpoint, frozenset())

    def _count_reports(self) -> None:
        found: dict[str, ObjectName] = {}
        for endpoint, names in self._reports.items():
            for pool in self._pools_of[endpoint]:
                for name in names:
                    found[name] = min(pool, found.get(name, pool))
        self._reported = found
        self._models = None

    def pool_of(self, model: str) -> ObjectName | None:
        """The pool that serves the model. Where pods of several pools report it, the first by
        name. None for a model that nobody knows, and for none (``""``)."""
        if not model:
            return None
        return self._named.get(model) or self._reported.get(model) or self._any_model

    def names(self, model: str) -> bool:
        """Whether an object or a pod names the model."""
        return model in self._named or model in self._reported

    @property
    def complete(self) -> bool:
        """Whether every endpoint has been asked. Before that, an unknown model may be a known one
        in a moment."""
        return not self._expects_reports or self._pools_of.keys() <= self._reports.keys()

    @property
    def models(self) -> Mapping[str, ObjectName]:
        """Every model that is known by name, with its pool, in the order of names. The same object
        for as long as nothing changes, also not in ``created``."""
        if self._models is None:
            self._models = dict(sorted({**self._reported, **self._named}.items()))
        return self._models
