"""Counts of admission for Prometheus. Priorities come from the configuration, not from clients, so
there are few of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from extproc.observability.metrics import Histogram
from extproc.picking.admission.admitting_picker import AdmittingPicker

QUEUE_SECONDS = (
    *(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8),
    *(1, 1.5, 2, 3, 5, 8, 10, 15, 20, 30, 60, 120, 300),
)


class AdmissionMetrics:
    """Counted on the path of every request, by plain dictionaries."""

    def __init__(self) -> None:
        self.outcomes: defaultdict[tuple[str, int, str], int] = defaultdict(int)
        """By pool, priority, and what became of it."""
        self.queue_seconds: dict[tuple[str, int], Histogram] = {}
        """Of requests that waited, however that ended, by pool and priority."""

    def count(self, pool: str, priority: int, outcome: str, waited: float | None) -> None:
        """See :meth:`extproc.picking.observer.Observer.admission`."""
        self.outcomes[pool, priority, outcome] += 1
        if waited is None:
            return
        histogram = self.queue_seconds.get((pool, priority))
        if histogram is None:
            histogram = self.queue_seconds[pool, priority] = Histogram(QUEUE_SECONDS)
        histogram.observe(waited)

    def forget_all_but(self, pools: Container[str]) -> None:
        """Drop the series of pools that are gone."""
        for outcome in [key for key in self.outcomes if key[0] not in pools]:
            del self.outcomes[outcome]
        for series in [key for key in self.queue_seconds if key[0] not in pools]:
            del self.queue_seconds[series]


class AdmissionCollector(Collector):
    """Hands the counts to prometheus_client."""

    def __init__(self, metrics: AdmissionMetrics, picker: AdmittingPicker) -> None:
        self._metrics = metrics
        self._picker = picker

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        by_band = ("pool", "priority")
        requests = GaugeMetricFamily(
            "poolpilot_queue_requests", "Requests that wait for an endpoint.", labels=by_band
        )
        size = GaugeMetricFamily("poolpilot_queue_bytes", "Bytes of their bodies.", labels=by_band)
        saturation = GaugeMetricFamily(
            "poolpilot_pool_saturation",
            "How full the pool is, 1 being full; absent while it has no endpoint.",
            labels=("pool",),
        )
        for state in self._picker.states():
            if state.saturation is not None:
                saturation.add_metric((state.pool,), state.saturation)
            for band in state.bands:
                requests.add_metric((state.pool, str(band.priority)), band.requests)
                size.add_metric((state.pool, str(band.priority)), band.size)
        outcomes = CounterMetricFamily(
            "poolpilot_admission",
            "Requests by what admission did: admitted at once, dispatched from the queue, "
            "withdrawn by the client, or the reason of the refusal.",
            labels=(*by_band, "outcome"),
        )
        for (pool, priority, outcome), count in metrics.outcomes.items():
            outcomes.add_metric((pool, str(priority), outcome), count)
        seconds = HistogramMetricFamily(
            "poolpilot_queue_duration_seconds",
            "Time in the queue of requests that had to wait, however that ended.",
            labels=by_band,
        )
        for (pool, priority), histogram in metrics.queue_seconds.items():
            buckets, total = histogram.buckets()
            seconds.add_metric((pool, str(priority)), buckets, total)
        yield from (requests, size, saturation, outcomes, seconds)
