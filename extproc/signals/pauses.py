"""Asking vLLM whether it is paused.

A paused server (``POST /pause``) takes requests and works on none of them, and its metrics say
nothing of it: only ``GET /is_paused`` does, which exists where pausing does (vLLM's development
mode). One that sleeps says so in its metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from extproc.signals.fetch import Fetch, ScrapeError, fetch_within

INTERVAL: Final = 1.0
"""Seconds between two questions to a server that can be paused."""
ASK_AGAIN_AFTER: Final = 300.0
"""Seconds until one that cannot is asked again: another may have taken its address."""
TIMEOUT: Final = 2.0


class _Answer(msgspec.Struct):
    is_paused: bool


_decoder = msgspec.json.Decoder(_Answer)


class PauseSink(Protocol):
    def paused(self, key: str, paused: bool) -> None: ...


class Pauses:
    """To be called by a :class:`extproc.signals.polling.Poller`."""

    def __init__(
        self, sink: PauseSink, fetch: Fetch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sink = sink
        self._fetch = fetch
        self._clock = clock
        self._not_before: dict[str, float] = {}

    def keep(self, endpoints: set[str]) -> None:
        """Forget all others."""
        self._not_before = {k: at for k, at in self._not_before.items() if k in endpoints}

    async def __call__(self, key: str, address: str) -> None:
        if self._clock() < self._not_before.get(key, 0.0):
            return
        try:
            url = f"http://{address}/is_paused"
            answer = _decoder.decode(await fetch_within(self._fetch, url, TIMEOUT))
        except ScrapeError as error:
            # A server that cannot be reached now may be one that can be paused.
            if error.alive:
                self._not_before[key] = self._clock() + ASK_AGAIN_AFTER
        except msgspec.MsgspecError:
            pass
        else:
            self._sink.paused(key, answer.is_paused)
            return
        self._sink.paused(key, False)
