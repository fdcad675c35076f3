"""One endpoint as a pick sees it.

A candidate lives as long as its endpoint and is changed in place by the two parties that know
something: whoever reads the server's metrics, and whoever sends it requests. So a pick reads plain
attributes and builds nothing.

**The queue that a pick sees.** A scrape is a look into the past. Requests sent since are not in it,
and if they were ignored every pick until the next scrape would go to the same "idle" server. So::

    queue = waiting (as scraped) + unseen (sent from here since that scrape began, not yet ended)

A request sent while the scrape was under way counts as unseen: counted twice for one interval at
worst, never forgotten.

**Whether it has room** is a different question. A server that reported an empty queue takes new
requests straight into its batch; only one that reported a queue puts them behind it::

    backlog = queue if anybody was waiting, else 0

**What is not known** is never taken for idle: see :func:`assume_missing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from extproc.scheduling.signals import NOTHING, Signals, merge
from pools.model import Endpoint

_NO_ADAPTERS: frozenset[str] = frozenset()


class Candidate:
    """The live state of one endpoint. Read freely; change it only through its methods."""

    __slots__ = (
        "_assumed_capacity",
        "_assumed_kv",
        "_assumed_waiting",
        "_epoch",
        "_seen_epoch",
        "_unseen_before",
        "_unseen_now",
        "active_adapters",
        "adapter_capacity",
        "backlog",
        "endpoint",
        "fresh",
        "in_flight",
        "key",
        "kv_usage",
        "observed_at",
        "picked",
        "queue",
        "running",
        "signals",
        "times",
        "tokens",
        "waiting",
        "waiting_adapters",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.key = endpoint.key
        """``ip:port``."""
        self.signals = NOTHING
        """As last scraped; None where the server does not say."""
        self.times: dict[str, float] = {}
        """When each signal was last scraped."""
        self.observed_at: float | None = None
        """When the last good scrape began; None: never."""
        self.fresh = False
        """Whether the signals are recent enough to be believed."""

        self.waiting = 0
        """Requests in the server's queue, as scraped or assumed."""
        self.queue = 0
        """``waiting`` and what was sent since."""
        self.backlog = 0
        """The part of ``queue`` that surely waits."""
        self.running = 0
        self.kv_usage = 0.0
        self.active_adapters = _NO_ADAPTERS
        self.waiting_adapters = _NO_ADAPTERS
        self.adapter_capacity = 0

        self.in_flight = 0
        """Requests sent from here that have not ended."""
        self.tokens = 0
        """Their prompt tokens, estimated."""
        self.picked = 0
        """Requests ever sent from here."""

        self._epoch = 0
        self._seen_epoch = 0
        self._unseen_before = 0
        self._unseen_now = 0
        self._assumed_waiting = 0
        self._assumed_kv = 0.0
        self._assumed_capacity = 0

    def __repr__(self) -> str:
        return (
            f"<Candidate {self.key} queue={self.queue} kv={self.kv_usage:.2f} "
            f"in_flight={self.in_flight}{'' if self.fresh else ' not fresh'}>"
        )

    @property
    def unseen(self) -> int:
        """Open requests that no scrape has seen."""
        return self._unseen_before + self._unseen_now

    # What is sent there.

    def charge(self, tokens: int = 0) -> int:
        """A request was sent. Returns the epoch to hand back to :meth:`release`."""
        self.in_flight += 1
        self.picked += 1
        self.tokens += tokens
        self._unseen_now += 1
        self.queue += 1
        if self.waiting:
            self.backlog += 1
        return self._epoch

    def release(self, epoch: int, tokens: int = 0) -> None:
        """A request that was charged in ``epoch`` has ended."""
        self.in_flight -= 1
        self.tokens -= tokens
        if epoch >= self._seen_epoch:
            if epoch == self._epoch:
                self._unseen_now -= 1
            else:
                self._unseen_before -= 1
            self._recount()

    # What it says.

    def scrape_started(self) -> None:
        """What is sent from now on may not show in the scrape that has just begun."""
        self._unseen_before += self._unseen_now
        self._unseen_now = 0
        self._epoch += 1

    def observe(self, sample: Signals, now: float, keep_for: float) -> None:
        """The scrape that began at ``now`` gave ``sample``."""
        self.signals = merge(self.signals, self.times, sample, now, keep_for)
        self.observed_at = now
        self.fresh = True
        self._seen_epoch = self._epoch
        self._unseen_before = 0
        self._apply()

    def expire(self, now: float, keep_for: float) -> bool:
        """Stop believing signals older than ``keep_for``. Returns whether that changed anything."""
        if not self.fresh or (self.observed_at is not None and now - self.observed_at <= keep_for):
            return False
        self.fresh = False
        self._apply()
        return True

    def assume(self, waiting: int, kv_usage: float, adapter_capacity: int) -> None:
        """Use these where the server itself has not said (or not lately).

        A server that speaks but tells nothing of adapters has none: ``adapter_capacity`` is only
        for one that has not spoken yet.
        """
        assumed = (waiting, kv_usage, adapter_capacity)
        if assumed != (self._assumed_waiting, self._assumed_kv, self._assumed_capacity):
            self._assumed_waiting, self._assumed_kv, self._assumed_capacity = assumed
            self._apply()

    def complete(self) -> bool:
        """Whether nothing about it has to be assumed."""
        signals = self.signals
        return self.fresh and signals.waiting is not None and signals.kv_usage is not None

    def _apply(self) -> None:
        signals = self.signals
        waiting, kv_usage = signals.waiting, signals.kv_usage
        if not self.fresh:
            # Its last word may be too good, never too bad.
            waiting = max(waiting or 0, self._assumed_waiting)
            kv_usage = max(kv_usage or 0.0, self._assumed_kv)
        self.waiting = self._assumed_waiting if waiting is None else waiting
        self.kv_usage = self._assumed_kv if kv_usage is None else kv_usage
        self.running = signals.running or 0
        if (adapters := signals.adapters) is not None:
            self.active_adapters = adapters.active
            self.waiting_adapters = adapters.waiting
            self.adapter_capacity = adapters.capacity
        else:
            self.active_adapters = self.waiting_adapters = _NO_ADAPTERS
            self.adapter_capacity = 0 if self.fresh else self._assumed_capacity
        self._recount()

    def _recount(self) -> None:
        self.queue = self.waiting + self._unseen_before + self._unseen_now
        self.backlog = self.queue if self.waiting else 0


def assume_missing(candidates: Sequence[Candidate]) -> bool:
    """Fill in what some candidates have not said from what the others have.

    An endpoint that was never scraped, or not lately, or that lacks a metric, is taken to be a
    little busier than most of its peers: as the upper quartile of those that did say. So a known
    endpoint is preferred, and yet the first one to be scraped does not get all the traffic, since
    each request sent there makes its queue longer than what is assumed of the others. Where nobody
    says anything, all start at zero and the requests counted here decide.

    Returns whether anything had to be assumed.
    """
    missing = [c for c in candidates if not c.complete()]
    if not missing:
        return False
    fresh = [c.signals for c in candidates if c.fresh]
    waiting = _upper_quartile(s.waiting for s in fresh if s.waiting is not None)
    kv_usage = _upper_quartile(s.kv_usage for s in fresh if s.kv_usage is not None)
    capacity = max((s.adapters.capacity for s in fresh if s.adapters is not None), default=0)
    for candidate in missing:
        candidate.assume(int(waiting), kv_usage, capacity)
    return True


def _upper_quartile(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) * 3 // 4] if ordered else 0
