"""Keeping up with the metrics of every endpoint. The loops run on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from extproc.picking.scheduling.signals import Signals
from extproc.picking.scraping import ScrapeSettings
from extproc.signals.fetch import ScrapeError
from extproc.signals.scraper import Scraper
from pools.tasks import Parts

SETTINGS = ScrapeSettings(interval=0.2, timeout=1.0, max_backoff=5.0)


@dataclass
class Sink:
    started: list[str] = field(default_factory=list)
    samples: dict[str, list[tuple[float, Signals]]] = field(default_factory=dict)
    failures: list[tuple[str, str, bool]] = field(default_factory=list)

    def scrape_started(self, key: str) -> None:
        self.started.append(key)

    def scraped(self, key: str, sample: Signals, began: float) -> None:
        self.samples.setdefault(key, []).append((began, sample))

    def scrape_failed(self, key: str, error: str, alive: bool, now: float) -> None:
        self.failures.append((key, error, alive))


class Pods:
    """Answers scrapes: a page, an error, or nothing at all."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | ScrapeError | None] = {}
        self.asked: list[tuple[float, str]] = []
        self.at_once = self.most_at_once = 0
        self.takes = 0.0

    async def __call__(self, url: str) -> bytes:
        address = url.removeprefix("http://").removesuffix("/metrics")
        self.asked.append((asyncio.get_running_loop().time(), address))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            page = self.pages[address]
            await asyncio.sleep(self.takes)
            if page is None:
                await asyncio.Event().wait()
            if isinstance(page, ScrapeError):
                raise page
            assert page is not None
            return page
        finally:
            self.at_once -= 1

    def times(self, address: str) -> list[float]:
        return [at for at, asked in self.asked if asked == address]


@asynccontextmanager
async def following(
    pods: Pods, sink: Sink, targets: dict[str, str], settings: ScrapeSettings = SETTINGS
) -> AsyncIterator[Scraper]:
    clock = asyncio.get_running_loop().time
    scraper = Scraper(sink, pods, settings, random.Random(1), clock)
    scraper.follow(targets)
    parts = Parts()
    parts.start("scraper", scraper.run())
    try:
        yield scraper
    finally:
        await parts.stop()


@pytest.mark.looptime
async def test_each_endpoint_is_asked_once_per_interval() -> None:
    pods, sink = Pods(), Sink()
    pods.pages = {"a:1": b"vllm:num_requests_waiting 1\n", "b:1": b"sglang:num_queue_reqs 2\n"}
    async with following(pods, sink, {"a": "a:1", "b": "b:1"}):
        await asyncio.sleep(2.0)
    for key, waiting in (("a", 1), ("b", 2)):
        assert 9 <= len(sink.samples[key]) <= 12
        assert {sample.waiting for _, sample in sink.samples[key]} == {waiting}
    assert not sink.failures


@pytest.mark.looptime
async def test_a_server_that_hangs_delays_nobody_and_is_asked_less_and_less() -> None:
    pods, sink = Pods(), Sink()
    pods.pages = {"ok:1": b"vllm:num_requests_waiting 1\n", "hangs:1": None}
    async with following(pods, sink, {"ok": "ok:1", "hangs": "hangs:1"}):
        await asyncio.sleep(30.0)
    assert len(sink.samples["ok"]) > 130
    asked = pods.times("hangs:1")
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert gaps[0] < 1.3  # the timeout and one interval
    assert 5.0 < gaps[-1] < 6.6  # the timeout and the longest back-off
    assert all(not alive for _, _, alive in sink.failures)


@pytest.mark.looptime
async def test_a_server_that_recovers_is_asked_at_the_full_rate_again() -> None:
    pods, sink = Pods(), Sink()
    pods.pages = {"a:1": ScrapeError("refused", alive=False)}
    async with following(pods, sink, {"a": "a:1"}):
        await asyncio.sleep(20.0)
        pods.pages["a:1"] = b"vllm:num_requests_waiting 0\n"
        await asyncio.sleep(6.0)
        before = len(sink.samples["a"])
        await asyncio.sleep(2.0)
    assert len(sink.samples["a"]) - before >= 8


@pytest.mark.looptime
async def test_an_endpoint_that_leaves_is_no_longer_asked_and_one_that_comes_is() -> None:
    pods, sink = Pods(), Sink()
    page = b"vllm:num_requests_waiting 0\n"
    pods.pages = {"a:1": page, "b:1": page, "b:9": page}
    async with following(pods, sink, {"a": "a:1", "b": "b:1"}) as scraper:
        await asyncio.sleep(1.0)
        scraper.follow({"b": "b:9"})
        await asyncio.sleep(0)
        count = len(pods.asked)
        await asyncio.sleep(1.0)
    assert {address for _, address in pods.asked[count:]} == {"b:9"}
    remaining = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in remaining if task.get_name().startswith("scrape")]


@pytest.mark.looptime
async def test_only_so_many_scrapes_are_under_way_at_once() -> None:
    pods, sink = Pods(), Sink()
    targets = {str(n): f"p{n}:1" for n in range(50)}
    pods.pages = dict.fromkeys(targets.values(), b"vllm:num_requests_waiting 0\n")
    pods.takes = 0.05
    settings = ScrapeSettings(interval=0.2, max_concurrent=8, max_per_second=1e6)
    async with following(pods, sink, targets, settings):
        await asyncio.sleep(2.0)
    assert pods.most_at_once == 8
    assert set(sink.samples) == set(targets)


@pytest.mark.looptime
async def test_many_servers_that_hang_do_not_use_up_the_slots_of_the_others() -> None:
    pods, sink = Pods(), Sink()
    dead = {f"d{n}": f"d{n}:1" for n in range(40)}
    pods.pages = dict.fromkeys(dead.values(), None) | {"ok:1": b"vllm:num_requests_waiting 0\n"}
    settings = ScrapeSettings(interval=0.2, max_concurrent=4, max_per_second=1e6)
    async with following(pods, sink, {**dead, "ok": "ok:1"}, settings):
        await asyncio.sleep(15.0)  # each has failed once
        before = len(sink.samples["ok"])
        await asyncio.sleep(10.0)
    assert len(sink.samples["ok"]) - before > 40


@pytest.mark.looptime
async def test_a_page_without_any_known_metric_is_an_error_of_a_live_server() -> None:
    pods, sink = Pods(), Sink()
    pods.pages = {"a:1": b"go_goroutines 7\n"}
    async with following(pods, sink, {"a": "a:1"}):
        await asyncio.sleep(0.1)
    [(key, error, alive)] = sink.failures
    assert key == "a"
    assert alive
    assert "http://a:1/metrics" in error


def test_the_interval_grows_with_the_fleet_and_old_is_relative_to_it() -> None:
    settings = ScrapeSettings(interval=0.2, timeout=1.0, max_per_second=250)
    assert settings.interval_for(10) == 0.2
    assert settings.interval_for(1000) == 4.0
    assert settings.stale_after(10) == 2.0
    assert settings.stale_after(1000) == 21.0
    rng = random.Random(1)
    delays = [settings.delay_before_next(1000, 0, rng) for _ in range(100)]
    assert 3.6 <= min(delays) < max(delays) <= 4.4


def test_settings_that_cannot_work_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="interval"):
        ScrapeSettings(interval=0)
