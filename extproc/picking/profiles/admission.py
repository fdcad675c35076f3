"""Admission as it is written in a profiles file: its section ``admission``."""

from __future__ import annotations

from extproc.picking.admission.settings import (
    AdmissionSettings,
    BandSettings,
    ConcurrencySettings,
    Fairness,
    Order,
    UtilizationSettings,
)
from extproc.picking.profiles.reading import KnownFields, number, strict
from pools.manifests.fields import choice, integer, list_of

MOST_SECONDS = 3600.0
"""That a file may let a request wait."""
_MOST = 1 << 40

_seconds = number(0.001, MOST_SECONDS)
_share = number(0.001, 1)


def read_admission(fields: KnownFields) -> AdmissionSettings:
    """Reports what is wrong, with its line, and then returns the defaults."""
    default = AdmissionSettings()
    default_band = fields.optional("defaultBand", strict(_band), default.default_band)
    bands: dict[int, BandSettings] = {}
    bands_at = fields.get("bands")
    for priority, band in fields.optional("bands", list_of(strict(_prioritised)), ()):
        if priority in bands and bands_at is not None:
            bands_at.error(f"priority {priority} is given twice")
        bands[priority] = band
    try:
        return AdmissionSettings(
            saturation=fields.optional("saturation", strict(_saturation), default.saturation),
            headroom=fields.optional("headroom", number(0, 10), default.headroom),
            default_band=default_band,
            bands=bands,
            max_requests=fields.optional("maxRequests", integer(0, _MOST), default.max_requests),
            max_bytes=fields.optional("maxBytes", integer(0, _MOST), default.max_bytes),
            max_ttl=fields.optional("maxTtlSeconds", _seconds, default.max_ttl),
            no_endpoints_ttl=fields.optional(
                "noEndpointsTtlSeconds", number(0, MOST_SECONDS), default.no_endpoints_ttl
            ),
            output_weight=fields.optional("outputWeight", number(0, 1000), default.output_weight),
        )
    except ValueError as error:
        fields.place.error(str(error))
        return default


def _saturation(fields: KnownFields) -> UtilizationSettings | ConcurrencySettings:
    utilization = fields.optional("utilization", strict(_utilization), None)
    concurrency = fields.optional("concurrency", strict(_concurrency), None)
    if (utilization is None) == (concurrency is None):
        fields.place.error("must have either utilization or concurrency")
    return utilization or concurrency or UtilizationSettings()


def _utilization(fields: KnownFields) -> UtilizationSettings:
    default = UtilizationSettings()
    return UtilizationSettings(
        fields.optional("queueThreshold", number(0.001, 1e6), default.queue_threshold),
        fields.optional("kvUsageThreshold", _share, default.kv_usage_threshold),
    )


def _concurrency(fields: KnownFields) -> ConcurrencySettings:
    return ConcurrencySettings(
        fields.optional(
            "maxConcurrency", integer(1, 1 << 31), ConcurrencySettings().max_concurrency
        )
    )


def _prioritised(fields: KnownFields) -> tuple[int, BandSettings]:
    return fields.required("priority", integer(-(1 << 31), (1 << 31) - 1)), _band(fields)


def _band(fields: KnownFields) -> BandSettings:
    default = BandSettings()
    return BandSettings(
        ceiling=fields.optional("ceiling", _share, default.ceiling),
        max_requests=fields.optional("maxRequests", integer(0, _MOST), default.max_requests),
        max_bytes=fields.optional("maxBytes", integer(0, _MOST), default.max_bytes),
        ttl=fields.optional("ttlSeconds", _seconds, default.ttl),
        fairness=fields.optional("fairness", choice(Fairness), default.fairness),
        order=fields.optional("order", choice(Order), default.order),
    )
