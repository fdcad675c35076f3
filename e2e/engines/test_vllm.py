"""What a real vLLM makes of what the picker believes."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from typing import Any

import httpx
import pytest

from e2e.harness import eventually
from poolpilot.demo.stack import Stack

pytestmark = pytest.mark.timeout(600)
MODELS = ("tiny", "tiny-alias", "sql-lora")
_seeds = itertools.count(1)


def prompt(tokens: int = 700) -> list[int]:
    """Token ids that nobody has asked for."""
    rng = random.Random(next(_seeds))
    return [rng.randrange(20, 2000) for _ in range(tokens)]


async def complete(url: str, model: str, ids: list[int]) -> httpx.Response:
    body = {"model": model, "prompt": ids, "max_tokens": 2}
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        return await client.post("/v1/completions", json=body)


async def rows(engines: Stack, page: str = "endpoints") -> dict[str, dict[str, Any]]:
    async with httpx.AsyncClient(base_url=engines.extproc_url, trust_env=False) as client:
        found = (await client.get(f"/debug/{page}")).json()["endpoints"]
    return {row["name"]: row for row in found}


async def caches_are_told(engines: Stack) -> None:
    async def told() -> bool:
        return all(row["prefix_told"] for row in (await rows(engines, "fleet")).values())

    await eventually(told, "every server's cache is known from its events", 30)


async def found_where_it_is(engines: Stack) -> None:
    """Prompts that were only ever sent to one server, by somebody else, are found there."""
    for model, server in itertools.product(MODELS, engines.pods):
        ids = prompt()
        assert (await complete(engines.pod_url(server), model, ids)).status_code == 200
        await asyncio.sleep(0.5)
        before = (await rows(engines))[server]["picked"]
        answer = await complete(engines.url, model, ids + prompt(30))
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 640
        assert (await rows(engines))[server]["picked"] == before + 1


async def test_prompts_are_found_where_they_are_cached_also_by_a_picker_that_came_later(
    engines: Stack,
) -> None:
    for server in engines.pods:
        await complete(engines.pod_url(server), "tiny", prompt())
    await caches_are_told(engines)
    await found_where_it_is(engines)

    cached = prompt()
    await complete(engines.pod_url("vllm-1"), "tiny", cached)
    engines.children["extproc"].stop()
    engines.start_extproc()
    await engines.ready(60)
    await caches_are_told(engines)
    answer = await complete(engines.url, "tiny", cached + prompt(30))
    assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 640


@pytest.mark.parametrize(
    ("rest", "go_on"), [("/sleep?level=1", "/wake_up"), ("/pause?mode=keep", "/resume")]
)
async def test_while_one_of_two_rests_no_request_hangs(
    engines: Stack, rest: str, go_on: str
) -> None:
    async def stands(standing: str) -> bool:
        return (await rows(engines))["vllm-0"]["standing"] == standing

    await eventually(lambda: stands("in"), "it is in picks", 30)
    async with httpx.AsyncClient(
        base_url=engines.pod_url("vllm-0"), timeout=60, trust_env=False
    ) as client:
        assert (await client.post(rest)).status_code == 200
        try:
            await eventually(lambda: stands("out"), "it is out of picks")
            before = (await rows(engines))["vllm-0"]["picked"]
            one_by_one = [(await complete(engines.url, "tiny", prompt(20))) for _ in range(50)]
            at_once = await asyncio.gather(
                *(complete(engines.url, "tiny", prompt(20)) for _ in range(50))
            )
            answers = Counter(answer.status_code for answer in (*one_by_one, *at_once))
            assert answers == {200: 100}
            assert (await rows(engines))["vllm-0"]["picked"] == before
        finally:
            assert (await client.post(go_on)).status_code == 200
    await eventually(lambda: stands("in"), "it is in picks again", 30)


async def test_the_numbers_that_picks_go_by_are_there(engines: Stack) -> None:
    await asyncio.gather(
        *(complete(engines.url, "sql-lora", prompt(30)) for _ in range(8)),
    )
    await asyncio.sleep(1)
    for row in (await rows(engines)).values():
        assert (row["running"], row["waiting"], row["in_flight"]) == (0, 0, 0)
        assert (row["kv_block_size"], row["kv_blocks"]) == (128, 128)
        assert row["troubles"] == {}
    assert 2 in {row["max_adapters"] for row in (await rows(engines)).values()}
