"""Which model a request means, and how important it is."""

from __future__ import annotations

import random
from collections import Counter

from extproc.scheduling import Resolved, Resolver
from pools.model import (
    Criticality,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    ObjectName,
    RewriteRule,
    TargetModel,
    World,
)

POOL = ObjectName("default", "llama")
OTHER = ObjectName("default", "other")


def named(name: str) -> ObjectName:
    return ObjectName("default", name)


def model(
    name: str,
    *targets: TargetModel,
    criticality: Criticality = Criticality.STANDARD,
    created: str = "",
    object_name: str = "",
) -> InferenceModel:
    return InferenceModel(
        named(object_name or name), POOL, name, criticality, targets, created=created
    )


def rewrite(name: str, *rules: RewriteRule, created: str = "") -> InferenceModelRewrite:
    return InferenceModelRewrite(named(name), POOL, rules, created)


def resolve(
    resolver: Resolver,
    asked: str,
    headers: dict[str, str] | None = None,
    objective: str = "",
    seed: int = 0,
) -> Resolved:
    return resolver.resolve(asked, headers or {}, objective, random.Random(seed))


def test_an_unknown_model_goes_on_under_its_own_name() -> None:
    assert resolve(Resolver(), "llama") == Resolved("llama", 0, known=False)


def test_traffic_is_split_by_weight() -> None:
    resolver = Resolver([model("chat", TargetModel("v1", 3), TargetModel("v2", 1))])
    rng = random.Random(1)
    drawn = Counter(resolver.resolve("chat", {}, "", rng).model for _ in range(8000))
    assert set(drawn) == {"v1", "v2"}
    assert 0.72 < drawn["v1"] / 8000 < 0.78


def test_a_target_of_weight_zero_gets_nothing_unless_all_are_zero() -> None:
    some = Resolver([model("m", TargetModel("on", 1), TargetModel("off", 0))])
    none = Resolver([model("m", TargetModel("a", 0), TargetModel("b", 0))])
    assert {resolve(some, "m", seed=n).model for n in range(200)} == {"on"}
    assert {resolve(none, "m", seed=n).model for n in range(200)} == {"a", "b"}


def test_a_model_without_targets_is_itself() -> None:
    assert resolve(Resolver([model("chat")]), "chat") == Resolved("chat", 0, known=True)


def test_criticality_is_a_priority() -> None:
    resolver = Resolver(
        [
            model("now", criticality=Criticality.CRITICAL),
            model("soon", criticality=Criticality.STANDARD),
            model("whenever", criticality=Criticality.SHEDDABLE),
        ]
    )
    assert resolve(resolver, "now").priority > 0
    assert resolve(resolver, "soon").priority == 0
    assert resolve(resolver, "whenever").priority < 0


def test_an_objective_that_the_request_names_goes_before_the_criticality() -> None:
    resolver = Resolver([model("m", criticality=Criticality.SHEDDABLE)], (), {"gold": 10})
    assert resolve(resolver, "m", objective="gold").priority == 10
    assert resolve(resolver, "m", objective="no-such").priority == -1


def test_of_two_objects_for_one_name_the_older_wins() -> None:
    resolver = Resolver(
        [
            model("m", TargetModel("newer"), created="2025-02-01T00:00:00Z", object_name="a"),
            model("m", TargetModel("older"), created="2025-01-01T00:00:00Z", object_name="b"),
        ]
    )
    assert resolve(resolver, "m").model == "older"


def test_an_exact_rewrite_goes_before_a_generic_one_and_an_older_before_a_newer() -> None:
    resolver = Resolver(
        (),
        [
            rewrite("any", RewriteRule((), (TargetModel("generic"),)), created="2024"),
            rewrite("new", RewriteRule(("m",), (TargetModel("newer"),)), created="2026"),
            rewrite(
                "old",
                RewriteRule(("m",), (TargetModel("older"),)),
                RewriteRule(("m",), (TargetModel("later rule"),)),
                created="2025",
            ),
        ],
    )
    assert resolve(resolver, "m").model == "older"
    assert resolve(resolver, "else").model == "generic"
    assert resolve(resolver, "else").known is False


def test_a_rewrite_goes_before_the_header_and_the_header_before_a_legacy_model() -> None:
    header = {"x-gateway-model-name-rewrite": "from-header"}
    rewrites = [rewrite("r", RewriteRule(("ruled",), (TargetModel("from-rule"),)))]
    resolver = Resolver([model("legacy", TargetModel("from-legacy"))], rewrites)
    assert resolve(resolver, "ruled", header).model == "from-rule"
    assert resolve(resolver, "legacy", header).model == "from-header"
    assert resolve(resolver, "legacy").model == "from-legacy"


def test_a_request_without_a_model_is_not_given_one() -> None:
    resolver = Resolver((), [rewrite("any", RewriteRule((), (TargetModel("x"),)))])
    assert resolve(resolver, "", {"x-gateway-model-name-rewrite": "y"}).model == ""


def test_a_pool_sees_only_what_refers_to_it() -> None:
    world = World(
        models=(model("m", TargetModel("mine")),),
        objectives=(
            InferenceObjective(named("gold"), POOL, 5),
            InferenceObjective(named("silver"), OTHER, 3),
        ),
    )
    mine, other = Resolver.of_pool(world, POOL), Resolver.of_pool(world, OTHER)
    assert mine.names == {"m"}
    assert other.names == frozenset()
    assert resolve(mine, "m", objective="silver").priority == 0
    assert resolve(other, "m", objective="silver").priority == 3
