"""Reading a decision back, from a real one to what is printed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from rich.console import Console

from extproc.observability.debug import application
from extproc.picking.decisions import DecisionRecord
from extproc.picking.director import Director
from extproc.picking.fleet import Fleet
from extproc.picking.scheduling import PROFILES, Adapters, Signals
from extproc.request import Api, Completed, InferenceRequest, Routed
from poolpilot.commands import explain
from poolpilot.explanation import explanation, line
from pools.model import Endpoint, InferencePool, ObjectName, World

POOL = ObjectName("default", "llama")
PODS = [f"10.0.0.{n}:8000" for n in (1, 2, 3)]


def director(profile: str = "default") -> Director:
    made = Director(Fleet(lambda pool: PROFILES[profile]()), time.monotonic, random.Random(1))
    made.update(
        World(
            pools={POOL: InferencePool(POOL, (8000,))},
            endpoints={POOL: tuple(Endpoint(f"10.0.0.{n}", 8000, f"pod-{n}") for n in (1, 2, 3))},
        )
    )
    for number, key in enumerate(made.fleet.members):
        adapters = Adapters(frozenset(["tweets"] if number == 1 else []), capacity=4)
        made.fleet.scrape_started(key)
        made.fleet.scraped(key, Signals(number, 1, 0.1 * number, adapters), made.clock())
    return made


def pick(made: Director, model: str = "tweets") -> DecisionRecord:
    prompt = "What all requests have in common. " * 100
    return made.decide(
        InferenceRequest(
            "req-1",
            POOL,
            "/v1/completions",
            "POST",
            {},
            api=Api.COMPLETIONS,
            model=model,
            document={"model": model, "prompt": prompt},
            prompt_bytes=len(prompt),
        )
    )


def shown(record: DecisionRecord) -> str:
    console = Console(width=200, no_color=True, record=True)
    with console.capture() as capture:
        console.print(explanation({"at": "2026-01-02T03:04:05.678", **record.explain()}))
    return capture.get()


def test_an_explanation_says_who_was_left_out_and_why_and_what_happened_then() -> None:
    made = director()
    record = pick(made)
    text = shown(record)
    assert "sent to 10.0.0.2:8000" in text
    assert "adapter-affinity-filter" in text
    assert "10.0.0.1:8000, 10.0.0.3:8000" in text
    assert "the adapter is not loaded there" in text
    assert "least-work-scorer x1" in text
    assert "It has not ended yet" in text
    made.settle(
        Completed(
            record.id, 200, 1.5, served=PODS[1], prompt_tokens=800, completion_tokens=42, attempts=2
        )
    )
    text = shown(record)
    assert "answered 200 by 10.0.0.2:8000 after 1.500 s, 2 attempts" in text
    assert "42 output tokens" in text


def test_the_second_of_two_alike_is_where_the_first_was_cached() -> None:
    made = director()
    first, second = pick(made, "base"), pick(made, "base")
    assert isinstance(first.outcome, Routed)
    assert isinstance(second.outcome, Routed)
    assert second.outcome.endpoints[0] == first.outcome.endpoints[0]
    text = shown(second)
    assert "about 850 prompt tokens, 832 of them cached there" in text
    assert "less than 30% of the prompt is cached there" in text
    told = line({"at": "2026-01-02T03:04:05.678", **second.summary()})
    assert told.startswith("03:04:05.678  ")
    assert told.endswith(f"routed  {second.outcome.endpoints[0]}  98% of 850 tokens cached")


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_profile_can_be_explained(profile: str) -> None:
    assert "sent to 10.0.0." in shown(pick(director(profile)))


def test_a_refusal_is_explained_too() -> None:
    made = director()
    made.update(World(pools={POOL: InferencePool(POOL, (8000,))}, endpoints={POOL: ()}))
    text = shown(pick(made))
    assert "refused: no-ready-endpoints (503)" in text
    assert "no endpoints to choose from" in text


@pytest.fixture
async def served() -> AsyncIterator[tuple[Director, str]]:
    made = director()
    server = uvicorn.Server(
        uvicorn.Config(
            application(made, CollectorRegistry(), lambda: True), port=0, log_config=None
        )
    )
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110  # nothing tells it
            await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield made, f"http://127.0.0.1:{port}"
    server.should_exit = True
    await running


async def test_following_shows_each_pick_once(
    served: tuple[Director, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, url = served
    monkeypatch.setattr(explain, "INTERVAL", 0.01)
    ids = [pick(made).id]
    following = asyncio.create_task(explain._follow(url, {"limit": 20}, as_json=False))
    seen = ""

    async def wait_for(pick_id: str) -> None:
        nonlocal seen
        async with asyncio.timeout(10):
            while pick_id not in seen:
                await asyncio.sleep(0.01)
                seen += capsys.readouterr().out

    await wait_for(ids[0])
    ids += [pick(made).id, pick(made).id]
    await wait_for(ids[-1])
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert [told.split()[1] for told in seen.splitlines()] == ids
