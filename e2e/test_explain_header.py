"""A request that asks why it went where it went."""

from __future__ import annotations

from e2e.harness import Gateway

BODY = {"model": "tweet-summary", "prompt": "Write as if you were a critic", "max_tokens": 5}


async def test_only_a_request_that_asks_is_told_and_nobody_can_tell_it_otherwise(
    gateway: Gateway,
) -> None:
    async with gateway.client() as client:
        asked = await client.post(
            "/v1/completions", json=BODY, headers={"x-poolpilot-explain": "true"}
        )
        plain = await client.post(
            "/v1/completions", json=BODY, headers={"x-poolpilot-explanation": "made up"}
        )
    assert (asked.status_code, plain.status_code) == (200, 200)
    told = dict(part.split("=", 1) for part in asked.headers["x-poolpilot-explanation"].split("; "))
    assert told["profile"] == "default"
    assert told["endpoint"].startswith("127.0.0.1:")
    assert told["narrowed"].startswith("candidates:")
    assert "least-work-scorer:" in told["scores"]
    assert "x-poolpilot-explanation" not in plain.headers
