"""The queues of admission as rows for people."""

from __future__ import annotations

import heapq

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
