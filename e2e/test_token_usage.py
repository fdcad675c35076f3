"""Token counts of every API, from a pod's response by Envoy and its access log to the decision."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from e2e.harness import eventually
from e2e.live import OneWorld, envoy
from extproc.config.settings import PickerConfig
from extproc.service.server import EndpointPickerServer
from pools.model import Endpoint, InferencePool, ObjectName, World
from xds.bootstrap import static_bootstrap
from xds.translate import ExtProcSettings, TranslateSettings, parse_target, translate
from xds.translate.render import render_static

POOL = ObjectName("default", "llama")
TOLD = {"prompt_tokens": 12, "cached_tokens": 8, "completion_tokens": 34}
UNCACHED = {**TOLD, "cached_tokens": None}

OPENAI = {
    "prompt_tokens": 12,
    "completion_tokens": 34,
    "total_tokens": 46,
    "prompt_tokens_details": {"cached_tokens": 8},
}
ANTHROPIC = {"input_tokens": 4, "cache_read_input_tokens": 8, "output_tokens": 34}
RESPONSES = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 8},
    "output_tokens": 34,
    "output_tokens_details": {"reasoning_tokens": 30},
    "total_tokens": 46,
}


def message_start(**usage: int) -> dict[str, Any]:
    message = {"type": "message", "content": [], "usage": {**usage, "output_tokens": 1}}
    return {"type": "message_start", "message": message}


def message_delta(**usage: int) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


TEXT = [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}] * 3
MESSAGE_STOP = {"type": "message_stop"}


def response(kind: str, usage: dict[str, Any] | None, text: str = "Hi") -> dict[str, Any]:
    output = [{"type": "message", "content": [{"type": "output_text", "text": text}]}]
    return {"type": f"response.{kind}", "response": {"output": output, "usage": usage}}


PLAIN = {
    "chat": ("/v1/chat/completions", {"choices": [], "usage": OPENAI}, TOLD),
    "chat, nothing known of the cache": (
        "/v1/chat/completions",
        {"choices": [], "usage": {**OPENAI, "prompt_tokens_details": None}},
        UNCACHED,
    ),
    "messages": ("/v1/messages", {"type": "message", "usage": ANTHROPIC}, TOLD),
    "messages, nothing known of the cache": (
        "/v1/messages",
        {"type": "message", "usage": {"input_tokens": 12, "output_tokens": 34}},
        UNCACHED,
    ),
    "messages, null for the cache": (
        "/v1/messages",
        {"usage": {"input_tokens": 12, "output_tokens": 34, "cache_read_input_tokens": None}},
        UNCACHED,
    ),
    "responses": ("/v1/responses", {"object": "response", "usage": RESPONSES}, TOLD),
}
STREAMED: dict[str, tuple[str, list[dict[str, Any]], dict[str, int | None]]] = {
    "chat": (
        "/v1/chat/completions",
        [{"choices": [], "usage": None}, {"choices": [], "usage": OPENAI}],
        TOLD,
    ),
    "messages, the prompt in the first event alone": (
        "/v1/messages",
        [
            message_start(input_tokens=4, cache_read_input_tokens=8),
            *TEXT,
            message_delta(output_tokens=34),
            MESSAGE_STOP,
        ],
        TOLD,
    ),
    "messages of vLLM, the cache known in the last event alone": (
        "/v1/messages",
        [message_start(input_tokens=12), *TEXT, message_delta(**ANTHROPIC), MESSAGE_STOP],
        TOLD,
    ),
    "responses": (
        "/v1/responses",
        [
            response("created", None),
            {"type": "response.output_text.delta", "delta": "Hi"},
            response("completed", RESPONSES),
        ],
        TOLD,
    ),
    "responses, cut off at the limit": (
        "/v1/responses",
        [response("created", None), response("incomplete", RESPONSES)],
        TOLD,
    ),
}


PIECE = 50_000
"""Bytes that a pod sends at once."""


class Gateway:
    """Our configuration in a real Envoy, our picker, and a pod that answers as it is told."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.envoy = ""
        self.picker = ""
        self.answer: dict[str, Any] | list[dict[str, Any]] = {}

    async def pod(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/metrics":
            return web.Response()
        if isinstance(self.answer, dict):
            return web.json_response(self.answer)
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await stream.prepare(request)
        for event in self.answer:
            name = f"event: {event['type']}\n" if "type" in event else ""
            data = f"{name}data: {json.dumps(event)}\n\n".encode()
            for at in range(0, len(data), PIECE):
                await stream.write(data[at : at + PIECE])
                # As over a network: Envoy does not see the whole of a long event at once.
                await asyncio.sleep(0.001)
        return stream

    async def tokens(self, path: str, answer: dict[str, Any] | list[dict[str, Any]]) -> Any:
        """Ask with ``path``, and read from the decision what ``answer`` counted."""
        self.answer = answer
        body = {"model": "llama", "stream": isinstance(answer, list)}
        got = await self.client.post(f"{self.envoy}{path}", json=body)
        assert got.status_code == 200, got.text
        completed: dict[str, Any] = {}

        async def is_told() -> bool:
            page = await self.client.get(f"{self.picker}/debug/decisions?limit=1")
            [decision] = page.json()["decisions"]
            completed.update(decision["completed"] or {})
            return bool(completed)

        await eventually(is_told, "Envoy tells how the request ended")
        return {name: completed[name] for name in TOLD}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        client = httpx.AsyncClient(trust_env=False, timeout=30)
        gateway = Gateway(await stack.enter_async_context(client))
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", gateway.pod)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        endpoint = Endpoint("127.0.0.1", runner.addresses[0][1], "pod")
        world = World(pools={POOL: InferencePool(POOL, (8000,))}, endpoints={POOL: (endpoint,)})

        server = EndpointPickerServer(
            OneWorld(world),
            PickerConfig(address="127.0.0.1:0", health_address=None, http_address="127.0.0.1:0"),
        )
        await server.start()
        stack.push_async_callback(server.stop, 0)
        gateway.picker = f"http://{server.http_address}"

        picker = ExtProcSettings(targets=(parse_target(server.address),), health_interval=0.1)
        static: Any = render_static(translate(world, TranslateSettings(ext_proc=picker)))
        address = static["listeners"][0]["address"]["socket_address"]
        address.update(address="127.0.0.1", port_value=0)
        proxy = await stack.enter_async_context(envoy(static_bootstrap(static), tmp_path))
        await eventually(proxy.listening, "a listener is active")
        gateway.envoy = await proxy.url()

        async def requests_are_answered() -> bool:
            return (await client.post(f"{gateway.envoy}/v1/x", json={})).status_code == 200

        await eventually(requests_are_answered, "Envoy and the picker have found each other")
        yield gateway


async def test_every_api_tells_its_tokens_plain_and_streamed(gateway: Gateway) -> None:
    for name, (path, document, told) in PLAIN.items():
        assert await gateway.tokens(path, document) == told, name
    for name, (path, events, told) in STREAMED.items():
        assert await gateway.tokens(path, events) == told, name


async def test_the_last_event_of_a_long_response_repeats_all_of_it_and_is_read(
    gateway: Gateway,
) -> None:
    long = "word " * 60_000
    events = [response("created", None), response("completed", RESPONSES, text=long)]
    assert await gateway.tokens("/v1/responses", events) == TOLD


async def test_an_event_too_large_to_be_read_costs_no_response(gateway: Gateway) -> None:
    events = [response("completed", RESPONSES, text="word " * 1_000_000)]
    told = await gateway.tokens("/v1/responses", events)
    assert told == dict.fromkeys(TOLD)
