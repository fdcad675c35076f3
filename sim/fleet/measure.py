"""The numbers of one run."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sim.fleet.record import Outcome, Record, Trace
from sim.fleet.traffic import WARM_UP


@dataclass(frozen=True, slots=True)
class OfPriority:
    """The requests of one priority."""

    priority: int
    requests: int
    refused: int
    ttft_mean: float
    """Seconds, like the others, from the arrival on: waiting in the picker's queue counts."""
    ttft_p50: float
    ttft_p90: float


@dataclass(frozen=True, slots=True)
class Measures:
    """Times in seconds, over the requests that count. NaN where there was nothing to measure."""

    requests: int
    cut: int
    """Their pod died when the answer had begun: nothing could have saved them."""
    lost: int
    """Not answered, and somebody could have."""
    refused: int
    """The picker said no."""
    aborted: int
    """The client hung up."""
    retried: int
    """Sent to more than one pod."""
    seconds: float
    """From the first arrival to the last end."""
    ttft_mean: float
    ttft_p50: float
    ttft_p90: float
    ttft_p99: float
    ntpot_p50: float
    """Normalized time per output token: the whole latency over the tokens of the answer."""
    ntpot_p90: float
    itl_mean: float
    itl_p99: float
    """Between two tokens of one answer."""
    latency_p50: float
    latency_p90: float
    latency_p99: float
    output_tokens_per_second: float
    steady_tokens_per_second: float
    """Between the first and the last arrival only, whosever they are: without the end of the run,
    in which the longest answers decide."""
    requests_per_second: float
    hit_rate: float
    """Share of the prompt tokens that were found in a prefix cache."""
    spread: float
    """Load of the busiest pod over the mean; load is requests under way, over time."""
    request_spread: float
    """The same over requests served."""
    adapter_loads_per_second: float
    preemptions: int
    leaked: int
    """Requests and tokens that the picker still counted when all was over."""
    ttft_quantiles: tuple[float, ...] = ()
    """From 0 to 100 % in steps of 1 %."""
    priorities: tuple[OfPriority, ...] = ()
    """Highest first; none where all requests have the same."""


def measure(trace: Trace) -> Measures:
    """ValueError if the run has no request that counts."""
    records = [record for record in trace.records if record.call.stage != WARM_UP]
    if not records:
        raise ValueError("the run has no measured request")
    good = [record for record in records if record.outcome is Outcome.OK]
    outcomes = Counter(record.outcome for record in records)
    ttft = sorted(r.first_token - r.arrived for r in good if r.first_token is not None)
    latency = sorted(_latency(r) for r in good)
    ntpot = sorted(_latency(r) / r.call.output_tokens for r in good)
    seconds = max(r.ended or r.arrived for r in records) - min(r.arrived for r in records)
    span = max(seconds, 1e-9)
    tokens = sum(record.call.output_tokens for record in good)
    prompt_tokens = sum(record.call.prompt_tokens for record in good)
    return Measures(
        requests=len(records),
        cut=outcomes[Outcome.CUT],
        lost=outcomes[Outcome.LOST] + outcomes[Outcome.TOO_LONG],
        refused=outcomes[Outcome.REFUSED],
        aborted=outcomes[Outcome.ABORTED],
        retried=sum(record.tries > 1 for record in records),
        seconds=seconds,
        ttft_mean=sum(ttft) / len(ttft) if ttft else math.nan,
        ttft_p50=quantile(ttft, 0.50),
        ttft_p90=quantile(ttft, 0.90),
        ttft_p99=quantile(ttft, 0.99),
        ntpot_p50=quantile(ntpot, 0.50),
        ntpot_p90=quantile(ntpot, 0.90),
        itl_mean=_weighted_mean(trace.intervals),
        itl_p99=_weighted_quantile(trace.intervals, 0.99),
        latency_p50=quantile(latency, 0.50),
        latency_p90=quantile(latency, 0.90),
        latency_p99=quantile(latency, 0.99),
        output_tokens_per_second=tokens / span,
        steady_tokens_per_second=_steady(trace.records, records),
        requests_per_second=len(good) / span,
        hit_rate=sum(r.cached for r in good) / prompt_tokens if prompt_tokens else math.nan,
        spread=_spread(pod.in_flight_seconds for pod in trace.pods),
        request_spread=_spread(pod.requests for pod in trace.pods),
        adapter_loads_per_second=sum(pod.adapter_loads for pod in trace.pods) / span,
        preemptions=sum(pod.preemptions for pod in trace.pods),
        leaked=trace.left_in_flight,
        ttft_quantiles=tuple(quantile(ttft, percent / 100) for percent in range(101)),
        priorities=_priorities(records),
    )


def _priorities(records: Iterable[Record]) -> tuple[OfPriority, ...]:
    groups: dict[int, list[Record]] = {}
    for record in records:
        groups.setdefault(record.call.priority, []).append(record)
    if len(groups) < 2:
        return ()
    return tuple(_of_priority(priority, groups[priority]) for priority in sorted(groups)[::-1])


def _of_priority(priority: int, records: Sequence[Record]) -> OfPriority:
    ttft = sorted(
        record.first_token - record.arrived
        for record in records
        if record.outcome is Outcome.OK and record.first_token is not None
    )
    return OfPriority(
        priority,
        len(records),
        sum(record.outcome is Outcome.REFUSED for record in records),
        sum(ttft) / len(ttft) if ttft else math.nan,
        quantile(ttft, 0.5),
        quantile(ttft, 0.9),
    )


def _steady(everyone: Iterable[Record], measured: Sequence[Record]) -> float:
    begins = min(record.arrived for record in measured)
    ends = max(record.arrived for record in measured)
    if ends <= begins:
        return math.nan
    tokens = 0.0
    for record in everyone:
        if record.first_token is None or record.ended is None or record.outcome is not Outcome.OK:
            continue
        # Evenly from the first to the last, as good as it gets without a time for each.
        seconds = max(record.ended - record.first_token, 1e-9)
        inside = min(record.ended, ends) - max(record.first_token, begins)
        tokens += record.call.output_tokens * max(0.0, inside) / seconds
    return tokens / (ends - begins)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest values, as numpy does it."""
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _latency(record: Record) -> float:
    assert record.ended is not None
    return record.ended - record.arrived


def _spread(loads: Iterable[float]) -> float:
    values = list(loads)
    total = sum(values)
    return max(values) * len(values) / total if total else math.nan


def _weighted_mean(counts: Counter[float]) -> float:
    total = counts.total()
    return sum(value * count for value, count in counts.items()) / total if total else math.nan


def _weighted_quantile(counts: Counter[float], share: float) -> float:
    if not counts:
        return math.nan
    values = sorted(counts)
    running, sums = 0, []
    for value in values:
        running += counts[value]
        sums.append(running)
    return values[min(bisect_left(sums, share * running), len(values) - 1)]
