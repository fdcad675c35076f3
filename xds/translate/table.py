"""Route tables: what the HTTPRoutes of a Gateway mean, before it is written in Envoy's words.

Everything here is a plain value, so that an unchanged part of a table is recognised by equality.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pools.attachment import ServiceRef
from pools.model import (
    BodyMode,
    FailureMode,
    Filters,
    ObjectName,
    Retry,
    RouteMatch,
)

NO_FILTERS = Filters()


@dataclass(frozen=True, slots=True)
class PoolTarget:
    """A share of a route's requests that goes to a pool, by way of the endpoint picker."""

    pool: ObjectName
    weight: int = 1
    failure_mode: FailureMode = FailureMode.FAIL_CLOSE
    body_mode: BodyMode = BodyMode.FULL_DUPLEX_STREAMED
    picker: ServiceRef | None = None
    """Somebody else's picker; None: ours."""
    filters: Filters = NO_FILTERS


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """A share that goes to an ordinary Service; the picker is not asked."""

    service: ObjectName
    port: int
    weight: int = 1
    filters: Filters = NO_FILTERS


Target = PoolTarget | ServiceTarget


@dataclass(frozen=True, slots=True)
class Forward:
    targets: tuple[Target, ...]
    """Never empty, weights above zero."""
    lost_weight: int = 0
    """The share whose backend does not exist: it is answered with 500, as the Gateway API says."""
    request_timeout: float = 0.0
    """Seconds; 0: no limit."""
    try_timeout: float = 0.0
    filters: Filters = NO_FILTERS
    retry: Retry | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Envoy answers by itself, with an error in the form that OpenAI clients understand."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Redirection:
    """The client is sent elsewhere, as ``filters.redirect`` says."""

    filters: Filters
    scheme: str
    """``http`` or ``https``: of the listener."""
    port: int
    """Of the listener."""


@dataclass(frozen=True, slots=True)
class ByModel:
    """The picker finds the pool by the request's model, and leads to the pool's own entry with the
    header :data:`pools.contract.POOL_HEADER`. It refuses what it finds no pool for."""

    body_mode: BodyMode


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    match: RouteMatch
    action: Forward | Answer | Redirection | ByModel


@dataclass(frozen=True, slots=True)
class Host:
    domain: str
    """An exact hostname, ``*.suffix``, or ``*``."""
    entries: tuple[Entry, ...]
    """In the order in which they are tried; the last one matches everything."""


@dataclass(frozen=True, slots=True)
class Table:
    hosts: tuple[Host, ...]
    notes: tuple[str, ...] = ()
    """What in these routes cannot be had, naming the object."""

    def targets(self) -> Iterator[Target]:
        for host in self.hosts:
            for entry in host.entries:
                if isinstance(entry.action, Forward):
                    yield from entry.action.targets
