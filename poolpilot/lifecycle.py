"""A process whose parts run until a signal; the first that ends before is the end of all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager

import structlog

from poolpilot import logs
from poolpilot.errors import PoolPilotError
from pools.tasks import PartEndedError, Parts, unless_set

log = structlog.get_logger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FORCED_EXIT = 130
"""Exit status after a second stop signal."""
CLOSING = 2.0
"""Seconds that a server may take to close after the grace period it gives others."""


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
    running = Parts()
    for name, part in parts.items():
        running.start(name, part)
    died: PartDiedError | None = None
    late: tuple[str, ...] = ()
    try:
        await unless_set(stop, running.first_end())
    except PartEndedError as ended:
        died = PartDiedError(explained(ended))
    finally:
        # Also when this coroutine itself is cancelled: nothing may be left running.
        late = await running.stop(grace)
    if late:
        if died is not None:
            log.error(str(died))
        raise TimeoutError(f"{', '.join(late)} did not stop within {grace:g} s")
    if died is not None:
        raise died


def explained(ended: PartEndedError) -> str:
    """In one line. What was not written for people to read goes to the log as well."""
    if ended.origin is None or isinstance(ended.origin, PoolPilotError | OSError):
        return str(ended)
    log.error("unexpected error", exc_info=ended.origin)
    return f"{ended} ({type(ended.origin).__name__})"


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
            logs.flush()
            os._exit(FORCED_EXIT)
        finally:
            # What the command line says of an end comes after what led to it.
            logs.flush()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
