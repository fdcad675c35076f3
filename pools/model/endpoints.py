"""Where the servers of a pool are without Kubernetes, as it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pools.model.objects import ObjectName, Origin

DEFAULT_REFRESH = 5.0
"""Seconds between two look-ups of a DNS name."""


@dataclass(frozen=True, slots=True)
class Host:
    """One entry of ``spec.endpoints``."""

    address: str
    """An IP address in its shortest form, or a DNS name."""
    is_name: bool
    name: str = ""
    ports: tuple[int, ...] = ()
    """Empty: the pool's target ports."""
    metrics_port: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    draining: bool = False
    line: int | None = None


@dataclass(frozen=True, slots=True)
class PoolEndpoints:
    """Where the servers of one pool are."""

    name: ObjectName
    pool: ObjectName
    hosts: tuple[Host, ...]
    refresh: float = DEFAULT_REFRESH
    """Seconds between two look-ups of each DNS name."""
    origin: Origin | None = None
