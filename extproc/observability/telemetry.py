"""What happens in the picking core, as metrics, log lines and the request log."""

from __future__ import annotations

import structlog

from extproc.observability.admission import AdmissionMetrics
from extproc.observability.metrics import Metrics
from extproc.observability.request_log import RequestLog
from extproc.picking.decisions import DecisionRecord
from extproc.picking.endpoint_health import Fault
from extproc.picking.fleet import Fleet
from extproc.request import Refused

log = structlog.get_logger(__name__)


class Telemetry:
    """Implements :class:`extproc.picking.observer.Observer`."""

    def __init__(self, request_log: RequestLog | None = None) -> None:
        self.metrics = Metrics()
        self.admission_metrics = AdmissionMetrics()
        self.request_log = request_log
        """Gets each request that ended, expired or was refused."""

    def decided(self, record: DecisionRecord) -> None:
        outcome, result = record.outcome, "routed"
        if isinstance(outcome, Refused):
            result = outcome.reason
            if self.request_log is not None:
                self.request_log.ended(record)
        self.metrics.decided(
            record.pool_label, record.model, record.target_model, result, record.seconds
        )

    def ended(self, record: DecisionRecord) -> None:
        outcome, completed = record.outcome, record.completed
        if completed is not None and not isinstance(outcome, Refused):
            picked = outcome.endpoints[0]
            self.metrics.ended(record.pool_label, record.model, picked, completed)
        if self.request_log is not None:
            self.request_log.ended(record)

    def expired(self, record: DecisionRecord) -> None:
        self.metrics.expired += 1
        if self.request_log is not None:
            self.request_log.ended(record)

    def ejected(self, endpoint: str, fault: Fault) -> None:
        self.metrics.ejected(endpoint, fault)
        log.warning("endpoint taken out of picks", endpoint=endpoint, fault=fault.value)

    def admission(self, pool: str, priority: int, outcome: str, waited: float | None) -> None:
        self.admission_metrics.count(pool, priority, outcome, waited)

    def failed(self, what: str, pool: str) -> None:
        log.exception(what, pool=pool)

    def follow(self, fleet: Fleet) -> None:
        """Drop the series of endpoints and pools that are gone."""
        self.metrics.forget_all_but(fleet.members)
        self.admission_metrics.forget_all_but({view.label for view in fleet.pools.values()})
