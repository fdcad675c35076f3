"""Asking every endpoint something, now and then.

Each endpoint has a loop of its own, so that one that hangs delays nobody else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import structlog

from extproc.signals.endpoint_loops import EndpointLoops

log = structlog.get_logger(__name__)

MAX_PER_SECOND = 100.0
"""Questions in all; with more endpoints than that allows, each is asked less often."""
SPREAD = 0.05
"""Seconds over which the first questions are spread."""


def interval_among(endpoints: int, interval: float) -> float:
    """Seconds between two questions to one of so many, where ``interval`` is wanted."""
    return max(interval, endpoints / MAX_PER_SECOND)


Ask = Callable[[str, str], Awaitable[None]]
"""Called with an endpoint's key and the address (``ip:port``) to ask; deals with its own errors."""


class Poller:
    """Runs one loop for each endpoint that it is told to follow."""

    def __init__(self, name: str, ask: Ask, interval: float, rng: random.Random | None = None):
        """``interval``: seconds between two questions to one endpoint. ``name`` is for people."""
        self._name = name
        self._ask = ask
        self._interval = interval
        self._rng = rng or random.Random()
        self._loops = EndpointLoops(name, self._loop)

    def follow(self, targets: Mapping[str, str]) -> None:
        """Ask exactly these from now on: address by endpoint key."""
        self._loops.follow(targets)

    async def run(self) -> None:
        """A part of a server: until cancelled. Raises PartEndedError when a loop ends."""
        await self._loops.run()

    async def _loop(self, key: str, address: str) -> None:
        await asyncio.sleep(self._rng.uniform(0, min(SPREAD, self._interval)))
        while True:
            try:
                await self._ask(key, address)
            except Exception:
                # A loop must not end: nobody would ask this endpoint again.
                log.exception(f"{self._name} failed", endpoint=key)
            interval = interval_among(len(self._loops), self._interval)
            await asyncio.sleep(interval * self._rng.uniform(0.9, 1.1))
