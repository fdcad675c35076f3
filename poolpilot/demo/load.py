"""Sending a known mix of requests, and counting what came back."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, product

import aiohttp

POD_HEADER = "x-sim-pod"
"""Response header in which a simulated vLLM server says its name."""
PROMPT = "Write as if you were a critic: San Francisco"


@dataclass(frozen=True, slots=True)
class Question:
    """One request: a POST of ``body`` as JSON to ``path``."""

    path: str
    body: dict[str, object]

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is True


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a question."""

    seconds: float
    pod: str = ""
    error: str = ""
    """Empty: it was answered in full."""


@dataclass(frozen=True, slots=True)
class Report:
    """The JSON object that ``poolpilot demo --requests N --json`` prints."""

    requests: int
    ok: int
    by_pod: dict[str, int]
    p50_ms: float
    p99_ms: float
    errors: dict[str, int] = field(default_factory=dict)
    """How often each error came."""

    @property
    def all_answered(self) -> bool:
        return self.ok == self.requests

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Report:
        good = [answer for answer in answers if not answer.error]
        times = sorted(answer.seconds for answer in good)
        return cls(
            requests=len(answers),
            ok=len(good),
            by_pod=dict(sorted(Counter(answer.pod for answer in good).items())),
            p50_ms=round(quantile(times, 0.50) * 1000, 1),
            p99_ms=round(quantile(times, 0.99) * 1000, 1),
            errors=dict(Counter(answer.error for answer in answers if answer.error)),
        )


def quantile(ordered: Sequence[float], q: float) -> float:
    """The nearest-rank quantile of sorted values; 0 where there are none."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else 0.0


def mix(models: Sequence[str], count: int, max_tokens: int = 32) -> list[Question]:
    """``count`` questions: each model by completion and chat, plain and streamed, in turn."""
    kinds: list[Question] = []
    for stream, chat, model in product((False, True), (False, True), models):
        body: dict[str, object] = {"model": model, "max_tokens": max_tokens, "temperature": 0}
        if chat:
            body["messages"] = [{"role": "user", "content": PROMPT}]
        else:
            body["prompt"] = PROMPT
        if stream:
            body["stream"] = True
        kinds.append(Question("/v1/chat/completions" if chat else "/v1/completions", body))
    rounds = math.ceil(count / len(kinds))
    return list(islice(kinds * rounds, count))


async def ask(session: aiohttp.ClientSession, base_url: str, question: Question) -> Answer:
    """Send one question and read its answer to the end. Never raises for what the server does."""
    start = time.perf_counter()
    pod = error = ""
    try:
        async with session.post(base_url + question.path, json=question.body) as response:
            pod = response.headers.get(POD_HEADER, "")
            body = await response.read()
            error = _error(response.status, body, question.streams)
    except (aiohttp.ClientError, TimeoutError, OSError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Answer(time.perf_counter() - start, pod, error)


def _error(status: int, body: bytes, streamed: bool) -> str:
    if status != 200:
        return f"{status} {body[:200].decode(errors='replace').strip()}"
    if streamed:
        events = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
        return "" if events[-1:] == [b"[DONE]"] else "the stream ended early"
    try:
        return "" if json.loads(body)["choices"] else "an answer without choices"
    except (ValueError, KeyError, TypeError):
        return f"not an OpenAI answer: {body[:200].decode(errors='replace')}"


async def send(
    base_url: str, questions: Sequence[Question], *, concurrency: int = 8, limit: float = 60
) -> Report:
    """Send all questions, ``concurrency`` at a time; each may take ``limit`` seconds."""
    waiting = iter(questions)

    async def worker(session: aiohttp.ClientSession) -> list[Answer]:
        return [await ask(session, base_url, question) for question in waiting]

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=limit)) as session:
        answers = await asyncio.gather(
            *(worker(session) for _ in range(min(concurrency, len(questions))))
        )
    return Report.of(list(chain.from_iterable(answers)))
