"""What waiting costs the picker: ``python -m bench.admission``.

Each row has a number of requests in the queue of one pool, over 3 priorities and 100 flows. The
times are CPU of one core for one request, without what the director's decision costs (which each
request pays anyway, queued or not: see ``bench.scheduling``); medians over batches.

- queue: ``pick`` of a request that has to wait
- withdraw: its client hangs up
- dispatch: the end of a request lets one in
- refuse: ``pick`` of a sheddable request
- wake: an end or a scrape that makes no room
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable

from extproc.observability.telemetry import Telemetry
from extproc.picking.admission.admitting_picker import AdmittingPicker
from extproc.picking.admission.settings import (
    AdmissionSettings,
    BandSettings,
    ConcurrencySettings,
    Fairness,
    Order,
)
from extproc.picking.director import Director
from extproc.picking.fleet import Fleet
from extproc.picking.scheduling.profiles import PROFILES
from extproc.picking.scheduling.signals import Signals
from extproc.request import Api, Completed, InferenceRequest, Outcome, Routed
from pools.model import Endpoint, InferenceObjective, InferencePool, ObjectName, World

POOL = ObjectName("default", "bench")
OBJECTIVES = {"high": 10, "normal": 0, "low": 5, "batch": -1}
SLOTS = 8
BATCH = 200
BATCHES = 15


class Bench:
    """A full pool of so many endpoints, and so many requests waiting for it."""

    def __init__(self, waiting: int, endpoints: int, fairness: Fairness, order: Order) -> None:
        self._rng = random.Random(1)
        self._numbers = itertools.count()
        fleet = Fleet(lambda pool: PROFILES["random"](), observer=Telemetry())
        self.director = Director(fleet, time.monotonic, self._rng)
        band = BandSettings(max_requests=1 << 30, ttl=3600, fairness=fairness, order=order)
        settings = AdmissionSettings(
            ConcurrencySettings(SLOTS), default_band=band, max_requests=1 << 30, max_ttl=3600
        )
        self.picker = AdmittingPicker(self.director, settings)
        pods = tuple(
            Endpoint(f"10.0.{n // 250}.{n % 250}", 8000, f"pod-{n}") for n in range(endpoints)
        )
        self.director.update(
            World(
                pools={POOL: InferencePool(POOL, (8000,))},
                endpoints={POOL: pods},
                objectives=tuple(
                    InferenceObjective(ObjectName("default", name), POOL, priority)
                    for name, priority in OBJECTIVES.items()
                ),
            )
        )
        for key in fleet.members:
            fleet.scraped(key, Signals(0, 0, 0.0), time.monotonic())
        self.open: list[str] = []
        for _ in range(endpoints * SLOTS + waiting):
            self.queue()
        if self.picker.usage.requests != waiting:
            raise RuntimeError(f"{self.picker.usage.requests} wait, not {waiting}")

    def request(self, objective: str) -> InferenceRequest:
        number = next(self._numbers)
        return InferenceRequest(
            id=str(number),
            pool=POOL,
            path="/v1/completions",
            method="POST",
            headers={},
            api=Api.COMPLETIONS,
            model="m",
            objective=objective,
            fairness_id=f"flow-{number % 100}",
            prompt_bytes=400,
        )

    def queue(self) -> Callable[[], None]:
        objective = self._rng.choice(("high", "normal", "low"))
        return self.picker.pick(self.request(objective), self.answered)

    def answered(self, outcome: Outcome) -> None:
        if isinstance(outcome, Routed):
            self.open.append(outcome.pick_id)

    def refuse(self) -> None:
        self.picker.pick(self.request("batch"), lambda outcome: None)

    def end(self) -> None:
        self.picker.settle(Completed(self.open.pop(), code=200))


def per_call(call: Callable[[], object], count: int = BATCH) -> float:
    began = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - began) / count * 1e6


def row(waiting: int, endpoints: int, fairness: Fairness, order: Order) -> list[float]:
    """Microseconds: queue, withdraw, dispatch, refuse, wake."""
    bench = Bench(waiting, endpoints, fairness, order)
    key = next(iter(bench.director.fleet.members))
    times: list[list[float]] = []
    for _ in range(BATCHES):
        withdrawals: list[Callable[[], None]] = []

        def queue(into: list[Callable[[], None]] = withdrawals) -> None:
            into.append(bench.queue())

        queued = per_call(queue)
        each = iter(withdrawals)
        withdrawn = per_call(lambda each=each: next(each)())  # type: ignore[misc]
        refused = per_call(bench.refuse)
        woken = per_call(
            lambda: bench.picker.scraped(key, Signals(0, 0, 0.0), time.monotonic()), 20
        )
        for _ in range(BATCH):
            bench.queue()
        both = per_call(bench.end)
        # The same work without a queue: an end, and a decision.
        alone = per_call(lambda: bench.director.decide(bench.request("high")))
        for record in list(itertools.islice(bench.director.decisions.latest(), BATCH)):
            bench.open.append(record.id)
        drained = bench.picker.usage.requests
        ended = per_call(bench.end)
        if bench.picker.usage.requests != drained:
            raise RuntimeError("there was room while it was measured what an end alone costs")
        times.append([queued, withdrawn, both - alone - ended, refused, woken])
    return [statistics.median(column) for column in zip(*times, strict=True)]


def admitted(endpoints: int) -> float:
    """Microseconds that a request pays which finds room at once."""
    bench = Bench(0, endpoints, Fairness.ROUND_ROBIN, Order.FIRST_COME)
    times: list[float] = []
    for _ in range(BATCHES):
        for _ in range(SLOTS * endpoints):
            bench.end()
        count = SLOTS * endpoints
        through = per_call(lambda: bench.picker.pick(bench.request("high"), bench.answered), count)
        for _ in range(count):
            bench.end()
        direct = per_call(lambda: bench.director.pick(bench.request("high"), bench.answered), count)
        times.append(through - direct)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--waiting", type=int, nargs="+", default=[10, 1_000, 10_000])
    arguments = parser.parse_args()
    for endpoints in arguments.endpoints:
        print(f"{endpoints} endpoints: who finds room at once pays {admitted(endpoints):.1f} µs\n")
    print("| endpoints | between, within flows | waiting |", end="")
    print(" queue | withdraw | dispatch | refuse | wake |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    kinds = ((Fairness.ROUND_ROBIN, Order.FIRST_COME), (Fairness.TOKENS, Order.EARLIEST_DEADLINE))
    for endpoints in arguments.endpoints:
        for fairness, order in kinds:
            for waiting in arguments.waiting:
                times = row(waiting, endpoints, fairness, order)
                shown = " | ".join(f"{value:.1f}" for value in times)
                print(f"| {endpoints} | {fairness}, {order} | {waiting:,} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
