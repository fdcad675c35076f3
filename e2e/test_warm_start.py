"""A picker that is started again sends conversations where they were."""

from __future__ import annotations

import uuid

import httpx

from e2e.harness import COMPLETION, Gateway, eventually


async def cached_tokens(gateway: Gateway) -> int:
    """Of the last decision, as the picker saw it."""
    async with gateway.client(gateway.stack.extproc_url) as client:
        answer = (await client.get("/debug/decisions?limit=1")).json()
    tokens: int = answer["decisions"][0]["cached_tokens"]
    return tokens


async def test_after_a_restart_the_picker_knows_what_the_pods_have_cached(
    gateway: Gateway,
) -> None:
    long = {**COMPLETION, "prompt": f"{uuid.uuid4()} once upon a time " * 500}
    async with gateway.client() as client:

        async def ask() -> httpx.Response:
            return await client.post("/v1/completions", json=long)

        async def answered() -> bool:
            return (await ask()).status_code == 200

        assert (await ask()).status_code == 200
        assert await cached_tokens(gateway) == 0
        picker = gateway.stack.children["extproc"]
        picker.terminate()
        picker.process.wait(20)
        gateway.stack.start_extproc()
        # The first request that it is asked about, not a later one, which would have taught it.
        await eventually(answered, "Envoy has found the new picker")
        async with gateway.client(gateway.stack.extproc_url) as debug:
            decisions = (await debug.get("/debug/decisions")).json()["decisions"]
        first = [one for one in decisions if one["outcome"] == "routed"][-1]
    assert first["cached_tokens"] > 1000
