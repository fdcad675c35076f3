"""Keeping up with the metrics of every endpoint.

Each endpoint has a loop of its own, so a slow server delays nobody else's numbers. Loops start at
random offsets and jitter their interval, so that a fleet is not asked all at once. An endpoint that
does not answer is asked less and less often, down to once in ``max_backoff`` seconds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from extproc.picking.scheduling.signals import Signals
from extproc.picking.scraping import ScrapeSettings
from extproc.signals.endpoint_loops import EndpointLoops
from extproc.signals.engines import Engine, engine_of
from extproc.signals.fetch import Fetch, ScrapeError, fetch_within

log = structlog.get_logger(__name__)

WORTH_TELLING = 3
"""Failures in a row after which the log says so, once."""


class SignalSink(Protocol):
    """Who is told what the scrapes gave. ``key`` is the endpoint's."""

    def scrape_started(self, key: str) -> None: ...

    def scraped(self, key: str, sample: Signals, began: float) -> None: ...

    def scrape_failed(self, key: str, error: str, alive: bool, now: float) -> None: ...


class Scraper:
    """Runs one loop for each endpoint that it is told to follow."""

    def __init__(
        self,
        sink: SignalSink,
        fetch: Fetch,
        settings: ScrapeSettings | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` is what the sink's times are read from."""
        self._sink = sink
        self._fetch = fetch
        self._settings = settings or ScrapeSettings()
        self._rng = rng or random.Random()
        self._clock = clock
        self._slots = asyncio.Semaphore(self._settings.max_concurrent)
        self._slots_for_failing = asyncio.Semaphore(max(1, self._settings.max_concurrent // 4))
        self._loops = EndpointLoops("scrape", self._loop)

    def follow(self, targets: Mapping[str, str]) -> None:
        """Scrape exactly these from now on: metrics address (``ip:port``) by endpoint key."""
        self._loops.follow(targets)

    async def run(self) -> None:
        """A part of a server: until cancelled. Raises PartEndedError when a loop ends."""
        await self._loops.run()

    async def _loop(self, key: str, address: str) -> None:
        settings, clock = self._settings, self._clock
        url = f"http://{address}{settings.path}"
        engine: Engine | None = None
        failures = 0
        await asyncio.sleep(settings.delay_before_first(self._rng))
        while True:
            try:
                # Servers that hang must not use up the slots of those that answer.
                async with self._slots_for_failing if failures else self._slots:
                    began = clock()
                    self._sink.scrape_started(key)
                    page = await fetch_within(self._fetch, url, settings.timeout)
                if engine is None or engine.prefix not in page:
                    engine = engine_of(page)
                sample = engine.read(page) if engine is not None else Signals()
                if not sample:
                    raise ScrapeError(
                        f"{url} has none of the metrics of a model server", alive=True
                    )
                if failures >= WORTH_TELLING:
                    log.info("metrics can be read again", endpoint=key)
                failures = 0
                self._sink.scraped(key, sample, began)
            except ScrapeError as error:
                failures += 1
                if failures == WORTH_TELLING:
                    log.warning("metrics cannot be read", endpoint=key, error=str(error))
                self._sink.scrape_failed(key, str(error), error.alive, clock())
            except Exception as error:
                # A loop must not end: its endpoint would keep its last numbers for ever.
                failures += 1
                log.exception("scrape loop error", endpoint=key)
                self._sink.scrape_failed(key, f"{type(error).__name__}: {error}", True, clock())
            await asyncio.sleep(settings.delay_before_next(len(self._loops), failures, self._rng))
