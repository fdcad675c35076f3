"""What a run came to, as numbers and as a table."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields

from bench.live.load import Answer, Played
from bench.live.servers import Share
from sim.fleet.measure import Measures, OfPriority, quantile
from sim.fleet.traffic import WARM_UP, Call


@dataclass(frozen=True, slots=True)
class Row:
    """Times in seconds of the pods' clock, but where said."""

    policy: str
    where: str
    ttft_p50: float
    ttft_p90: float
    ttft_mean: float
    latency_p50: float
    tokens_per_second: float
    hit_rate: float
    spread: float
    """Requests under way on the busiest pod, over time, over the mean of all pods."""
    path: float = math.nan
    """Mean real seconds that a first token took outside the pods: the proxy, the pick, the network,
    and what the pods' HTTP takes."""
    late: float = math.nan
    """Real seconds by which the slowest tenth of the requests was sent too late."""
    pods_waited: float = math.nan
    """CPU seconds a second that the unluckiest pod wanted and did not get."""
    front_used: float = math.nan
    """CPU seconds a second of what stands before the pods."""
    refused: int = 0
    cut: int = 0
    failed: int = 0
    priorities: tuple[OfPriority, ...] = ()
    """Highest first; none where all requests have the same."""

    @property
    def starved(self) -> bool:
        """Others took so much of the machine that this run means nothing."""
        return self.late > 0.02 or self.pods_waited > 0.1


def simulated(policy: str, measures: Measures) -> Row:
    m = measures
    return Row(
        policy, "offline", m.ttft_p50, m.ttft_p90, m.ttft_mean, m.latency_p50,
        m.output_tokens_per_second, m.hit_rate, m.spread, refused=m.refused, cut=m.cut,
        failed=m.lost, priorities=m.priorities,
    )  # fmt: skip


def live(
    policy: str,
    played: Played,
    pods_ttft: float,
    shares: Mapping[str, Share],
    scale: float,
    restarted: Collection[str] = (),
) -> Row:
    """``pods_ttft``: by the account of the pods that were not ``restarted``."""
    answers = [answer for answer in played.answers if answer.measured]
    if not answers:
        raise ValueError(f"no measured request was answered; {played.failures} failed")
    ttft = sorted(answer.ttft for answer in answers)
    began = min(answer.began for answer in answers)
    seconds = max(answer.began + answer.latency for answer in answers) - began
    # A pod that served none is not in it; its processes are.
    pods = sum(name.startswith("pod-") for name in shares)
    load: defaultdict[str, float] = defaultdict(float)
    for answer in answers:
        load[answer.pod] += answer.latency
    everywhere = [answer.ttft for answer in played.answers if answer.pod not in restarted]
    return Row(
        policy,
        "live",
        quantile(ttft, 0.5),
        quantile(ttft, 0.9),
        sum(ttft) / len(ttft),
        quantile(sorted(answer.latency for answer in answers), 0.5),
        sum(answer.call.output_tokens for answer in answers) / seconds,
        sum(a.cached for a in answers) / sum(a.call.prompt_tokens for a in answers),
        max(load.values()) * pods / sum(load.values()),
        sum(everywhere) / len(everywhere) / scale - pods_ttft,
        quantile(sorted(played.late), 0.9),
        max(share.waited for name, share in shares.items() if name.startswith("pod-")),
        sum(share.used for name, share in shares.items() if not name.startswith("pod-")),
        sum(call.stage != WARM_UP for call in played.refused),
        played.cut,
        played.failures,
        _priorities(answers, [call for call in played.refused if call.stage != WARM_UP]),
    )


def _priorities(answers: Sequence[Answer], refused: Sequence[Call]) -> tuple[OfPriority, ...]:
    calls = [*(answer.call for answer in answers), *refused]
    priorities = sorted({call.priority for call in calls}, reverse=True)
    if len(priorities) < 2:
        return ()
    found = []
    for priority in priorities:
        ttft = sorted(answer.ttft for answer in answers if answer.call.priority == priority)
        found.append(
            OfPriority(
                priority,
                sum(call.priority == priority for call in calls),
                sum(call.priority == priority for call in refused),
                sum(ttft) / len(ttft) if ttft else math.nan,
                quantile(ttft, 0.5),
                quantile(ttft, 0.9),
            )
        )
    return tuple(found)


def show(rows: Sequence[Row], *, header: bool = True) -> None:
    if header:
        print(
            f"{'policy':24} {'':8} {'TTFT p50':>9} {'p90':>9} {'mean':>9} {'e2e p50':>8}"
            f" {'tokens/s':>8} {'hits':>5} {'spread':>6} {'path':>7} {'late':>6} {'wait':>5}"
            f" {'front':>5}"
        )
    for row in rows:
        p50, p90, mean = (
            f"{t * 1000:6.0f} ms" for t in (row.ttft_p50, row.ttft_p90, row.ttft_mean)
        )
        machine = ""
        if row.where == "live":
            machine = (
                f" {row.path * 1000:4.1f} ms {row.late * 1000:3.0f} ms {row.pods_waited:5.0%}"
                f" {row.front_used:5.0%}"
            )
        print(
            f"{row.policy:24} {row.where:8} {p50} {p90} {mean} {row.latency_p50:6.2f} s"
            f" {row.tokens_per_second:8.0f} {row.hit_rate:5.0%} {row.spread:6.2f}{machine}"
            + (f"  {row.refused} refused" if row.refused else "")
            + (f"  {row.cut} cut" if row.cut else "")
            + (f"  {row.failed} failed" if row.failed else "")
            + ("  starved" if row.starved else ""),
            flush=True,
        )
        for one in row.priorities:
            p50, p90, mean = (
                f"{t * 1000:6.0f} ms" for t in (one.ttft_p50, one.ttft_p90, one.ttft_mean)
            )
            print(
                f"{f'  priority {one.priority}':24} {row.where:8} {p50} {p90} {mean}"
                f"  {one.requests} requests, {one.refused} refused",
                flush=True,
            )


def median(rows: Sequence[Row]) -> Row:
    """Of each number by itself; what went wrong is added up."""
    counts = ("refused", "cut", "failed")
    others = ("policy", "where", "priorities", *counts)
    numbers = [f.name for f in fields(Row) if f.name not in others]
    return Row(
        rows[0].policy,
        rows[0].where,
        **{name: statistics.median(getattr(row, name) for row in rows) for name in numbers},
        **{name: sum(getattr(row, name) for row in rows) for name in counts},
        priorities=tuple(
            map(_median_of_priority, zip(*(row.priorities for row in rows), strict=True))
        ),
    )


def _median_of_priority(of_runs: Sequence[OfPriority]) -> OfPriority:
    return OfPriority(
        of_runs[0].priority,
        sum(one.requests for one in of_runs),
        sum(one.refused for one in of_runs),
        *[
            statistics.median(getattr(one, name) for one in of_runs)
            for name in ("ttft_mean", "ttft_p50", "ttft_p90")
        ],
    )
