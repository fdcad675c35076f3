"""The ``files`` source: a watched directory of manifests.

What a broken, emptied or vanished file means is decided in ``pools.catalog``. This module only
waits: for the file system, for name look-ups, for time to pass.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path

import structlog
import watchfiles

from pools.assemble import assemble, next_expiry
from pools.catalog import DEFAULT_GRACE, Catalog
from pools.directory import Contents, Listing, list_directory
from pools.dns import Lookups, Resolve, system_resolve
from pools.manifests import Object
from pools.model import PoolEndpoints, Problem, Severity, World
from pools.source import SourceError, Succession
from pools.tasks import Parts
from pools.waiting import set_within
from pools.watching import POLL, Watch, signal_changes

__all__ = ["FilesSource", "SourceError", "read_once"]

log = structlog.get_logger(__name__)

DEBOUNCE = 0.05
"""Seconds for which nothing may change before files are read."""
MAX_SETTLE_ROUNDS = 20
"""After so many debounce times a directory that never rests is read as it is."""
FIRST_LOOKUPS = 3.0
"""Seconds for which the first World waits for names to be resolved."""
LATER_LOOKUPS = 0.2
"""The same for a World with names that were not there before."""


def watch_directory(directory: Path) -> AsyncIterator[object]:
    """Signals of the operating system, or polling where ``WATCHFILES_FORCE_POLLING`` is set."""
    return watchfiles.awatch(
        directory, watch_filter=None, debounce=50, step=10, ignore_permission_denied=True
    )


class FilesSource:
    """A directory of manifests (``*.yaml``, ``*.yml``, ``*.json``, at any depth) as a Source.

    ``grace`` and ``debounce`` and ``poll`` are in seconds; ``clock`` counts seconds, ``now`` those
    since 1970.
    """

    def __init__(
        self,
        directory: Path,
        *,
        resolve: Resolve = system_resolve,
        watch: Watch = watch_directory,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        grace: float = DEFAULT_GRACE,
        debounce: float = DEBOUNCE,
        poll: float = POLL,
    ) -> None:
        self._directory = directory
        self._resolve = resolve
        self._watch = watch
        self._clock = clock
        self._now = now
        self._grace = grace
        self._debounce = debounce
        self._poll = poll

    async def worlds(self) -> AsyncGenerator[World, None]:
        """Yield a World for each consistent state of the directory that differs from the last.

        Raises SourceError if the directory is not there at the start. Close the iterator
        (``contextlib.aclosing``) to stop the watching and the look-ups.
        """
        require_directory(self._directory)
        changed = asyncio.Event()
        lookups = Lookups(self._resolve, self._clock, changed.set)
        state = _State(self._directory, self._grace, self._debounce, self._clock)
        parts = Parts()
        watching = parts.start("watch of the directory", self._signal(changed))
        parts.start("look-ups of names", lookups.run())
        try:
            await state.refresh()
            lookups.want(_names(state.objects))
            await lookups.settled(FIRST_LOOKUPS)
            watched = state.root
            succession = Succession()
            while True:
                version = lookups.version
                now = self._now()
                current = assemble(state.objects, lookups.found, state.problems, now=now)
                if _says_nothing(current):
                    current = replace(current, problems=(nothing_in(self._directory),))
                expiry = next_expiry(current, now)
                world = succession.next(current)
                if world is not None:
                    yield world
                while True:
                    await parts.watch(self._wait(changed, state.deadline))
                    changed.clear()
                    if await state.refresh() or lookups.version != version:
                        break
                    if self._now() >= expiry:
                        break
                if state.root is not None and state.root != watched:
                    # The watch is on the directory that was there before.
                    parts.cancel(watching)
                    watched = state.root
                    watching = parts.start("watch of the directory", self._signal(changed))
                lookups.want(_names(state.objects))
                await lookups.settled(LATER_LOOKUPS)
        finally:
            await parts.stop()

    def _signal(self, changed: asyncio.Event) -> Coroutine[object, object, None]:
        return signal_changes(self._watch, self._directory, changed, self._poll)

    async def _wait(self, changed: asyncio.Event, deadline: float | None) -> None:
        wait = self._poll
        if deadline is not None:
            wait = min(wait, max(0.0, deadline - self._clock()))
        await set_within(changed, wait)


async def read_once(directory: Path, *, resolve: Resolve = system_resolve) -> World:
    """The World that a directory describes now, with names looked up once.

    Raises SourceError if the directory is not there, or nothing is described in it.
    """
    require_directory(directory)
    catalog = Catalog()
    listing = await asyncio.to_thread(list_directory, directory)
    readings = await asyncio.to_thread(Contents(directory).read, listing)
    catalog.update(readings, 0.0, unreadable=listing.unreadable)
    objects = catalog.objects()
    changed = asyncio.Event()
    lookups = Lookups(resolve, time.monotonic, changed.set)
    parts = Parts()
    parts.start("look-ups of names", lookups.run())
    try:
        lookups.want(_names(objects))
        await parts.watch(lookups.settled(FIRST_LOOKUPS))
    finally:
        await parts.stop()
    world = assemble(objects, lookups.found, catalog.problems(), revision=1, now=time.time())
    if _says_nothing(world):
        raise SourceError(str(nothing_in(directory)))
    return world


def _says_nothing(world: World) -> bool:
    return world.is_empty and not world.problems


def nothing_in(directory: Path) -> Problem:
    """What is wrong with a directory of other things than manifests."""
    return Problem(
        Severity.WARNING,
        "nothing is described here: put manifests (*.yaml, *.yml or *.json) of an InferencePool "
        "and its PoolEndpoints into it, or name the directory that has them",
        source=str(directory),
    )


def require_directory(directory: Path) -> None:
    """Raises SourceError with what to do if there is no such directory."""
    if not directory.exists():
        raise SourceError(
            f"there is no directory {directory}: create it and put manifests (*.yaml) into it"
        )
    if not directory.is_dir():
        raise SourceError(f"{directory} is a file: name the directory that it is in")


class _State:
    """The directory as it was last read."""

    def __init__(
        self, directory: Path, grace: float, debounce: float, clock: Callable[[], float]
    ) -> None:
        self._directory = directory
        self._debounce = debounce
        self._clock = clock
        self._contents = Contents(directory)
        self._catalog = Catalog(grace)
        self._listing: Listing | None = None
        self.objects: list[Object] = []
        self.problems: list[Problem] = []

    @property
    def root(self) -> tuple[int, int] | None:
        return self._listing.root if self._listing else None

    @property
    def deadline(self) -> float | None:
        """When an object that vanished is to be given up."""
        return self._catalog.deadline()

    async def refresh(self) -> bool:
        """Read what changed, once nothing changes any more. Returns whether anything may have."""
        listing = await asyncio.to_thread(list_directory, self._directory)
        deadline = self._catalog.deadline()
        is_due = deadline is not None and deadline <= self._clock()
        if listing == self._listing and not is_due:
            return False
        for _ in range(MAX_SETTLE_ROUNDS):
            before = listing
            await asyncio.sleep(self._debounce)
            listing = await asyncio.to_thread(list_directory, self._directory)
            if listing != before:
                continue
            readings = await asyncio.to_thread(self._contents.read, listing)
            after = await asyncio.to_thread(list_directory, self._directory)
            if after == listing:
                break
            listing = after
        else:
            readings = await asyncio.to_thread(self._contents.read, listing)
        self._catalog.update(readings, self._clock(), unreadable=listing.unreadable)
        self._listing = listing
        self.objects = self._catalog.objects()
        self.problems = self._catalog.problems()
        return True


def _names(objects: Iterable[Object]) -> dict[str, float]:
    """The DNS names in use, each with the shortest refresh that is asked for."""
    names: dict[str, float] = {}
    for item in objects:
        if isinstance(item, PoolEndpoints):
            for host in item.hosts:
                if host.is_name:
                    names[host.address] = min(names.get(host.address, item.refresh), item.refresh)
    return names
