"""Clients that send most of a large body and then stall, against a real Envoy and a real picker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.harness import COMPLETION, Gateway, eventually

MIB = 1 << 20
BODY, HELD = 4 * MIB, 12 * MIB
CLIENTS, SENT = 10, 3 * MIB


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path, "delta", (f"--body-limit={BODY}", f"--held-limit={HELD}"))
    gateway.start()
    yield gateway
    gateway.stop()


async def test_clients_that_stall_cost_no_more_than_the_limit_and_nobody_else(
    small: Gateway,
) -> None:
    go_on = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        whole = json.dumps(COMPLETION).encode()
        for _ in range(SENT // 65_536):
            yield b" " * 65_536
        await go_on.wait()
        yield whole

    async def held() -> float:
        text = (await picker.get("/metrics")).text
        for family in text_string_to_metric_families(text):
            if family.name == "poolpilot_held_bytes":
                return family.samples[0].value
        raise AssertionError("there is no such metric")

    async def all_sent() -> bool:
        return await held() > HELD - SENT

    async def nothing_held() -> bool:
        return await held() == 0

    limits = httpx.Limits(max_connections=None)
    async with (
        small.client(small.stack.extproc_url) as picker,
        small.client() as honest,
        httpx.AsyncClient(base_url=small.url, timeout=60, trust_env=False, limits=limits) as bad,
    ):
        posts = [
            asyncio.create_task(
                bad.post(
                    "/v1/completions",
                    content=stalls(),
                    headers={"content-type": "application/json"},
                )
            )
            for _ in range(CLIENTS)
        ]
        await eventually(all_sent, "the picker holds what it may hold")
        for _ in range(50):
            assert (await small.ask(honest)).status_code == 200
            assert await held() <= HELD

        go_on.set()
        answers = await asyncio.gather(*posts)
        refused = [one for one in answers if one.status_code != 200]
        assert len(answers) - len(refused) >= HELD // BODY
        assert len(refused) >= CLIENTS - HELD // SENT
        for one in refused:
            assert one.status_code == 503
            assert one.json()["error"]["code"] == "bodies-full"
            assert int(one.headers["retry-after"]) > 0
        await eventually(nothing_held, "all of it is let go")
