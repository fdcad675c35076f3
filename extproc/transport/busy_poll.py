"""Waiting for the next message awake.

A process that sleeps is woken late, and its core has forgotten it meanwhile: where the core is a
virtual one, and its requests come one at a time, that is half of what a pick adds to a request. A
core that is never let go is the price, so this is off unless it is asked for.
"""

from __future__ import annotations

import asyncio
import os


class BusyPoll:
    """Keeps an event loop from sleeping for ``window`` seconds after each message."""

    def __init__(self, loop: asyncio.AbstractEventLoop, window: float) -> None:
        self._loop = loop
        self._window = window
        self._until = 0.0
        self._awake = False

    def heard(self, now: float) -> None:
        """Something came. ``now``: on the loop's clock."""
        self._until = now + self._window
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        # With a callback due, the loop looks at its sockets without waiting for them.
        if self._loop.time() < self._until:
            os.sched_yield()  # whoever else needs this core goes first
            self._loop.call_soon(self._look)
        else:
            self._awake = False
