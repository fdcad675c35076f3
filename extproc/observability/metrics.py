"""Counts for Prometheus.

Counting happens on the path of every request, so it is plain dictionaries and lists; the metric
families are built when Prometheus asks. Model names come from clients, and so may what they are
rewritten to: so the number of names that are told apart, and of pairs of two, is limited, and the
rest are counted as ``other``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from extproc.picking.endpoint_health import Fault, Standing
from extproc.picking.fleet import Fleet
from extproc.request import Completed, Refused

Counts = defaultdict[tuple[str, ...], int]
"""By label values."""

MAX_MODELS: Final = 200
MAX_NAME: Final = 256
"""Longer model names are counted as ``other``."""
OTHER: Final = "other"

PICK_SECONDS: Final[tuple[float, ...]] = (
    10e-6,
    20e-6,
    50e-6,
    100e-6,
    200e-6,
    500e-6,
    1e-3,
    2e-3,
    5e-3,
    10e-3,
    50e-3,
    0.1,
)
REQUEST_SECONDS: Final[tuple[float, ...]] = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4, 5, 8, 10, 15, 20, 30, 45),
    *(60, 120, 300, 600, 1200, 3600),
)
SIZES: Final = tuple(float(4**power) for power in range(3, 15))


class Histogram:
    """Counts by upper bound."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by bound, as the text format has them, and the sum."""
        total = 0.0
        cumulative: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, None), self._counts, strict=True):
            total += count
            cumulative.append(("+Inf" if bound is None else repr(float(bound)), total))
        return cumulative, self._sum


class Metrics:
    """What the endpoint picker counts."""

    def __init__(self, max_models: int = MAX_MODELS) -> None:
        self._max_models = max_models
        self._models: set[str] = set()
        self.is_known: Callable[[str], bool] = lambda model: False
        """Whether a model is one that the configuration or a pod names. Those have a label of their
        own, however many others clients have made up."""
        self.held_bytes: Callable[[], int] = lambda: 0
        """Of request bodies, at this moment."""
        self._rewrites: set[tuple[str, str]] = set()
        """Labels of a model and its target, where they differ."""
        self.requests: Counts = defaultdict(int)
        self.answers: Counts = defaultdict(int)
        self.pick_seconds = Histogram(PICK_SECONDS)
        self.completed: Counts = defaultdict(int)
        self.tokens: Counts = defaultdict(int)
        self.retries: defaultdict[str, int] = defaultdict(int)
        self.served_elsewhere: defaultdict[str, int] = defaultdict(int)
        self.ejections: Counts = defaultdict(int)
        self.expired = 0
        self._ended: dict[str, _Ended] = {}
        """By pool."""

    def model_label(self, model: str) -> str:
        """The model's name, or ``other`` once there are too many."""
        if model in self._models:
            return model
        if len(model) < MAX_NAME and (len(self._models) < self._max_models or self.is_known(model)):
            self._models.add(model)
            return model
        return OTHER

    def decided(self, pool: str, model: str, target: str, outcome: str, seconds: float) -> None:
        """``outcome``: ``routed``, or the reason of the refusal."""
        label = self.model_label(model)
        told = label if target == model else self.model_label(target)
        if target and told != label and (label, told) not in self._rewrites:
            if len(self._rewrites) < self._max_models:
                self._rewrites.add((label, told))
            else:
                told = OTHER
        self.requests[pool, label, told, outcome] += 1
        self.pick_seconds.observe(seconds)

    def refused(self, refused: Refused) -> None:
        """A client was told this, by the protocol or by the policy."""
        self.answers[str(refused.status), refused.reason] += 1

    def ended(self, pool: str, model: str, picked: str, completed: Completed) -> None:
        model = self.model_label(model)
        code = str(completed.code) if 100 <= completed.code <= 599 else "0"
        self.completed[pool, model, code] += 1
        if completed.attempts > 1:
            self.retries[pool] += completed.attempts - 1
        if completed.served and completed.served != picked:
            self.served_elsewhere[pool] += 1
        for kind, tokens in (
            ("prompt", completed.prompt_tokens),
            ("cached", completed.cached_tokens),
            ("completion", completed.completion_tokens),
        ):
            if tokens:
                self.tokens[pool, model, kind] += tokens
        histograms = self._ended.get(pool)
        if histograms is None:
            histograms = self._ended[pool] = _Ended()
        histograms.seconds.observe(completed.duration)
        if completed.time_to_first_byte is not None:
            histograms.first_byte_seconds.observe(completed.time_to_first_byte)
        histograms.request_bytes.observe(completed.request_bytes)
        histograms.response_bytes.observe(completed.response_bytes)

    def ejected(self, endpoint: str, fault: Fault) -> None:
        self.ejections[endpoint, fault.value] += 1

    def forget_all_but(self, endpoints: Container[str]) -> None:
        """Drop the series of endpoints that are gone."""
        for series in [series for series in self.ejections if series[0] not in endpoints]:
            del self.ejections[series]

    def collect(self) -> Iterator[Metric]:
        yield _counter(
            "poolpilot_requests",
            "Requests by what was decided: routed, or the reason of the refusal.",
            ("pool", "model", "target_model", "outcome"),
            self.requests,
        )
        yield _counter(
            "poolpilot_refusals",
            "Requests that were answered without an endpoint.",
            ("status", "reason"),
            self.answers,
        )
        held = GaugeMetricFamily("poolpilot_held_bytes", "Request bodies that are held for a pick.")
        held.add_metric((), self.held_bytes())
        yield held
        yield _histogram(
            "poolpilot_pick_duration_seconds", "What a decision costs.", {"": self.pick_seconds}
        )
        yield _counter(
            "poolpilot_responses",
            "Routed requests that have ended, by status code; 0: the client hung up.",
            ("pool", "model", "code"),
            self.completed,
        )
        yield _counter(
            "poolpilot_tokens",
            "Tokens that the servers reported, by kind.",
            ("pool", "model", "kind"),
            self.tokens,
        )
        yield _counter(
            "poolpilot_retries",
            "Further tries that Envoy made after the first endpoint failed.",
            ("pool",),
            {(pool,): count for pool, count in self.retries.items()},
        )
        yield _counter(
            "poolpilot_served_elsewhere",
            "Requests that another endpoint than the first choice answered.",
            ("pool",),
            {(pool,): count for pool, count in self.served_elsewhere.items()},
        )
        yield _counter(
            "poolpilot_ejections",
            "Times that an endpoint was taken out of picks, by reason.",
            ("endpoint", "fault"),
            self.ejections,
        )
        yield _counter(
            "poolpilot_expired",
            "Requests whose end nobody reported in time.",
            (),
            {(): self.expired},
        )
        yield _histogram(
            "poolpilot_request_duration_seconds",
            "From the first byte of the request to the last of the response.",
            {pool: one.seconds for pool, one in self._ended.items()},
        )
        answered = [item for item in self._ended.items() if item[1].first_byte_seconds.count]
        yield _histogram(
            "poolpilot_time_to_first_byte_seconds",
            "Until the first byte of the endpoint's answer.",
            {pool: one.first_byte_seconds for pool, one in answered},
        )
        yield _histogram(
            "poolpilot_request_size_bytes",
            "Bytes of request bodies.",
            {pool: one.request_bytes for pool, one in self._ended.items()},
        )
        yield _histogram(
            "poolpilot_response_size_bytes",
            "Bytes of response bodies.",
            {pool: one.response_bytes for pool, one in self._ended.items()},
        )


class _Ended:
    """What is measured of the requests of one pool that have ended."""

    __slots__ = ("first_byte_seconds", "request_bytes", "response_bytes", "seconds")

    def __init__(self) -> None:
        self.seconds = Histogram(REQUEST_SECONDS)
        self.first_byte_seconds = Histogram(REQUEST_SECONDS)
        self.request_bytes = Histogram(SIZES)
        self.response_bytes = Histogram(SIZES)


def _counter(
    name: str, text: str, labels: Sequence[str], values: Mapping[tuple[str, ...], int]
) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, text: str, by_pool: dict[str, Histogram]) -> Metric:
    labelled = set(by_pool) != {""}
    family = HistogramMetricFamily(name, text, labels=("pool",) if labelled else ())
    for pool, histogram in by_pool.items():
        buckets, total = histogram.buckets()
        family.add_metric((pool,) if labelled else (), buckets, total)
    return family


def fleet_families(fleet: Fleet, now: float) -> Iterator[Metric]:
    """Gauges of all endpoints, read at this moment."""
    picks = CounterMetricFamily(
        "poolpilot_picks", "Requests sent there as first choice.", labels=("endpoint",)
    )
    in_flight = GaugeMetricFamily(
        "poolpilot_in_flight", "Requests under way, counted here.", labels=("endpoint",)
    )
    queue = GaugeMetricFamily(
        "poolpilot_endpoint_queue",
        "Waiting requests as picks see them: scraped, and sent since.",
        labels=("endpoint",),
    )
    running = GaugeMetricFamily(
        "poolpilot_endpoint_running", "Running requests, as scraped.", labels=("endpoint",)
    )
    kv_usage = GaugeMetricFamily(
        "poolpilot_endpoint_kv_usage", "Share of the KV cache in use.", labels=("endpoint",)
    )
    age = GaugeMetricFamily(
        "poolpilot_endpoint_signal_age_seconds",
        "Since the last good scrape; absent if there was none.",
        labels=("endpoint",),
    )
    up = GaugeMetricFamily(
        "poolpilot_endpoint_up",
        "Whether the endpoint is in picks (1), returning (its share) or out (0).",
        labels=("endpoint",),
    )
    scrapes = CounterMetricFamily(
        "poolpilot_scrapes", "Scrapes by result.", labels=("endpoint", "result")
    )
    troubles = GaugeMetricFamily(
        "poolpilot_endpoint_trouble",
        "1 for as long as a question asked in the background is not answered.",
        labels=("endpoint", "question"),
    )
    told = GaugeMetricFamily(
        "poolpilot_endpoint_cache_told",
        "Whether the endpoint's own word on what it has cached is used (1), or a guess (0).",
        labels=("endpoint",),
    )
    for key, member in fleet.members.items():
        candidate = member.candidate
        told.add_metric((key,), fleet.load.exact.knows(candidate))
        for question in member.troubles:
            troubles.add_metric((key, question), 1)
        picks.add_metric((key,), candidate.picked)
        in_flight.add_metric((key,), candidate.in_flight)
        queue.add_metric((key,), candidate.queue)
        running.add_metric((key,), candidate.running)
        kv_usage.add_metric((key,), candidate.kv_usage)
        if candidate.observed_at is not None:
            age.add_metric((key,), max(0.0, now - candidate.observed_at))
        up.add_metric((key,), member.share(now))
        scrapes.add_metric((key, "ok"), member.scrapes - member.scrape_failures)
        scrapes.add_metric((key, "failed"), member.scrape_failures)
    ready = GaugeMetricFamily(
        "poolpilot_pool_ready_endpoints",
        "Endpoints of the pool that are in picks and not draining.",
        labels=("pool",),
    )
    for name, view in fleet.pools.items():
        ready.add_metric(
            (str(name),),
            sum(
                not member.candidate.endpoint.draining and member.standing(now) is not Standing.OUT
                for member in view.members
            ),
        )
    yield from (picks, in_flight, queue, running, kv_usage, age, up, scrapes, ready)
    yield from (troubles, told)


class PickerCollector(Collector):
    """Hands all of it to prometheus_client."""

    def __init__(self, metrics: Metrics, fleet: Fleet, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._fleet = fleet
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics.collect()
        yield from fleet_families(self._fleet, self._clock())


def registry_of(metrics: Metrics, fleet: Fleet, clock: Callable[[], float]) -> CollectorRegistry:
    """A registry of its own, so that two servers can live in one process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PickerCollector(metrics, fleet, clock))
    return registry
