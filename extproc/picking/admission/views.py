"""What can be seen of the queues: rows for people, gauges and counts for Prometheus."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from extproc.picking.admission.admitting_picker import AdmittingPicker
from extproc.picking.admission.band import Band

FLOWS_SHOWN = 50


def queue_rows(picker: AdmittingPicker, now: float) -> list[dict[str, object]]:
    """Each pool that was asked for, with its bands and their longest flows."""
    return [
        {
            "pool": state.pool,
            "saturation": None if state.saturation is None else round(state.saturation, 4),
            "measured_by": state.measured_by,
            "ends_per_second": round(state.ends_per_second, 3),
            "waiting": sum(band.requests for band in state.bands),
            "bytes": sum(band.size for band in state.bands),
            "bands": [_band_row(picker, band, now) for band in state.bands],
        }
        for state in picker.states()
    ]


def _band_row(picker: AdmittingPicker, band: Band, now: float) -> dict[str, object]:
    settings = band.settings
    flows = [flow for flow in band.flows if flow or flow.in_flight]
    return {
        "priority": band.priority,
        "waits_at_saturation": settings.ceiling * (1 + picker.settings.headroom),
        "waiting": band.requests,
        "max_requests": settings.max_requests,
        "bytes": band.size,
        "max_bytes": settings.max_bytes,
        "fairness": settings.fairness.value,
        "order": settings.order.value,
        "flows": len(flows),
        "longest_flows": [
            {
                "flow": flow.name,
                "waiting": len(flow),
                "oldest_s": round(now - flow.oldest().arrived, 3) if flow else None,
                "dispatched_and_open": flow.in_flight,
                "virtual_service": round(flow.served),
            }
            for flow in heapq.nlargest(FLOWS_SHOWN, flows, key=len)
        ],
    }


class AdmissionCollector(Collector):
    """Hands the counts to prometheus_client."""

    def __init__(self, picker: AdmittingPicker) -> None:
        self._picker = picker

    def collect(self) -> Iterator[Metric]:
        metrics = self._picker.metrics
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
