"""Waiting for an event, but not for ever."""

from __future__ import annotations

import asyncio


async def set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until the event is set, at most for so many seconds (None: without end). Returns whether
    it is.

    ``asyncio.wait_for`` of Python 3.11 loses a cancellation that comes just as what it waits for is
    done: the task goes on, and whoever stops it waits for ever.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
