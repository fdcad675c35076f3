"""Telling pages that something changed, as server-sent events.

While nobody listens, nothing is done. While somebody does, a look at a few numbers several times a
second finds out what is another than before; it costs the same for one listener and for many, and
for one Envoy or endpoint and for thousands.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Hashable, Mapping

import structlog

log = structlog.get_logger(__name__)

Pulse = Mapping[str, Hashable]
"""Topic to a value that is another one as soon as something of this topic has changed."""

MOST_LISTENERS = 64
INTERVAL = 0.25
"""Seconds between two looks."""
_HEARTBEAT = 15.0
"""Seconds after which a listener hears something in any case, so that both sides notice a broken
connection."""


class Live:
    """Sends an event with the topics that changed to everyone who listens."""

    def __init__(self, pulse: Callable[[], Pulse]) -> None:
        self._pulse = pulse
        self._listeners: set[asyncio.Queue[str | None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    @property
    def full(self) -> bool:
        """Whether there are as many listeners as there may be, or it is over."""
        return self._closed or len(self._listeners) >= MOST_LISTENERS

    async def events(self) -> AsyncIterator[str]:
        """A text/event-stream, from now on, until it is closed."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            if self._watching is None:
                self._watching = asyncio.create_task(self._watch(self._pulse()), name="live")
            # What changed while the client was away is unknown, so it reads everything once.
            yield "retry: 1000\n" + _event("hello", [])
            while True:
                try:
                    async with asyncio.timeout(_HEARTBEAT):
                        event = await queue.get()
                except TimeoutError:
                    event = ": still here\n\n"
                if event is None:
                    return
                yield event
        finally:
            self._listeners.discard(queue)
            if not self._listeners and self._watching is not None:
                self._watching.cancel()
                self._watching = None

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._end_streams()

    def _end_streams(self) -> None:
        """Browsers connect again, and see by it whether somebody is there."""
        for queue in self._listeners:
            queue.put_nowait(None)

    async def _watch(self, seen: Pulse) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                current = self._pulse()
            except Exception:
                log.exception("pages do not hear any more what changed")
                self._watching = None
                self._end_streams()
                return
            changed = [topic for topic, value in current.items() if seen.get(topic) != value]
            seen = current
            if changed:
                event = _event("change", changed)
                for queue in self._listeners:
                    # Who has not read the last ones yet will read everything anew anyway.
                    if queue.qsize() < 8:
                        queue.put_nowait(event)


def _event(name: str, topics: list[str]) -> str:
    return f"event: {name}\ndata: {json.dumps({'topics': topics})}\n\n"
