"""The demo's load counts an answer only when all of it came."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from poolpilot.demo.load import Answer, Report, mix, quantile, send


def test_the_mix_has_every_kind_of_request_in_turn() -> None:
    questions = mix(["llama", "tweet-summary"], 9)
    kinds = [(q.path, q.body["model"], q.streams) for q in questions[:8]]
    assert len(set(kinds)) == 8
    assert questions[8] == questions[0]
    assert all(("messages" in q.body) == q.path.endswith("chat/completions") for q in questions)


def test_quantiles_are_values_that_were_measured() -> None:
    assert quantile([], 0.99) == 0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.50) == 2.0
    assert quantile([float(n) for n in range(1, 101)], 0.99) == 99.0


def test_the_report_counts_answers_by_pod_and_errors_by_text() -> None:
    report = Report.of(
        [
            Answer(0.010, "pod-b"),
            Answer(0.030, "pod-a"),
            Answer(0.020, "pod-a"),
            Answer(9.0, "", "503 no healthy upstream"),
        ]
    )
    assert report == Report(
        requests=4,
        ok=3,
        by_pod={"pod-a": 2, "pod-b": 1},
        p50_ms=20.0,
        p99_ms=30.0,
        errors={"503 no healthy upstream": 1},
    )
    assert not report.all_answered


class Backend:
    """Answers each model in its own way, good or bad."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        document = json.loads(await request.read())
        headers = {"x-sim-pod": "pod-0"}
        match document["model"], document.get("stream", False):
            case "good", False:
                return web.json_response({"choices": [{"text": "ok"}]}, headers=headers)
            case "good", True:
                text = 'data: {"choices": []}\n\ndata: [DONE]\n\n'
                return web.Response(text=text, content_type="text/event-stream", headers=headers)
            case "cut", _:
                return web.Response(text='data: {"choices": []}\n\n')
            case "broken", _:
                return web.Response(text="<html>")
            case "empty", _:
                return web.json_response({"choices": []})
            case _:
                return web.json_response({"error": "full"}, status=503)


@pytest.fixture
async def backend() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/completions", Backend().answer)
    app.router.add_post("/v1/chat/completions", Backend().answer)
    async with TestServer(app) as server:
        yield f"http://127.0.0.1:{server.port}"


async def test_every_complete_answer_counts(backend: str) -> None:
    report = await send(backend, mix(["good"], 20))
    assert report.all_answered
    assert report.by_pod == {"pod-0": 20}
    assert 0 < report.p50_ms <= report.p99_ms


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("cut", "the stream ended early"),
        ("broken", "not an OpenAI answer: <html>"),
        ("empty", "an answer without choices"),
        ("full", '503 {"error": "full"}'),
    ],
)
async def test_an_incomplete_answer_is_an_error(backend: str, model: str, error: str) -> None:
    report = await send(backend, mix([model], 4))
    assert error in report.errors
    assert report.ok == 0


async def test_a_server_that_is_not_there_is_an_error_for_each_request() -> None:
    report = await send("http://127.0.0.1:1", mix(["good"], 3))
    assert report.ok == 0
    assert sum(report.errors.values()) == 3
