"""Look-ups of the DNS names of endpoints. When each is due is told by ``pools.resolution``."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from pools.daemon import in_daemon_thread
from pools.resolution import Lookup, Names
from pools.tasks import Parts
from pools.waiting import set_within

log = structlog.get_logger(__name__)

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Addresses of a name. Raises OSError where there are none."""

CONCURRENT = 16
"""Look-ups at the same time."""


class Lookups:
    """Looks up the names that are wanted, each when it is due, and says when something changed."""

    def __init__(
        self, resolve: Resolve, clock: Callable[[], float], on_change: Callable[[], None]
    ) -> None:
        self._resolve = resolve
        self._clock = clock
        self._on_change = on_change
        self._names = Names()
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._parts = Parts()
        self._settled = asyncio.Event()
        self.version = 0
        """Counts the changes of what was found."""

    def want(self, refresh: Mapping[str, float]) -> None:
        self._names.want(refresh, self._clock())
        self._wake.set()
        self._note_settled()

    @property
    def found(self) -> dict[str, Lookup]:
        return self._names.lookups

    async def settled(self, seconds: float) -> None:
        """Wait until every name was looked up once, but no longer than ``seconds``."""
        await set_within(self._settled, seconds)

    async def run(self) -> None:
        """A part of a source: until cancelled. Raises PartEndedError when a look-up broke."""
        try:
            while True:
                self._wake.clear()
                for name in self._names.start_due(self._clock()):
                    self._parts.start_job(f"dns {name}", self._look_up(name))
                due = self._names.next_due()
                wait = None if due is None else max(0.0, due - self._clock())
                await self._parts.watch(set_within(self._wake, wait))
        finally:
            await self._parts.stop()

    async def _look_up(self, name: str) -> None:
        try:
            async with self._slots:
                addresses = await self._resolve(name)
            changed = self._names.found(name, addresses, self._clock())
        except OSError as error:  # gaierror is one
            reason = error.strerror or str(error) or type(error).__name__
            changed = self._names.failed(name, reason, self._clock())
        except ValueError as error:
            changed = self._names.failed(name, str(error), self._clock())
        if changed:
            self.version += 1
            lookup = self._names.lookups[name]
            log.info("name looked up", name=name, addresses=lookup.addresses, error=lookup.error)
            self._on_change()
        self._wake.set()
        self._note_settled()

    def _note_settled(self) -> None:
        if self._names.settled:
            self._settled.set()
        else:
            self._settled.clear()


async def system_resolve(name: str) -> Sequence[str]:
    """A and AAAA records (and /etc/hosts) through the system's resolver. Raises OSError."""

    def look_up() -> list[str]:
        try:
            infos = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(str(error)) from error
        # A link-local address comes with its zone, which means nothing to Envoy.
        return [str(info[4][0]).partition("%")[0] for info in infos]

    return await in_daemon_thread(look_up, f"dns {name}")
