"""Noticing changes of files, on file systems that signal them and on those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

Watch = Callable[[Path], AsyncIterator[object]]
"""Yields anything whenever something changed there. May end or raise OSError."""

POLL = 2.0
"""Seconds between two looks where no change was signalled: not every file system signals (network
mounts, ConfigMaps and bind mounts of some container engines)."""


async def signal_changes(watch: Watch, path: Path, changed: asyncio.Event, poll: float) -> None:
    """A part: set ``changed`` with every signal. Where there are none, whoever waits looks every
    ``poll`` seconds by himself; that is said once, and the watch is tried as often."""
    said = ""
    while True:
        try:
            async for _ in watch(path):
                said = ""
                changed.set()
        except (OSError, RuntimeError) as error:
            # Without inotify it is the same every time.
            if str(error) != said:
                said = str(error)
                log.warning(
                    "not watched, but looked at now and then",
                    path=str(path),
                    every_s=poll,
                    error=said,
                )
        await asyncio.sleep(poll)
