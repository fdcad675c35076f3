"""Running the parts of something: started by name, watched, and stopped together.

A part is a coroutine that serves until it is cancelled and cleans up then. No part may end by
itself: a server with a dead part would look healthy and do half its work. So whoever has parts
watches them (:meth:`Parts.run`, or :meth:`Parts.watch` while it does something else), and the first
end stops it all.

``asyncio.TaskGroup`` knows neither: a task that returns is no error to it, and it waits for ever
for one that does not stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")


class PartEndedError(Exception):
    """A part ended although nobody asked it to. The message names it and says why."""

    def __init__(self, part: str, cause: BaseException | None) -> None:
        super().__init__(
            f"{part} ended by itself"
            if cause is None
            else f"{part} ended: {str(cause) or type(cause).__name__}"
        )
        self.part = part
        self.cause = cause
        """What it raised; None: it just returned, or was cancelled by somebody else."""

    @property
    def origin(self) -> BaseException | None:
        """What the innermost part raised, where parts have parts."""
        return self.cause.origin if isinstance(self.cause, PartEndedError) else self.cause


class Parts:
    """Tasks that live and die together. Can be made outside an event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._jobs: set[asyncio.Task[Any]] = set()
        self._cancelled: set[asyncio.Task[Any]] = set()
        self._ended = asyncio.Event()
        self._first: tuple[str, BaseException | None] | None = None
        """Who ended by itself, and what it raised."""

    def start(self, name: str, part: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``part``, which may not end before it is cancelled. ``name`` is for people."""
        return self._start(name, part)

    def start_job(self, name: str, job: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``job``, which may return when it is done. To raise is an end like a part's."""
        task = self._start(name, job)
        self._jobs.add(task)
        return task

    def cancel(self, task: asyncio.Task[Any]) -> None:
        """Have one of them end, which :meth:`stop` still waits for."""
        # Once: another time would interrupt its cleaning up.
        if task in self._tasks and task not in self._cancelled:
            self._cancelled.add(task)
            task.cancel()

    async def watch(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``. Raises PartEndedError as soon as a part ends, or if one has
        already; then ``work`` is cancelled."""
        working = await _run_until(self._ended, work)
        if self._ended.is_set():
            self._raise()
        return working.result()

    async def first_end(self) -> NoReturn:
        """Raises PartEndedError as soon as a part ends."""
        await self._ended.wait()
        self._raise()

    async def run(self) -> NoReturn:
        """Watch them until cancelled, then stop them: that makes one part of them all.

        Raises PartEndedError when one of them ends.
        """
        try:
            await self.first_end()
        finally:
            await self.stop()

    async def stop(self, grace: float | None = None) -> tuple[str, ...]:
        """Cancel them and wait until all have ended, together for ``grace`` seconds at most (None:
        for as long as it takes). Returns the names of those that had not; they are left behind."""
        tasks = set(self._tasks)
        for task in tasks:
            self.cancel(task)
        late: set[asyncio.Task[Any]] = set()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
        self._tasks -= late
        names = tuple(sorted(task.get_name() for task in late))
        if names:
            log.error("not stopped in time", parts=", ".join(names), grace_s=grace)
        return names

    def _start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._note)
        return task

    def _note(self, task: asyncio.Task[Any]) -> None:
        cause = None if task.cancelled() else task.exception()
        self._tasks.discard(task)
        if task in self._cancelled:
            if cause is not None:
                log.error("failed when it was stopped", part=task.get_name(), exc_info=cause)
        elif self._first is not None and (cause is not None or task not in self._jobs):
            # Only one can be raised.
            log.error(str(PartEndedError(task.get_name(), cause)), exc_info=cause)
        elif cause is not None or task.cancelled() or task not in self._jobs:
            self._first = task.get_name(), cause
            self._ended.set()
        self._jobs.discard(task)
        self._cancelled.discard(task)

    def _raise(self) -> NoReturn:
        assert self._first is not None
        name, cause = self._first
        raise PartEndedError(name, cause) from cause


async def unless_set(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``work``, or None if ``stop`` is set before; then ``work`` is cancelled."""
    working = await _run_until(stop, work)
    return None if working.cancelled() and stop.is_set() else working.result()


async def _run_until(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run ``work`` until it ends, or until ``event`` is set or this is cancelled: then it is
    cancelled too, and has cleaned up. Returns it when it is done."""
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
        if not working.cancelled():
            working.exception()  # so that nothing complains where nobody asks any more
    return working
