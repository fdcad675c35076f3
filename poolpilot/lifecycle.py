"""Running the parts of a server until one is told to stop, or until one of them dies.

A part is a coroutine that serves for as long as it runs and cleans up when it is cancelled. No part
may end by itself: a server with a dead part would look healthy and do half its work, so the first
death stops the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager

import structlog

from poolpilot.errors import PoolPilotError

log = structlog.get_logger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FORCED_EXIT = 130
"""Exit status after a second stop signal."""


class PartDiedError(PoolPilotError):
    """A part of the server ended although nobody asked it to."""


@asynccontextmanager
async def stop_signals(force: Callable[[int], None] = os._exit) -> AsyncIterator[asyncio.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set. A second signal calls ``force`` at once.

    Not SIGHUP where it is ignored already: ``nohup`` means that we outlive the terminal.
    """
    outlive = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = [one for one in STOP_SIGNALS if not (outlive and one is signal.SIGHUP)]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        # Act first: there may be nobody left who could read the log.
        if stop.is_set():
            force(FORCED_EXIT)
            return
        stop.set()
        log.info("stopping; once more to stop without waiting", signal=number.name)

    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def run(
    parts: Mapping[str, Coroutine[object, object, None]], stop: asyncio.Event, *, grace: float
) -> None:
    """Run ``parts`` until ``stop`` is set, then cancel them and give them ``grace`` seconds.

    Raises PartDiedError when one of them ends first, and TimeoutError when one is still running
    after the grace period, whyever it should stop.
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
    died = [PartDiedError(f"{t.get_name()} ended: {_why(t)}") for t in tasks & done]
    if late:
        for one in died:
            log.error(str(one))
        names = ", ".join(sorted(task.get_name() for task in late))
        raise TimeoutError(f"{names} did not stop within {grace:g} s")
    if died:
        raise died[0]


def _why(dead: asyncio.Task[None]) -> str:
    cause = None if dead.cancelled() else dead.exception()
    if cause is None:
        return "it returned"
    if isinstance(cause, PoolPilotError | OSError):
        # Written for people, and what they must do is outside this process.
        return str(cause)
    log.error("unexpected error", exc_info=cause)
    return f"{type(cause).__name__}: {cause}"


def run_until_stopped(
    parts: Callable[[], Mapping[str, Coroutine[object, object, None]]],
    *,
    grace: float,
) -> None:
    """Run ``parts`` (called inside the event loop) until a stop signal, on uvloop if it is there.

    Raises PartDiedError when one of them ends by itself.
    """

    async def serve() -> None:
        async with stop_signals() as stop:
            await run(parts(), stop, grace=grace)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(serve())
        except TimeoutError as error:
            # Closing the loop would wait for the same part again, without a limit.
            log.error("not stopped in time, leaving anyway", error=str(error))
            sys.stderr.flush()
            os._exit(FORCED_EXIT)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
