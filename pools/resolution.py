"""What is known of DNS names, and when each is to be looked up again. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pools.addresses import no_host

RETRY = 5.0
"""Seconds after which a failed look-up is tried again, at most: a long refresh is for names that
are known to be good."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is known of a DNS name."""

    addresses: tuple[str, ...] = ()
    """From the last look-up that succeeded, sorted."""
    error: str = ""
    """Why the last look-up failed; empty if it did not."""


NOT_LOOKED_UP = Lookup(error="it was not resolved yet")


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

        IPv6 addresses count where there are no IPv4 addresses, and what no host can have (0.0.0.0,
        multicast, broadcast) does not count.
        """
        told = sorted(set(addresses))
        unique = {ipaddress.ip_address(address) for address in told if not no_host(address)}
        if not unique:
            reasons = ", ".join(f"{address} {no_host(address)}" for address in told)
            return self.failed(name, reasons or "it has no address", now)
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
