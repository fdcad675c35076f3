"""An engine on the event loop's clock: who is told what, and when."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

import pytest

from sim.config import PodConfig
from sim.driver import Driver
from sim.engine import Engine, EngineConfig
from sim.events import Finished, FirstToken, Request
from sim.metrics import Metrics
from tests.sim.virtual_pod import COST


class Timer:
    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


class Loop:
    """A clock that goes as far as the next timer, or as somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        entry = (when, next(self._order), callback)
        heapq.heappush(self._timers, entry)

        def cancel() -> None:
            self._timers.remove(entry)
            heapq.heapify(self._timers)

        return Timer(cancel)

    def run(self, until: float = math.inf) -> None:
        while self._timers and self._timers[0][0] <= until:
            when, _, callback = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            callback()
        if until < math.inf:
            self.now = max(self.now, until)


class Client:
    finish_reason = "length"

    def __init__(self, loop: Loop, work: float = 0.0) -> None:
        self._loop = loop
        self._work = work
        self.first: float | None = None
        self.ended: float | None = None
        self.told: list[int] = []

    def on_first_token(self, event: FirstToken) -> None:
        self.first = self._loop.now

    def on_tokens(self, generated: int) -> None:
        self._loop.now += self._work
        self.told.append(generated)

    def on_finished(self, event: Finished) -> None:
        self.ended = self._loop.now


@pytest.fixture
async def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    virtual = Loop()
    monkeypatch.setattr("sim.driver.asyncio.get_running_loop", lambda: virtual)
    return virtual


def driver(config: PodConfig) -> Driver:
    return Driver(Engine(config.engine), Metrics(config), config.time_scale)


CONFIG = PodConfig(engine=EngineConfig(cost=COST))


async def test_tokens_of_a_stream_are_told_one_by_one(loop: Loop):
    client = Client(loop)
    driver(CONFIG).submit(Request("a", 2048, 5), client, streaming=True)
    loop.run()
    assert client.first == pytest.approx(0.1)
    assert client.told[-3:] == [2, 3, 4]
    assert client.ended == pytest.approx(0.1 + 4 * COST.step_seconds(0, 1))


async def test_tokens_that_take_long_to_send_keep_no_first_token_and_no_end_waiting(loop: Loop):
    pod = driver(CONFIG)
    # To write a chunk takes longer than to compute a token: then chunks carry several.
    slow = Client(loop, work=0.02)
    pod.submit(Request("slow", 16, 400), slow, streaming=True)
    loop.run(until=1.0)
    begun = loop.now
    other = Client(loop)
    pod.submit(Request("other", 2048, 1), other, streaming=False)
    loop.run()
    assert len(slow.told) < 40
    step = COST.step_seconds(0, 1)
    assert other.first is not None
    # Its own prompt beside a decoding sequence, after the step that had begun, and one chunk.
    assert 0.1 < other.first - begun < 0.1 + 2 * step + 0.02 + 1e-9
    assert other.ended == other.first
