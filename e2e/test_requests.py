"""What a client gets from a real Envoy with both servers behind it, in both xDS modes."""

from __future__ import annotations

import asyncio
import json
import uuid

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from e2e.harness import (
    CLOSED_PODS,
    COMPLETION,
    OPEN_PODS,
    TO_OPEN,
    Gateway,
    eventually,
)
from poolpilot.demo.load import POD_HEADER
from poolpilot.demo.quickstart import ADAPTER, BASE_MODEL

QUICKSTART = {
    "model": ADAPTER,
    "prompt": "Write as if you were a critic: San Francisco",
    "max_tokens": 100,
    "temperature": 0,
}


async def test_every_pick_is_obeyed(gateway: Gateway) -> None:
    run = uuid.uuid4().hex
    async with gateway.client() as client:
        responses = await asyncio.gather(
            *(client.post(f"/v1/completions?run={run}-{n}", json=COMPLETION) for n in range(100))
        )
    assert [response.status_code for response in responses] == [200] * 100
    answered_by = {
        f"{run}-{n}": gateway.stack.pod_address(response.headers[POD_HEADER])
        for n, response in enumerate(responses)
    }

    await eventually(lambda: len(gateway.access_log(run)) == 100, "Envoy logs all requests")
    obeyed = 0
    for entry in gateway.access_log(run):
        picked = str(entry["picked"]).split(",")[0]
        obeyed += picked == entry["served"] == answered_by[str(entry["path"]).split("=")[1]]
    assert obeyed == 100
    assert len(set(answered_by.values())) > 1, "a burst is spread over the pods"


async def test_the_quickstart_request_goes_to_the_pod_that_has_the_adapter(
    gateway: Gateway,
) -> None:
    holder = CLOSED_PODS[1]
    async with gateway.client(gateway.stack.pod_url(holder)) as pod, gateway.client() as client:
        # Somebody else's long request keeps the adapter busy on one pod.
        long = asyncio.create_task(
            pod.post("/v1/completions", json={**QUICKSTART, "max_tokens": 2_000_000})
        )
        try:
            await eventually(
                lambda: gateway.picker_sees_adapter(holder, ADAPTER),
                "the picker learns which pod has the adapter",
            )
            for _ in range(10):
                answer = await client.post("/v1/completions", json=QUICKSTART)
                assert answer.status_code == 200
                assert answer.json()["model"] == ADAPTER
                assert answer.headers[POD_HEADER] == holder
            assert not long.done()
        finally:
            long.cancel()


async def test_a_pod_is_added_removed_and_added_again_and_no_request_is_lost(
    gateway: Gateway,
) -> None:
    *others, pod = CLOSED_PODS
    gateway.place(others)
    await eventually(lambda: _absent(gateway, pod), "Envoy forgets the pod")
    async with gateway.traffic() as traffic:
        await traffic.goes_on()
        assert pod not in traffic.by_pod

        for _ in range(2):
            gateway.place(CLOSED_PODS)
            before = traffic.by_pod[pod]
            await eventually(lambda: traffic.by_pod[pod] > before, "the pod gets requests")  # noqa: B023

            gateway.place(others)
            await eventually(lambda: _absent(gateway, pod), "Envoy forgets the pod")
            await traffic.goes_on()
            settled = traffic.by_pod[pod]
            await traffic.goes_on()
            assert traffic.by_pod[pod] == settled, "a removed pod gets no new request"
    assert traffic.failures == []


async def test_the_xds_server_dies_and_returns_and_no_request_is_lost(gateway: Gateway) -> None:
    *others, pod = CLOSED_PODS
    async with gateway.traffic() as traffic:
        await traffic.goes_on()
        gateway.stack.children["xds"].kill()
        await traffic.goes_on()

        gateway.stack.start_xds()
        # The new one is in charge: an edit that only it can have sent reaches Envoy.
        gateway.place(others)
        await eventually(lambda: _absent(gateway, pod), "Envoy follows the new xDS server")
        assert await gateway.pods_known_to_envoy() == {*others, *OPEN_PODS}
        await traffic.goes_on()
    assert traffic.failures == []


async def test_without_the_picker_one_pool_answers_with_an_error_and_the_other_from_any_pod(
    gateway: Gateway,
) -> None:
    gateway.stack.children["extproc"].kill()
    async with gateway.client() as client:
        closed = [await gateway.ask(client) for _ in range(10)]
        opened = [await gateway.ask(client, TO_OPEN) for _ in range(30)]

        assert {response.status_code // 100 for response in closed} == {5}
        assert [response.status_code for response in opened] == [200] * 30
        assert {response.headers[POD_HEADER] for response in opened} == set(OPEN_PODS)

        gateway.stack.start_extproc()
        await eventually(gateway.answers, "the pool that failed closed answers again")


async def test_a_prompt_of_four_megabytes_is_answered(gateway: Gateway) -> None:
    body = {**COMPLETION, "prompt": "San Francisco " * (4 * 1024 * 1024 // 14)}
    assert len(json.dumps(body)) > 4 * 1024 * 1024 - 14
    async with gateway.client() as client:
        for headers in ({}, TO_OPEN):
            response = await client.post("/v1/completions", json=body, headers=headers)
            assert response.status_code == 200, response.text
            assert response.json()["usage"]["prompt_tokens"] > 500_000


async def test_nothing_is_left_of_a_client_that_hangs_up(gateway: Gateway) -> None:
    long = {**COMPLETION, "max_tokens": 1_000_000, "stream": True}
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/completions", json=long) as response,
    ):
        assert response.status_code == 200
        # Held until the end: an iterator that nobody holds is closed, and its connection with it.
        lines = response.aiter_lines()
        await anext(lines)
        pod = response.headers[POD_HEADER]
        assert await gateway.in_flight() == {pod: 1}
    # The block has closed the connection in the middle of the answer.
    await eventually(lambda: _nothing_in_flight(gateway), "the picker settles the request")
    await eventually(lambda: _idle(gateway, pod), "the pod stops generating")


async def test_the_openai_client_works_plain_and_streaming(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    base_url = f"{gateway.url}/v1"
    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        messages: list[ChatCompletionMessageParam] = [
            {"role": "user", "content": "Where is San Francisco?"}
        ]
        chat = await client.chat.completions.create(
            model=BASE_MODEL, messages=messages, max_tokens=12
        )
        assert chat.choices[0].message.content
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 12

        completion = await client.completions.create(model=ADAPTER, prompt="SF", max_tokens=12)
        assert completion.choices[0].text

        stream = await client.chat.completions.create(
            model=BASE_MODEL,
            messages=messages,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 12


async def _absent(gateway: Gateway, pod: str) -> bool:
    return pod not in await gateway.pods_known_to_envoy()


async def _nothing_in_flight(gateway: Gateway) -> bool:
    return await gateway.in_flight() == {}


async def _idle(gateway: Gateway, pod: str) -> bool:
    async with gateway.client(gateway.stack.pod_url(pod)) as client:
        state = (await client.get("/admin/state")).json()
    return bool(state["running"] == state["waiting"] == 0)
