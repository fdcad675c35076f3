"""``GET /v1/models`` of several pools at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from extproc.picking.director import Director
from extproc.picking.fleet import Fleet
from extproc.picking.model_index import ModelIndex
from extproc.picking.scheduling import PROFILES
from extproc.request import Answer, Answered, Api, InferenceRequest, Refused, Routed
from extproc.service.model_list import ModelList
from pools.model import Endpoint, InferenceModel, InferencePool, ObjectName, World

LLAMA, QWEN = ObjectName("default", "llama"), ObjectName("default", "qwen")
A, B = Endpoint("10.0.0.1", 8000, "a"), Endpoint("10.0.0.2", 8000, "b")
STARTED = 1_700_000_000


class Site:
    def __init__(self, *pools: ObjectName) -> None:
        models = ModelIndex(expects_reports=True)
        self.director = Director(
            Fleet(lambda pool: PROFILES["default"]()),
            lambda: 0.0,
            random.Random(1),
            models=models,
        )
        self.models = models
        self.list = ModelList(self.director, self.director, lambda: STARTED + 0.7)
        self.director.update(
            World(
                pools={name: InferencePool(name, (8000,)) for name in pools},
                endpoints={
                    name: (endpoint,)
                    for name, endpoint in {LLAMA: A, QWEN: B}.items()
                    if name in pools
                },
                models=(
                    InferenceModel(
                        ObjectName("default", "m"),
                        LLAMA,
                        "assistant",
                        created="2026-01-02T03:04:05Z",
                    ),
                ),
            )
        )

    def pods_have_told(self) -> Site:
        self.models.reported(A.key, ["meta/llama-3", "sql"])
        self.models.reported(B.key, ["qwen-3"])
        return self

    def ask(self, path: str, method: str = "GET", pool: ObjectName | None = None) -> Answer:
        request = InferenceRequest("r", pool, path, method, {}, api=Api.OTHER)
        answers: list[Answer] = []
        take: Callable[[Answer], None] = answers.append
        self.list.pick(request, take)
        (answer,) = answers
        return answer


def document(answer: Answer) -> Any:
    assert isinstance(answer, Answered)
    assert (answer.status, answer.headers) == (200, (("content-type", "application/json"),))
    return msgspec.json.decode(answer.body)


def test_the_models_of_all_pools_are_listed_as_openai_lists_them() -> None:
    site = Site(LLAMA, QWEN).pods_have_told()
    for path in ("/v1/models", "/v1/models/", "/v1/models?limit=10"):
        assert document(site.ask(path)) == {
            "object": "list",
            "data": [
                {
                    "id": name,
                    "object": "model",
                    "created": created,
                    "owned_by": pool,
                }
                for name, created, pool in (
                    ("assistant", 1767323045, "default/llama"),
                    ("meta/llama-3", STARTED, "default/llama"),
                    ("qwen-3", STARTED, "default/qwen"),
                    ("sql", STARTED, "default/llama"),
                )
            ],
        }


@pytest.mark.parametrize("path", ["/v1/models/meta/llama-3", "/v1/models/meta%2Fllama-3?x=1"])
def test_one_model_can_be_asked_for_also_with_a_slash_in_its_name(path: str) -> None:
    site = Site(LLAMA, QWEN).pods_have_told()
    assert document(site.ask(path))["id"] == "meta/llama-3"


def test_a_model_that_nobody_serves_is_not_found() -> None:
    answer = Site(LLAMA, QWEN).pods_have_told().ask("/v1/models/gpt-9")
    assert isinstance(answer, Refused)
    assert (answer.status, answer.reason) == (404, "no-pool-for-model")
    assert "'gpt-9'" in answer.message


def test_half_a_list_is_not_told_before_all_pods_were_asked_once() -> None:
    site = Site(LLAMA, QWEN)
    site.models.reported(A.key, ["meta/llama-3"])
    early = site.ask("/v1/models")
    assert isinstance(early, Refused)
    assert (early.status, early.reason, early.retry_after) == (503, "starting", 1.0)
    site.models.reported(B.key, ["qwen-3"])
    assert len(document(site.ask("/v1/models"))["data"]) == 3


def test_what_leads_to_one_pool_is_a_pods_to_answer() -> None:
    several, single = Site(LLAMA, QWEN).pods_have_told(), Site(LLAMA)
    assert isinstance(several.ask("/v1/models", pool=LLAMA), Routed)
    assert isinstance(single.ask("/v1/models"), Routed)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models"),
        ("GET", "/v1/modelsx"),
        ("GET", "/v2/models"),
        ("GET", "/x/v1/models"),
    ],
)
def test_other_questions_are_none_of_its_business(method: str, path: str) -> None:
    answer = Site(LLAMA, QWEN).pods_have_told().ask(path, method)
    assert isinstance(answer, Refused)
    assert answer.reason == "no-pool-for-model"


def test_a_long_list_is_written_once_so_that_picks_do_not_wait_for_it() -> None:
    site = Site(LLAMA, QWEN).pods_have_told()
    site.models.reported(A.key, [f"adapter-{number}" for number in range(20_000)])
    began = time.process_time()
    first = site.ask("/v1/models")
    spent = time.process_time() - began
    assert len(document(first)["data"]) == 20_002
    # Time that grows with the square of the names takes seconds.
    assert spent < 1.0
    again = site.ask("/v1/models")
    assert isinstance(first, Answered)
    assert isinstance(again, Answered)
    assert again.body is first.body


def test_a_list_that_was_told_is_written_again_when_pods_or_objects_change() -> None:
    site = Site(LLAMA, QWEN).pods_have_told()
    site.ask("/v1/models")
    site.models.reported(B.key, ["qwen-4"])
    ids = [row["id"] for row in document(site.ask("/v1/models"))["data"]]
    assert ids == ["assistant", "meta/llama-3", "qwen-4", "sql"]
    site.director.update(
        World(
            pools={name: InferencePool(name, (8000,)) for name in (LLAMA, QWEN)},
            endpoints={LLAMA: (A,), QWEN: (B,)},
        )
    )
    ids = [row["id"] for row in document(site.ask("/v1/models"))["data"]]
    assert ids == ["meta/llama-3", "qwen-4", "sql"]
