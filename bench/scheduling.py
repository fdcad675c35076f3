"""What a pick costs: ``python -m bench.scheduling``.

Each row is one way to choose among a number of endpoints, with their signals spread at random; the
time is for the whole of ``Director.decide`` (model, health, profile, ledger, record, counts) and
for ``settle``. Microseconds of CPU time on one core, medians over batches between which the signals
change.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable

from extproc.decisions import DecisionRecord
from extproc.director import Director
from extproc.fleet import Fleet
from extproc.request import Api, Completed, InferenceRequest, Routed
from extproc.scheduling.profiles import PROFILES
from extproc.scheduling.signals import Adapters, Signals
from pools.model import (
    Criticality,
    Endpoint,
    InferenceModel,
    InferencePool,
    ObjectName,
    TargetModel,
    World,
)

POOL = ObjectName("default", "bench")
_TEXT = " ".join(f"word{n * 7919 % 1000}" for n in range(500))
MODELS = {"filter-tree": ("chat", "batch", "unknown"), "default": ("chat", "unknown")}
BATCH = 500
BATCHES = 15
IN_FLIGHT = 10
"""Requests that each endpoint has in flight when a batch is settled, unless that is more than
``BATCH`` in all."""


def director(profile: str, endpoints: int, seed: int) -> Director:
    """A director over endpoints in all states of load."""
    rng = random.Random(seed)
    fleet = Fleet(lambda pool: PROFILES[profile]())
    picker = Director(fleet, rng=rng)
    addresses = [Endpoint(f"10.0.{n // 250}.{n % 250}", 8000, f"pod-{n}") for n in range(endpoints)]
    picker.update(
        World(
            revision=1,
            pools={POOL: InferencePool(POOL, (8000,))},
            endpoints={POOL: tuple(addresses)},
            models=(
                InferenceModel(
                    ObjectName("default", "chat"),
                    POOL,
                    "chat",
                    Criticality.CRITICAL,
                    (TargetModel("adapter-1", 50), TargetModel("adapter-2", 50)),
                ),
                InferenceModel(
                    ObjectName("default", "batch"), POOL, "batch", Criticality.SHEDDABLE
                ),
            ),
        )
    )
    scrape(picker, rng)
    return picker


def scrape(picker: Director, rng: random.Random) -> None:
    """Fresh signals for everybody."""
    now = time.monotonic()
    for key in picker.fleet.members:
        picker.fleet.scrape_started(key)
        picker.fleet.scraped(
            key,
            Signals(
                waiting=rng.choice([0, 0, 0, 1, 3, 8]),
                running=rng.randrange(40),
                kv_usage=rng.random() * 0.9,
                adapters=Adapters(
                    frozenset(rng.sample([f"adapter-{n}" for n in range(8)], rng.randrange(4))),
                    capacity=4,
                ),
            ),
            now,
        )


def request(model: str, number: int = 0) -> InferenceRequest:
    """A chat of 2 KB: a system prompt of one of 20 applications, and a question of its own."""
    messages = [
        {"role": "system", "content": f"You are application {number % 20}. " + _TEXT[:1500]},
        {"role": "user", "content": f"Question {number}: " + _TEXT[2000:2500]},
    ]
    return InferenceRequest(
        id="0b5b3d0e-6b0a-4a3e-8a53-0c7f1f0f7f3c",
        pool=POOL,
        path="/v1/chat/completions",
        method="POST",
        headers={":path": "/v1/chat/completions", "content-type": "application/json"},
        api=Api.CHAT_COMPLETIONS,
        model=model,
        document={"model": model, "messages": messages},
        prompt_bytes=2048,
    )


def measure(picker: Director, model: str, rng: random.Random) -> tuple[float, float]:
    """Microseconds for a decision and for a settlement."""
    numbers = itertools.count()
    decide: Callable[[InferenceRequest], DecisionRecord] = picker.decide
    deciding: list[float] = []
    settling: list[float] = []
    batch = min(BATCH, len(picker.fleet.members) * IN_FLIGHT)
    for _ in range(BATCHES * BATCH // batch):
        scrape(picker, rng)
        asked = [request(model, next(numbers)) for _ in range(batch)]
        began = time.thread_time()
        records = [decide(one) for one in asked]
        deciding.append((time.thread_time() - began) / batch)
        ended = [
            Completed(record.id, 200, 1.0, served=record.outcome.endpoints[0])
            for record in records
            if isinstance(record.outcome, Routed)
        ]
        began = time.thread_time()
        for completed in ended:
            picker.settle(completed)
        settling.append((time.thread_time() - began) / max(1, len(ended)))
    return statistics.median(deciding) * 1e6, statistics.median(settling) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, nargs="+", default=[3, 10, 100, 1000])
    parser.add_argument("--profiles", nargs="+", default=sorted(PROFILES))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{'profile':<14}{'model':<10}{'endpoints':>10}{'decide us':>12}{'settle us':>12}")
    for profile in options.profiles:
        for model in MODELS.get(profile, ("chat",)):
            for endpoints in options.endpoints:
                rng = random.Random(options.seed)
                picker = director(profile, endpoints, options.seed)
                deciding, settling = measure(picker, model, rng)
                print(f"{profile:<14}{model:<10}{endpoints:>10}{deciding:>12.1f}{settling:>12.1f}")


if __name__ == "__main__":
    main()
