"""DNS names of endpoints: each is resolved again and again, and what was found last stays.

:class:`Names` is the state, without clock or socket; :class:`Lookups` runs the look-ups.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from pools.assemble import Lookup
from pools.daemon import in_daemon_thread
from pools.tasks import Parts
from pools.waiting import set_within

log = structlog.get_logger(__name__)

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Addresses of a name. Raises OSError where there are none."""

RETRY = 5.0
"""Seconds after which a failed look-up is tried again, at most: a long refresh is for names that
are known to be good."""
CONCURRENT = 16
"""Look-ups at the same time."""


@dataclass(slots=True)
class _Name:
    refresh: float
    due: float
    lookup: Lookup | None = None
    """None until the first look-up ended."""
    running: bool = False


class Names:
    """What is known of each name, and when to look it up again. Times are in seconds."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}

    def want(self, refresh: Mapping[str, float], now: float) -> None:
        """Follow exactly these names, each with its seconds between two look-ups."""
        for name in self._names.keys() - refresh.keys():
            del self._names[name]
        for name, seconds in refresh.items():
            known = self._names.get(name)
            if known is None:
                self._names[name] = _Name(seconds, now)
            elif known.refresh != seconds:
                known.refresh = seconds
                known.due = min(known.due, now + seconds)

    def start_due(self, now: float) -> list[str]:
        """Names to look up now. Each is not due again before its look-up ended."""
        due = [
            name for name, state in self._names.items() if not state.running and state.due <= now
        ]
        for name in due:
            self._names[name].running = True
        return due

    def found(self, name: str, addresses: Iterable[str], now: float) -> bool:
        """A look-up ended well. Returns whether that changes anything.

        IPv6 addresses count where there are no IPv4 addresses.
        """
        unique = {ipaddress.ip_address(address) for address in addresses}
        if not unique:
            return self.failed(name, "it has no address", now)
        # A host with an address of each family would count as two servers.
        family = min(ip.version for ip in unique)
        ordered = tuple(
            str(ip) for ip in sorted(unique, key=lambda ip: ip.packed) if ip.version == family
        )
        return self._ended(name, Lookup(ordered), now, ok=True)

    def failed(self, name: str, error: str, now: float) -> bool:
        """A look-up failed: the last good addresses stay. Returns whether that changes anything."""
        before = self._names[name].lookup if name in self._names else None
        addresses = before.addresses if before else ()
        return self._ended(name, Lookup(addresses, error), now, ok=False)

    def _ended(self, name: str, lookup: Lookup, now: float, *, ok: bool) -> bool:
        state = self._names.get(name)
        if state is None:  # no longer wanted
            return False
        changed = state.lookup != lookup
        state.running = False
        state.lookup = lookup
        state.due = now + (state.refresh if ok else min(state.refresh, RETRY))
        return changed

    def next_due(self) -> float | None:
        """When the next look-up is to be started."""
        return min((s.due for s in self._names.values() if not s.running), default=None)

    @property
    def settled(self) -> bool:
        """Whether every name was looked up at least once."""
        return all(state.lookup is not None for state in self._names.values())

    @property
    def lookups(self) -> dict[str, Lookup]:
        return {n: state.lookup for n, state in self._names.items() if state.lookup is not None}


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
