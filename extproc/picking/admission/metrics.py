"""Counts of admission for Prometheus. Priorities come from the configuration, not from clients, so
there are few of them."""

from __future__ import annotations

from collections import defaultdict

from extproc.observability.metrics import Histogram

QUEUE_SECONDS = (
    *(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8),
    *(1, 1.5, 2, 3, 5, 8, 10, 15, 20, 30, 60, 120, 300),
)

ADMITTED = "admitted"
"""There was room at once."""
DISPATCHED = "dispatched"
"""It waited, and was served."""
WITHDRAWN = "withdrawn"
"""The client hung up while it waited, or its pick took too long."""


class AdmissionMetrics:
    """Counted on the path of every request, by plain dictionaries."""

    def __init__(self) -> None:
        self.outcomes: defaultdict[tuple[str, int, str], int] = defaultdict(int)
        """By pool, priority, and what became of it: one of the above, or the reason of the
        refusal."""
        self.queue_seconds: dict[tuple[str, int], Histogram] = {}
        """Of requests that waited, however that ended, by pool and priority."""

    def waited(self, pool: str, priority: int, outcome: str, seconds: float) -> None:
        self.outcomes[pool, priority, outcome] += 1
        histogram = self.queue_seconds.get((pool, priority))
        if histogram is None:
            histogram = self.queue_seconds[pool, priority] = Histogram(QUEUE_SECONDS)
        histogram.observe(seconds)

    def forget_pool(self, pool: str) -> None:
        for outcome in [key for key in self.outcomes if key[0] == pool]:
            del self.outcomes[outcome]
        for series in [key for key in self.queue_seconds if key[0] == pool]:
            del self.queue_seconds[series]
