"""Sends a workload's requests to a URL at their times and notes what comes back."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import aiohttp

from poolpilot.demo.quickstart import BASE_MODEL
from sim.fleet.prompt import text
from sim.fleet.traffic import WARM_UP, AbortStorm, Arrival, Call, Incident, Workload


@dataclass(frozen=True, slots=True)
class Answer:
    """Times in seconds of the pods' clock."""

    call: Call
    began: float
    ttft: float
    latency: float
    cached: int
    pod: str

    @property
    def measured(self) -> bool:
        return self.call.stage != WARM_UP


@dataclass(slots=True)
class Played:
    """What came of one run."""

    answers: list[Answer] = field(default_factory=list)
    refused: list[Call] = field(default_factory=list)
    """The picker said no (429)."""
    cut: int = 0
    """Answers that were broken off when they had begun."""
    aborted: int = 0
    """Their clients hung up."""
    failures: int = 0
    late: list[float] = field(default_factory=list)
    """How much after its time each request was sent, in real seconds."""


class RefusedError(Exception):
    """The picker said no."""


class CutError(Exception):
    """The answer was broken off."""


class _Player:
    def __init__(self, session: aiohttp.ClientSession, url: str, scale: float) -> None:
        self._session = session
        self._url = url
        self._scale = scale
        self._said: dict[int, str] = {}  # the answers, as later turns hold them

    def prompt(self, call: Call) -> str:
        return "".join([self._said.get(part.id) or text((part,)) for part in call.prompt])

    async def ask(self, call: Call, prompt: str) -> Answer:
        body = {
            "model": call.adapter or BASE_MODEL,
            "prompt": prompt,
            "max_tokens": call.output_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began = time.perf_counter()
        first = usage = None
        said: list[str] = []
        headers = {"x-gateway-inference-objective": call.objective} if call.objective else {}
        async with self._session.post(
            f"{self._url}/v1/completions", json=body, headers=headers
        ) as response:
            if response.status == 429:
                raise RefusedError
            if response.status != 200:
                raise ValueError(f"{response.status}: {(await response.text())[:200]}")
            pod = response.headers.get("x-sim-pod", "")
            try:
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    chunk = json.loads(line[6:])
                    if chunk["choices"]:
                        first = first or time.perf_counter()
                        said.append(chunk["choices"][0]["text"])
                    usage = chunk.get("usage") or usage
            except aiohttp.ClientError as error:
                raise CutError from error
        ended = time.perf_counter()
        if first is None or usage is None:
            raise CutError
        self._said[call.output] = "".join(said)
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        scale = self._scale
        return Answer(
            call, began * scale, (first - began) * scale, (ended - began) * scale, cached, pod
        )


async def play(
    workload: Workload,
    url: str,
    load: float,
    seed: int,
    scale: float,
    suffer: Callable[[Incident], Awaitable[None]] | None = None,
) -> Played:
    """Send the workload's requests, as many times faster than real as ``scale`` says. ``suffer``
    does to the servers what the workload's incidents say."""
    traffic = workload.traffic(load, workload.pods, random.Random(f"traffic {seed} {load}"))
    loop = asyncio.get_running_loop()
    origin = loop.time() + 0.2
    played = Played()

    async def one(player: _Player, at: float, call: Call) -> None:
        await asyncio.sleep(max(0.0, origin + at / scale - loop.time()))
        played.late.append(loop.time() - origin - at / scale)
        asking = asyncio.ensure_future(player.ask(call, player.prompt(call)))
        open_.add(asking)
        try:
            played.answers.append(await asking)
        except RefusedError:
            played.refused.append(call)
        except CutError:
            played.cut += 1
        except asyncio.CancelledError:
            if not asking.cancelled():
                raise
            played.aborted += 1
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            print(f"  {type(error).__name__}: {error}", file=sys.stderr)
            played.failures += 1
        finally:
            open_.discard(asking)
        begin(player, traffic.ended(call, (loop.time() - origin) * scale))

    async def befall(incident: Incident) -> None:
        await asyncio.sleep(max(0.0, origin + incident.at / scale - loop.time()))
        if isinstance(incident, AbortStorm):
            for asking in rng.sample(list(open_), int(len(open_) * incident.share)):
                asking.cancel()
        elif suffer is not None:
            await suffer(incident)

    open_: set[asyncio.Future[Answer]] = set()
    rng = random.Random(seed)
    pending: set[asyncio.Task[None]] = set()
    troubles = [asyncio.create_task(befall(one)) for one in workload.incidents(load)]

    def begin(player: _Player, arrivals: Iterable[Arrival]) -> None:
        for at, call in arrivals:
            task = asyncio.create_task(one(player, at, call))
            pending.add(task)

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=600)
    ) as session:
        begin(_Player(session, url, scale), list(traffic.start()))
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            pending.difference_update(done)
            for task in done:
                task.result()
    await asyncio.gather(*troubles)
    return played
