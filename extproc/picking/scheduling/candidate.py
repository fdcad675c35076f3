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

**Prompts that are not prefilled yet** are the work that a new prompt has to wait for, and no server
tells it. See :mod:`extproc.picking.scheduling.load`, which keeps ``prefill_tokens`` right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from extproc.picking.scheduling.signals import NOTHING, Latency, Signals, merge
from pools.model import Endpoint

_NO_ADAPTERS: frozenset[str] = frozenset()
LATENCY_WEIGHT = 0.3
"""What the newest time to first token weighs in the mean."""
ERROR_WEIGHT = 0.1
"""What the newest answer weighs in the error rate."""
_FULL = 0.99
"""A KV cache that is fuller is taken to be so full ..."""
_TIGHT = 0.8
"""... and one from here on while requests wait: then what looks free is not enough for them."""
_SHORT = 4.0
"""Memory pressure from which on who waits, waits for memory: 80 % in use. With more room it is for
a step of the batch, which is soon over."""


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
        "adapter_requests",
        "adapter_slots_left",
        "adapters",
        "backlog",
        "bit",
        "cold_order",
        "cold_tokens",
        "cold_turn",
        "endpoint",
        "error_rate",
        "first_token_seconds",
        "first_tokens",
        "fresh",
        "in_flight",
        "key",
        "known_adapters",
        "kv_usage",
        "memory_pressure",
        "memory_queue",
        "observed_at",
        "output_tokens",
        "picked",
        "prefill_tokens",
        "queue",
        "recent_adapters",
        "restarts",
        "running",
        "signals",
        "slowness",
        "time_to_first_token",
        "times",
        "tokens",
        "waiting",
        "waiting_adapters",
    )

    def __init__(self, endpoint: Endpoint, known_adapters: set[str] | None = None) -> None:
        """``known_adapters`` is shared by the candidates of a fleet: a name that any server has
        reported as an adapter."""
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
        self.memory_pressure = 0.0
        """``usage / (1 - usage)`` of the KV cache: how long a queue for memory would be. At most
        99."""
        self.memory_queue = 0.0
        """``memory_pressure``, and where memory is short as many times as there are requests in the
        backlog and one."""
        self.active_adapters = _NO_ADAPTERS
        self.waiting_adapters = _NO_ADAPTERS
        self.adapter_capacity = 0

        self.in_flight = 0
        """Requests sent from here that have not ended."""
        self.tokens = 0
        """Their prompt tokens, estimated."""
        self.picked = 0
        """Requests ever sent from here."""
        self.prefill_tokens = 0
        """Prompt tokens of those requests that it has yet to work off: not cached there, and no
        sign yet that they were prefilled."""
        self.output_tokens = 0
        """Output tokens that are expected of the requests in flight."""
        self.cold_turn = 0
        """The turn in which it last got a prompt that no server had cached; 0: never."""
        self.cold_tokens = 0
        """Tokens of prompts that were new to it: what has to find room in its cache. Only the
        differences between endpoints mean something."""
        self.cold_order = 0
        """When it had the last of them, as a number that grows from pick to pick; 0: never."""
        self.bit = 0
        """Its place in the prefix index; 0: in none."""

        self.known_adapters = known_adapters if known_adapters is not None else set()
        self.adapter_requests: dict[str, int] = {}
        """Requests in flight from here for each adapter that has any."""
        self.recent_adapters: dict[str, None] = {}
        """Adapters sent there from here, the latest last: at most ``adapter_capacity``."""
        self.adapter_slots_left = 0
        """Slots that no request there runs with or waits for. Below 0: so many adapters wait until
        all requests of another have ended."""
        self.adapters: frozenset[str] = _NO_ADAPTERS
        """Adapters in a slot there, as far as we know: those in use if all of them fit, with the
        latest that no request uses now; else those that run."""

        self.first_tokens = 0
        """First tokens that it gave between its last two scrapes, over all who send to it."""
        self.first_token_seconds = 0.0
        """How long the requests had waited for those, in all."""
        self.slowness = 1.0
        """How many times as long as at the others a prompt takes there."""
        self.time_to_first_token: float | None = None
        """Seconds, a moving mean of what it reports; None: it does not say."""
        self.restarts = 0
        """How often it was seen to have been started again."""
        self.error_rate = 0.0
        """Share of its answers that were its own failures, a moving mean."""

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

    def charge(self, tokens: int = 0, model: str = "") -> int:
        """A request was sent. Returns the epoch to hand back to :meth:`release`."""
        if model in self.known_adapters:
            self._use_adapter(model)
        self.in_flight += 1
        self.picked += 1
        self.tokens += tokens
        self._unseen_now += 1
        self.queue += 1
        if self.waiting:
            self.backlog += 1
            if self.memory_pressure >= _SHORT:
                self.memory_queue += self.memory_pressure
        return self._epoch

    def release(self, epoch: int, tokens: int = 0, model: str = "") -> None:
        """A request that was charged in ``epoch`` has ended."""
        self.in_flight -= 1
        self.tokens -= tokens
        if model in self.adapter_requests:
            self._leave_adapter(model)
        if epoch >= self._seen_epoch:
            if epoch == self._epoch:
                self._unseen_now -= 1
            else:
                self._unseen_before -= 1
            self._recount()

    def _use_adapter(self, name: str) -> None:
        recent = self.recent_adapters
        recent.pop(name, None)
        recent[name] = None
        while len(recent) > max(1, self.adapter_capacity):
            del recent[next(iter(recent))]
        requests = self.adapter_requests.get(name, 0)
        self.adapter_requests[name] = requests + 1
        if not requests:
            self._recount_adapters()

    def _leave_adapter(self, name: str) -> None:
        requests = self.adapter_requests[name]
        if requests > 1:
            self.adapter_requests[name] = requests - 1
        else:
            del self.adapter_requests[name]
            self._recount_adapters()

    def _recount_adapters(self) -> None:
        in_use = self.active_adapters.union(self.waiting_adapters, self.adapter_requests)
        self.adapter_slots_left = left = self.adapter_capacity - len(in_use)
        if left < 0:
            self.adapters = self.active_adapters
        elif left > 0:
            idle = [name for name in self.recent_adapters if name not in in_use]
            self.adapters = in_use.union(idle[-left:])
        else:
            self.adapters = in_use

    def answered(self, well: bool) -> None:
        """It answered a request; not ``well`` if that was a failure of its own."""
        self.error_rate += ERROR_WEIGHT * ((not well) - self.error_rate)

    # What it says.

    def scrape_started(self) -> None:
        """What is sent from now on may not show in the scrape that has just begun."""
        self._unseen_before += self._unseen_now
        self._unseen_now = 0
        self._epoch += 1

    def observe(self, sample: Signals, now: float, keep_for: float) -> None:
        """The scrape that began at ``now`` gave ``sample``."""
        before = self.signals.latency
        self.signals = merge(self.signals, self.times, sample, now, keep_for)
        self._observe_latency(before, sample.latency)
        self.observed_at = now
        self.fresh = True
        self._seen_epoch = self._epoch
        self._unseen_before = 0
        self._apply()

    def _observe_latency(self, before: Latency | None, now: Latency | None) -> None:
        self.first_tokens = 0
        if before is None or now is None:
            return
        count, seconds = now.count - before.count, now.seconds - before.seconds
        if count < 0:
            self.restarts += 1
        if count <= 0 or seconds < 0:
            return
        self.first_tokens = count
        self.first_token_seconds = seconds
        mean = seconds / count
        known = self.time_to_first_token
        self.time_to_first_token = (
            mean if known is None else known + LATENCY_WEIGHT * (mean - known)
        )

    def recall(self, latency: Latency) -> None:
        """It had told this before we were started: fewer first tokens later mean that it was
        started since."""
        if self.signals.latency is None:
            self.signals = dataclasses.replace(self.signals, latency=latency)

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
        for one that has not spoken yet, or had no request yet, before which vLLM tells nothing.
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
        self.kv_usage = usage = self._assumed_kv if kv_usage is None else kv_usage
        if usage >= _FULL or (usage >= _TIGHT and self.waiting):
            usage = _FULL
        self.memory_pressure = usage / (1 - usage)
        self.running = signals.running or 0
        if (adapters := signals.adapters) is not None:
            self.active_adapters = adapters.active
            self.waiting_adapters = adapters.waiting
            self.adapter_capacity = adapters.capacity
            if adapters.active or adapters.waiting:
                self.known_adapters |= adapters.active
                self.known_adapters |= adapters.waiting
        else:
            self.active_adapters = self.waiting_adapters = _NO_ADAPTERS
            untried = signals.latency is not None and not signals.latency.count
            self.adapter_capacity = self._assumed_capacity if untried or not self.fresh else 0
        if self.active_adapters or self.waiting_adapters or self.recent_adapters:
            self._recount_adapters()
        self._recount()

    def _recount(self) -> None:
        self.queue = self.waiting + self._unseen_before + self._unseen_now
        self.backlog = self.queue if self.waiting else 0
        pressure = self.memory_pressure
        self.memory_queue = pressure if pressure < _SHORT else pressure * (1 + self.backlog)


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
    silent = [c for c in candidates if c.fresh and c.signals.adapters is None]
    if not missing and not silent:
        return False
    fresh = [c.signals for c in candidates if c.fresh]
    waiting = _upper_quartile(s.waiting for s in fresh if s.waiting is not None)
    kv_usage = _upper_quartile(s.kv_usage for s in fresh if s.kv_usage is not None)
    capacity = max((s.adapters.capacity for s in fresh if s.adapters is not None), default=0)
    for candidate in (*missing, *silent):
        candidate.assume(int(waiting), kv_usage, capacity)
    return bool(missing)


def _upper_quartile(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) * 3 // 4] if ordered else 0
