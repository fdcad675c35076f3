"""What an operator can set about admission."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

MIB = 1 << 20


class Fairness(enum.StrEnum):
    """Whose turn it is, between the flows of one band."""

    ROUND_ROBIN = "round-robin"
    TOKENS = "tokens"
    """The flow that was served the fewest tokens."""


class Order(enum.StrEnum):
    """Whose turn it is within a flow."""

    FIRST_COME = "first-come"
    EARLIEST_DEADLINE = "earliest-deadline"


@dataclass(frozen=True, slots=True)
class UtilizationSettings:
    """An endpoint is full by what it reports: ``max(queue / queue_threshold, KV usage /
    kv_usage_threshold)`` of 1 or more."""

    queue_threshold: float = 5.0
    """Requests that wait there."""
    kv_usage_threshold: float = 0.8
    """Share of the KV cache in use."""

    def __post_init__(self) -> None:
        if not self.queue_threshold > 0:
            raise ValueError("queue_threshold: must be greater than 0")
        if not 0 < self.kv_usage_threshold <= 1:
            raise ValueError("kv_usage_threshold: must be greater than 0, and at most 1")


@dataclass(frozen=True, slots=True)
class ConcurrencySettings:
    """An endpoint is full by the requests under way there, counted here: it needs no metrics."""

    max_concurrency: int = 100
    """Requests in flight at one endpoint."""

    def __post_init__(self) -> None:
        if self.max_concurrency < 1:
            raise ValueError("max_concurrency: must be at least 1")


@dataclass(frozen=True, slots=True)
class BandSettings:
    """How the requests of one priority wait."""

    ceiling: float = 1.0
    """The saturation at which this band has to wait: less than 1 holds room back for those above
    it."""
    max_requests: int = 5000
    """Requests that may wait, in each pool."""
    max_bytes: int = 256 * MIB
    """Bytes of their bodies."""
    ttl: float = 20.0
    """Seconds that a request waits, where it does not say."""
    fairness: Fairness = Fairness.ROUND_ROBIN
    order: Order = Order.FIRST_COME

    def __post_init__(self) -> None:
        if not 0 < self.ceiling <= 1:
            raise ValueError("ceiling: must be greater than 0, and at most 1")
        if self.max_requests < 0 or self.max_bytes < 0:
            raise ValueError("max_requests, max_bytes: must not be negative")
        if not self.ttl > 0:
            raise ValueError("ttl: must be greater than 0 seconds")


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """Raises ValueError for what cannot work."""

    saturation: UtilizationSettings | ConcurrencySettings = field(
        default_factory=UtilizationSettings
    )
    headroom: float = 0.0
    """How far above its ceiling a band may fill the pool: 0.2 lets in a fifth more than the
    thresholds say."""
    default_band: BandSettings = field(default_factory=BandSettings)
    bands: Mapping[int, BandSettings] = field(default_factory=dict)
    """By priority, where not the default."""
    max_requests: int = 20_000
    """Requests that may wait, in all bands and pools."""
    max_bytes: int = 1024 * MIB
    """Bytes of their bodies."""
    max_ttl: float = 60.0
    """Seconds that any request may wait, whatever it asks for."""
    no_endpoints_ttl: float = 5.0
    """Seconds that a request waits for a pool without endpoints to get one."""
    output_weight: float = 2.0
    """What an output token counts, where an input token counts 1 (fairness by tokens)."""

    def __post_init__(self) -> None:
        if self.headroom < 0:
            raise ValueError("headroom: must not be negative")
        if self.max_requests < 0 or self.max_bytes < 0:
            raise ValueError("max_requests, max_bytes: must not be negative")
        if not self.max_ttl > 0:
            raise ValueError("max_ttl: must be greater than 0 seconds")
        if self.no_endpoints_ttl < 0 or self.output_weight < 0:
            raise ValueError("no_endpoints_ttl, output_weight: must not be negative")
        for band in (self.default_band, *self.bands.values()):
            if band.ttl > self.max_ttl:
                raise ValueError(
                    f"max_ttl: is {self.max_ttl:g} s, less than the ttl of a band ({band.ttl:g} s)"
                )
        above: tuple[int, float] | None = None
        for priority in sorted(self.bands, reverse=True):
            ceiling = self.bands[priority].ceiling
            if above is not None and ceiling > above[1]:
                raise ValueError(
                    f"bands: the ceiling of priority {priority} ({ceiling:g}) is above that of "
                    f"priority {above[0]} ({above[1]:g}); room is held back for those above, so "
                    "ceilings must not rise as priorities fall"
                )
            above = priority, ceiling

    def band(self, priority: int) -> BandSettings:
        return self.bands.get(priority, self.default_band)

    def deadline(self, priority: int, arrived: float, asked: float | None) -> float:
        """``asked``: seconds that the client is ready to wait, if it says so."""
        ttl = self.band(priority).ttl if asked is None else min(asked, self.max_ttl)
        return arrived + ttl
