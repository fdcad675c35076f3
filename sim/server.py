"""Serving simulated pods: one or many in a process, until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

from sim.config import PodConfig
from sim.pod import Pod

__all__ = ["Pod", "PodConfig", "serve", "serve_many"]


async def serve_many(
    configs: Sequence[PodConfig], *, ready: Callable[[Sequence[Pod]], None] | None = None
) -> None:
    """Serve pods until SIGTERM, SIGINT or cancellation; OSError if a port is taken.

    ``ready`` is called once all listen and knows their real ports. On a signal the pods stop
    accepting and finish what they have, for ``grace_seconds`` at most. Main thread only.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    pods = [Pod(config) for config in configs]
    try:
        for pod in pods:
            await pod.start()
        if ready is not None:
            ready(pods)
        await stopped.wait()
    finally:
        await asyncio.gather(*(pod.stop() for pod in pods))
        for number in signals:
            loop.remove_signal_handler(number)


async def serve(config: PodConfig, *, ready: Callable[[Pod], None] | None = None) -> None:
    """:func:`serve_many` with one pod."""
    await serve_many([config], ready=None if ready is None else lambda pods: ready(pods[0]))
