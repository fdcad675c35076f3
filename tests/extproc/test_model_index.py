"""Which pool serves a model."""

from __future__ import annotations

import itertools

from extproc.picking.model_index import ModelIndex
from pools.model import (
    Endpoint,
    InferenceModel,
    InferenceModelRewrite,
    InferencePool,
    ObjectName,
    RewriteRule,
    TargetModel,
    World,
)

LLAMA, QWEN, GONE = (ObjectName("default", name) for name in ("llama", "qwen", "gone"))
POD_A, POD_B = (Endpoint(f"10.0.0.{n}", 8000, f"pod-{n}") for n in (1, 2))


def world(
    *named: InferenceModel | InferenceModelRewrite, qwen: tuple[Endpoint, ...] = (POD_B,)
) -> World:
    return World(
        pools={name: InferencePool(name, (8000,)) for name in (LLAMA, QWEN)},
        endpoints={LLAMA: (POD_A,), QWEN: qwen},
        models=tuple(one for one in named if isinstance(one, InferenceModel)),
        rewrites=tuple(one for one in named if isinstance(one, InferenceModelRewrite)),
    )


def named(model: str, pool: ObjectName, created: str = "", name: str = "m") -> InferenceModel:
    return InferenceModel(ObjectName("default", name), pool, model, created=created)


def rewrite(
    models: tuple[str, ...], pool: ObjectName, created: str = "", name: str = "r"
) -> InferenceModelRewrite:
    rule = RewriteRule(models, (TargetModel("target"),))
    return InferenceModelRewrite(ObjectName("default", name), pool, (rule,), created)


def index(described: World) -> ModelIndex:
    made = ModelIndex()
    made.update(described)
    return made


def test_a_model_belongs_to_the_pool_whose_object_names_it() -> None:
    found = index(world(named("chat", LLAMA), rewrite(("code",), QWEN)))
    assert (found.pool_of("chat"), found.pool_of("code")) == (LLAMA, QWEN)
    assert found.pool_of("gpt-9") is None


def test_of_two_objects_for_one_model_the_older_decides_in_whatever_order_they_come() -> None:
    claims: list[InferenceModel | InferenceModelRewrite] = [
        named("chat", LLAMA, "2026-02-01T00:00:00Z", "a"),
        rewrite(("chat",), QWEN, "2026-01-01T00:00:00Z"),
        named("chat", LLAMA, "", "b"),
    ]
    for order in itertools.permutations(claims):
        assert index(world(*order)).pool_of("chat") == QWEN


def test_an_object_of_a_pool_that_is_not_there_claims_nothing() -> None:
    found = index(world(named("chat", GONE), rewrite(("code",), GONE), rewrite((), GONE)))
    assert found.pool_of("chat") is found.pool_of("code") is found.pool_of("any") is None


def test_what_pods_report_counts_where_nothing_was_written_down() -> None:
    found = index(world(named("chat", LLAMA)))
    found.reported(POD_B.key, ["qwen-3", "sql", "chat"])
    assert found.pool_of("qwen-3") == found.pool_of("sql") == QWEN
    assert found.pool_of("chat") == LLAMA
    assert dict(found.models) == {"chat": LLAMA, "qwen-3": QWEN, "sql": QWEN}


def test_a_newer_report_replaces_the_last_and_a_failed_question_does_not() -> None:
    found = index(world())
    found.reported(POD_B.key, ["sql"])
    found.silent(POD_B.key)
    assert found.pool_of("sql") == QWEN
    found.reported(POD_B.key, ["poems"])
    assert (found.pool_of("sql"), found.pool_of("poems")) == (None, QWEN)


def test_a_model_that_pods_of_two_pools_report_goes_to_the_first_pool_by_name() -> None:
    for first, second in ((POD_A, POD_B), (POD_B, POD_A)):
        found = index(world())
        found.reported(first.key, ["shared"])
        found.reported(second.key, ["shared"])
        assert found.pool_of("shared") == LLAMA


def test_reports_last_as_long_as_their_endpoint() -> None:
    found = index(world())
    found.reported(POD_B.key, ["qwen-3"])
    found.update(world(named("chat", LLAMA)))
    assert found.pool_of("qwen-3") == QWEN
    found.update(world(qwen=()))
    assert found.pool_of("qwen-3") is None
    found.reported(POD_B.key, ["qwen-3"])
    assert found.pool_of("qwen-3") is None, "the last answer came after the endpoint had gone"


def test_a_rule_for_any_model_takes_what_nobody_else_knows() -> None:
    found = index(world(rewrite((), QWEN), named("chat", LLAMA)))
    found.reported(POD_A.key, ["llama-3"])
    assert found.pool_of("chat") == found.pool_of("llama-3") == LLAMA
    assert found.pool_of("gpt-9") == QWEN
    assert found.pool_of("") is None, "a request that names no model means none"


def test_it_is_complete_when_every_endpoint_was_asked() -> None:
    found = ModelIndex(expects_reports=True)
    found.update(world())
    assert not found.complete
    found.reported(POD_A.key, ["llama-3"])
    assert not found.complete
    found.silent(POD_B.key)
    assert found.complete
    assert index(world()).complete, "where nobody asks, nothing is waited for"
