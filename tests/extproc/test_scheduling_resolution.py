"""Which model a request means, and how important it is."""

from __future__ import annotations

import random
from collections import Counter

from extproc.picking.scheduling import Resolver
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


def target(
    resolver: Resolver,
    asked: str,
    headers: dict[str, str] | None = None,
    seed: int = 0,
) -> str:
    return resolver.target(asked, headers or {}, random.Random(seed))


def test_an_unknown_model_goes_on_under_its_own_name() -> None:
    assert target(Resolver(), "llama") == "llama"
    assert Resolver().priority("llama", "") == 0


def test_traffic_is_split_by_weight() -> None:
    resolver = Resolver([model("chat", TargetModel("v1", 3), TargetModel("v2", 1))])
    rng = random.Random(1)
    drawn = Counter(resolver.target("chat", {}, rng) for _ in range(8000))
    assert set(drawn) == {"v1", "v2"}
    assert 0.72 < drawn["v1"] / 8000 < 0.78


def test_a_target_of_weight_zero_gets_nothing_unless_all_are_zero() -> None:
    some = Resolver([model("m", TargetModel("on", 1), TargetModel("off", 0))])
    none = Resolver([model("m", TargetModel("a", 0), TargetModel("b", 0))])
    assert {target(some, "m", seed=n) for n in range(200)} == {"on"}
    assert {target(none, "m", seed=n) for n in range(200)} == {"a", "b"}


def test_a_model_without_targets_is_itself() -> None:
    assert target(Resolver([model("chat")]), "chat") == "chat"


def test_criticality_is_a_priority() -> None:
    resolver = Resolver(
        [
            model("now", criticality=Criticality.CRITICAL),
            model("soon", criticality=Criticality.STANDARD),
            model("whenever", criticality=Criticality.SHEDDABLE),
        ]
    )
    assert resolver.priority("now", "") > 0
    assert resolver.priority("soon", "") == 0
    assert resolver.priority("whenever", "") < 0


def test_an_objective_that_the_request_names_goes_before_the_criticality() -> None:
    resolver = Resolver([model("m", criticality=Criticality.SHEDDABLE)], (), {"gold": 10})
    assert resolver.priority("m", "gold") == 10
    assert resolver.priority("m", "no-such") == -1


def test_of_two_objects_for_one_name_the_older_wins() -> None:
    resolver = Resolver(
        [
            model("m", TargetModel("newer"), created="2025-02-01T00:00:00Z", object_name="a"),
            model("m", TargetModel("older"), created="2025-01-01T00:00:00Z", object_name="b"),
        ]
    )
    assert target(resolver, "m") == "older"


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
    assert target(resolver, "m") == "older"
    assert target(resolver, "else") == "generic"


def test_a_rewrite_goes_before_the_header_and_the_header_before_a_legacy_model() -> None:
    header = {"x-gateway-model-name-rewrite": "from-header"}
    rewrites = [rewrite("r", RewriteRule(("ruled",), (TargetModel("from-rule"),)))]
    resolver = Resolver([model("legacy", TargetModel("from-legacy"))], rewrites)
    assert target(resolver, "ruled", header) == "from-rule"
    assert target(resolver, "legacy", header) == "from-header"
    assert target(resolver, "legacy") == "from-legacy"


def test_a_request_without_a_model_is_not_given_one() -> None:
    resolver = Resolver((), [rewrite("any", RewriteRule((), (TargetModel("x"),)))])
    assert target(resolver, "", {"x-gateway-model-name-rewrite": "y"}) == ""


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
    assert mine.priority("m", "silver") == 0
    assert other.priority("m", "silver") == 3
