"""Looking through the last decisions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from extproc.picking.decisions import DecisionLog, DecisionRecord
from extproc.request import Refused, Routed

DEFAULT_LIMIT = 50

IN_PROGRESS, FAILED, REFUSED = "in-progress", "failed", "refused"
"""Outcomes that can be asked for beside ``routed`` and the reasons of refusals."""


def found(log: DecisionLog, wanted: Mapping[str, str]) -> Iterator[DecisionRecord]:
    """The last decisions, newest first, that are as ``wanted`` by ``pool``, ``model`` (asked for or
    sent), ``endpoint`` (picked or served), ``outcome``, and ``after`` (only those that are newer
    than this one). At most ``limit``; raises ValueError if that is no number."""
    try:
        limit = int(wanted.get("limit", DEFAULT_LIMIT))
    except ValueError:
        raise ValueError("limit must be a whole number") from None
    after = wanted.get("after")
    newer = itertools.takewhile(lambda record: record.id != after, log.latest())
    matching = (record for record in newer if _matches(record, wanted))
    return itertools.islice(matching, max(0, limit))


def _matches(record: DecisionRecord, wanted: Mapping[str, str]) -> bool:
    return (
        wanted.get("pool") in (None, str(record.pool))
        and wanted.get("model") in (None, record.model, record.target_model)
        and ("endpoint" not in wanted or _involves(record, wanted["endpoint"]))
        and ("outcome" not in wanted or _came_out(record, wanted["outcome"]))
    )


def _involves(record: DecisionRecord, endpoint: str) -> bool:
    if record.completed is not None and record.completed.served == endpoint:
        return True
    outcome = record.outcome
    picked = isinstance(outcome, Routed) and outcome.endpoints[0] == endpoint
    return picked or record.prefill == endpoint


def _came_out(record: DecisionRecord, outcome: str) -> bool:
    if isinstance(record.outcome, Refused):
        return outcome in (REFUSED, record.outcome.reason)
    ended = record.completed
    return (
        outcome == "routed"
        or (outcome == IN_PROGRESS and ended is None)
        or (outcome == FAILED and ended is not None and not 200 <= ended.code < 400)
    )
