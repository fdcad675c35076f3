"""How full a pool is: 1 when all of its capacity is taken, more when it is overloaded.

Either is a mean over the endpoints that are in picks (draining ones and those that were taken out
give no capacity; if there are no others, all count, as they do in picks):

- **utilisation**: ``max(queue / Tq, KV usage / Tkv)``. The queue is the one that picks see: what
  the server reported, and what was sent there since, so each pick shows at once. What one server
  reports counts 2 at most: if it is stuck behind a long queue it takes away the room of another
  one, not that of the whole pool.
- **concurrency**: requests in flight over what an endpoint takes.

**Signals that are old or missing** (utilisation). Old is what the scraper says is old, so it
follows the scrape interval: five scrapes missed, and the timeout of one (2 s as shipped). Such an
endpoint, and one that was never scraped, counts as full, and what is sent there on top. A signal
that the server does not have is assumed from its peers, as in picks. If *no* endpoint has fresh
signals, what is broken is the scraping, and holding all traffic back would make an outage of it:
the pool is then measured by concurrency, at :data:`BLIND_CONCURRENCY` per endpoint.
"""

from __future__ import annotations

from collections.abc import Callable

from extproc.picking.admission.settings import ConcurrencySettings, UtilizationSettings
from extproc.picking.endpoint_health import Standing
from extproc.picking.fleet import PoolView
from extproc.picking.scheduling.candidate import Candidate

BLIND_CONCURRENCY = 100
"""Requests in flight that an endpoint is taken to stand, where nobody's metrics can be read."""
MOST = 2.0
"""What the queue that one endpoint reports counts at most."""
RECOUNT = 0.25
"""Seconds after which all is counted anew, as health changes with time alone."""
_ROUNDING = 1e-9

Measure = Callable[[Candidate], float]


class Saturation:
    """Of one pool. Counting all endpoints costs O(n), so mostly only those are looked at that were
    charged, released or scraped."""

    __slots__ = (
        "_assuming",
        "_counted_at",
        "_loads",
        "_measure",
        "_settings",
        "_total",
        "_view",
        "measured_by",
    )

    def __init__(self, settings: UtilizationSettings | ConcurrencySettings, view: PoolView) -> None:
        self._settings = settings
        self._view = view
        self._loads: dict[str, float] = {}
        self._measure: Measure = _in_flight
        self._total = 0.0
        self._counted_at: float | None = None
        self._assuming = True
        """Whether signals had to be assumed when all was counted."""
        self.measured_by = ""
        """For people."""

    @property
    def view(self) -> PoolView:
        return self._view

    def follow(self, view: PoolView) -> None:
        """The pool has changed."""
        self._view = view
        self._counted_at = None

    def use(self, settings: UtilizationSettings | ConcurrencySettings) -> None:
        """Measure by these from now on."""
        self._settings = settings
        self._counted_at = None

    def recount(self) -> None:
        """Several endpoints may have changed."""
        self._counted_at = None

    def scraped(self, candidate: Candidate) -> None:
        """An endpoint's signals have changed, or have become too old."""
        if self._assuming or self._view.assuming:
            # What is assumed of others changes with it.
            self.recount()
        else:
            self.changed(candidate)

    def changed(self, candidate: Candidate) -> None:
        """A request was sent there, or has ended there."""
        before = self._loads.get(candidate.key)
        if before is not None and self._counted_at is not None:
            load = self._loads[candidate.key] = self._measure(candidate)
            self._total += load - before

    def level(self, now: float) -> float | None:
        """None: the pool has no endpoint."""
        counted_at = self._counted_at
        if counted_at is None or now - counted_at >= RECOUNT:
            self._count(now)
        loads = self._loads
        # What is full by the sum of its parts must not look free by 1e-16.
        return self._total / len(loads) + _ROUNDING if loads else None

    def _count(self, now: float) -> None:
        self._counted_at = now
        self._assuming = self._view.assuming
        members = self._view.members
        counted = [
            member.candidate
            for member in members
            if not member.candidate.endpoint.draining
            and member.health.standing(now) is not Standing.OUT
        ] or [member.candidate for member in members]
        settings = self._settings
        if isinstance(settings, ConcurrencySettings):
            self._use("concurrency", _by_concurrency(settings.max_concurrency))
        elif any(candidate.fresh for candidate in counted):
            self._use("utilization", _by_utilization(settings))
        else:
            self._use("concurrency (no fresh metrics)", _by_concurrency(BLIND_CONCURRENCY))
        measure = self._measure
        self._loads = {candidate.key: measure(candidate) for candidate in counted}
        self._total = sum(self._loads.values())

    def _use(self, name: str, measure: Measure) -> None:
        self.measured_by = name
        self._measure = measure


def _in_flight(candidate: Candidate) -> float:
    return float(candidate.in_flight)


def _by_concurrency(capacity: int) -> Measure:
    return lambda candidate: candidate.in_flight / capacity


def _by_utilization(settings: UtilizationSettings) -> Measure:
    per_request, per_kv = 1 / settings.queue_threshold, 1 / settings.kv_usage_threshold

    def measure(candidate: Candidate) -> float:
        reported = min(candidate.waiting * per_request, MOST)
        if not candidate.fresh:
            reported = max(reported, 1.0)
        return max(reported + candidate.unseen * per_request, candidate.kv_usage * per_kv)

    return measure
