"""What pods answer when they are asked which models they serve."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from extproc.picking.model_index import ModelIndex
from extproc.signals.fetch import HttpFetch
from extproc.signals.served_models import ServedModels, model_names
from pools.model import Endpoint, InferencePool, ObjectName, World

POOL = ObjectName("default", "llama")


def test_names_are_read_from_the_list_of_any_server() -> None:
    vllm = {
        "object": "list",
        "data": [
            {"id": "llama-3", "object": "model", "root": "/models/llama", "max_model_len": 8192},
            {"id": "sql", "object": "model", "parent": "llama-3"},
        ],
    }
    assert model_names(json.dumps(vllm).encode()) == ["llama-3", "sql"]


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b'{"data": [{"name": "x"}]}', b'{"data": {}}'])
def test_what_is_no_list_of_models_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        model_names(body)


@pytest.fixture
async def pod() -> AsyncIterator[tuple[Endpoint, dict[str, web.Response]]]:
    """A pod, and what it answers."""
    answers: dict[str, web.Response] = {}

    async def answer(request: web.Request) -> web.Response:
        given = answers["next"]
        return web.Response(status=given.status, body=given.body)

    app = web.Application()
    app.router.add_get("/v1/models", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Endpoint("127.0.0.1", runner.addresses[0][1], "pod"), answers
    await runner.cleanup()


async def test_a_pod_is_asked_over_http_and_keeps_its_models_when_it_fails(
    pod: tuple[Endpoint, dict[str, web.Response]],
) -> None:
    endpoint, answers = pod
    index = ModelIndex(expects_reports=True)
    index.update(World(pools={POOL: InferencePool(POOL, (1,))}, endpoints={POOL: (endpoint,)}))
    fetch = HttpFetch()
    await fetch.open()
    troubles: list[str] = []
    ask = ServedModels(index, fetch, lambda key, question, reason: troubles.append(reason))
    try:
        answers["next"] = web.Response(status=401)
        await ask(endpoint.key, endpoint.key)
        assert index.complete
        assert index.pool_of("llama-3") is None
        assert "answered 401" in troubles.pop()

        answers["next"] = web.Response(body=b'{"data": [{"id": "llama-3"}]}')
        await ask(endpoint.key, endpoint.key)
        assert index.pool_of("llama-3") == POOL
        assert troubles.pop() == ""

        for broken in (web.Response(status=503), web.Response(body=b"{")):
            answers["next"] = broken
            await ask(endpoint.key, endpoint.key)
            assert index.pool_of("llama-3") == POOL
    finally:
        await fetch.close()
