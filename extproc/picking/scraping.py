"""When each endpoint is scraped, and for how long what it said is believed."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScrapeSettings:
    interval: float = 0.2
    """Seconds between two scrapes of one endpoint."""
    timeout: float = 1.0
    """Seconds for one scrape."""
    max_backoff: float = 5.0
    """Seconds between two scrapes of an endpoint that does not answer, at most."""
    max_concurrent: int = 64
    """Scrapes under way at once, over all endpoints that answer; those that do not share a quarter
    as many besides."""
    max_per_second: float = 250.0
    """Scrapes in all. Beyond ``interval * max_per_second`` endpoints the interval grows."""
    path: str = "/metrics"

    def __post_init__(self) -> None:
        for name in ("interval", "timeout", "max_backoff", "max_concurrent", "max_per_second"):
            if getattr(self, name) <= 0:
                raise ValueError(f"scrape {name} must be greater than 0")

    def interval_for(self, endpoints: int) -> float:
        """Seconds between two scrapes of one endpoint when there are so many."""
        return max(self.interval, endpoints / self.max_per_second)

    def stale_after(self, endpoints: int) -> float:
        """Seconds after which signals are out of date: five scrapes missed."""
        return 5 * self.interval_for(endpoints) + self.timeout

    def delay_before_first(self, rng: random.Random) -> float:
        """Seconds until an endpoint is asked first: soon, but not all at the same instant."""
        return rng.uniform(0, min(0.02, self.interval))

    def delay_before_next(self, endpoints: int, failures: int, rng: random.Random) -> float:
        """Seconds until an endpoint is asked again, after ``failures`` failures in a row."""
        interval = self.interval_for(endpoints)
        if failures:
            most = max(self.max_backoff, interval)
            interval = min(interval * 2 ** min(failures - 1, 16), most)
        return interval * rng.uniform(0.9, 1.1)
