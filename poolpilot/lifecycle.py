"""Running the parts of a server until one is told to stop, or until one of them dies.

A part is a coroutine that serves for as long as it runs and cleans up when it is cancelled. No part
may end by itself: a server with a dead part would look healthy and do half its work, so the first
death stops the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager

import structlog

log = structlog.get_logger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FORCED_EXIT = 130
"""Exit status after a second stop signal."""


class PartDiedError(Exception):
    """A part of the server ended although nobody asked it to."""


@asynccontextmanager
async def stop_signals(force: Callable[[int], None] = os._exit) -> AsyncIterator[asyncio.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set. A second signal calls ``force`` at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("stopping now, without waiting", signal=number.name)
            force(FORCED_EXIT)
        else:
            log.info("stopping; once more to stop without waiting", signal=number.name)
            stop.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield stop
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


async def run(
    parts: Mapping[str, Coroutine[object, object, None]], stop: asyncio.Event, *, grace: float
) -> None:
    """Run ``parts`` until ``stop`` is set, then cancel them and give them ``grace`` seconds.

    Raises PartDiedError when one of them ends first (with its exception as the cause), and
    TimeoutError when one is still running after the grace period.
    """
    tasks = {asyncio.create_task(part, name=name) for name, part in parts.items()}
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        done, _ = await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Also when this coroutine itself is cancelled: nothing may be left running.
        stopped.cancel()
        for task in tasks:
            task.cancel()
        _, late = await asyncio.wait(tasks, timeout=grace)
    for task in tasks & done:
        cause = task.exception() if not task.cancelled() else None
        why = f"{type(cause).__name__}: {cause}" if cause else "it returned"
        raise PartDiedError(f"{task.get_name()} ended: {why}") from cause
    if late:
        names = ", ".join(sorted(task.get_name() for task in late))
        raise TimeoutError(f"{names} did not stop within {grace:g} s")
