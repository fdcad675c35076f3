"""What a pick costs: ``python -m bench.scheduling``.

Each row is one way to choose among a number of endpoints, with their signals spread at random; the
time is for the whole of ``Director.decide`` (model, health, profile, ledger, record, counts) and
for ``settle``. Microseconds of CPU time on one core, medians over batches between which the signals
change, with the garbage collector set as the server sets it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from extproc.observability.telemetry import Telemetry
from extproc.picking.decisions import DecisionRecord
from extproc.picking.director import Director
from extproc.picking.fleet import Fleet
from extproc.picking.scheduling import Candidate
from extproc.picking.scheduling.prefix import PrefixIndex, chain_of
from extproc.picking.scheduling.profiles import PROFILES
from extproc.picking.scheduling.signals import Adapters, Signals
from extproc.request import Api, Completed, InferenceRequest, Routed
from extproc.service.collector import spare_the_collector
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
    fleet = Fleet(lambda pool: PROFILES[profile](), observer=Telemetry())
    picker = Director(fleet, time.monotonic, rng)
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


def prefix() -> None:
    """What remembering prompts costs: time by size of the prompt, memory by entry."""
    pods = [Candidate(Endpoint(f"10.0.1.{n}", 8000, f"pod-{n}")) for n in range(10)]
    heads = "".join(
        f"{head:>10}" for head in ("blocks", "hash us", "match us", "new us", "known us")
    )
    print(f"{'prompt':<10}{heads}")
    for size in (2_048, 102_400):
        index = PrefixIndex()
        index.follow(dict.fromkeys(pods, 1 << 40))
        times: list[tuple[float, ...]] = []
        for number in range(200):
            data = number.to_bytes(4, "little") * (size // 4)
            marks = [time.thread_time()]
            chain = chain_of(data, 1)
            marks.append(time.thread_time())
            index.add(pods[number % 10], chain)
            marks.append(time.thread_time())
            index.match(chain)
            marks.append(time.thread_time())
            index.add(pods[number % 10], chain)
            marks.append(time.thread_time())
            times.append(tuple(b - a for a, b in itertools.pairwise(marks)))
        hashing, new, match, known = (
            statistics.median(one) * 1e6 for one in zip(*times, strict=True)
        )
        print(f"{size:<10}{len(chain):>10}{hashing:>10.1f}{match:>10.1f}{new:>10.1f}{known:>10.1f}")
    index = PrefixIndex()
    index.follow(dict.fromkeys(pods, 1 << 40))
    before = _resident()
    for number in range(index.max_entries):
        index.add(pods[number % 10], chain_of(number.to_bytes(4, "little") * 64, 1))
    used = _resident() - before
    print(
        f"{len(index)} distinct prefixes: {used / 1e6:.0f} MB, {used / len(index):.0f} bytes each"
    )
    for number in range(index.max_entries, 2 * index.max_entries):
        index.add(pods[number % 10], chain_of(number.to_bytes(4, "little") * 64, 1))
    print(f"as many again: {len(index)} entries, {(_resident() - before) / 1e6:.0f} MB")


def _resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, nargs="+", default=[3, 10, 100, 1000])
    parser.add_argument("--profiles", nargs="+", default=sorted(PROFILES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prefix", action="store_true", help="only the prefix index")
    options = parser.parse_args()
    if options.prefix:
        prefix()
        return
    print(f"{'profile':<14}{'model':<10}{'endpoints':>10}{'decide us':>12}{'settle us':>12}")
    for profile in options.profiles:
        for model in MODELS.get(profile, ("chat",)):
            for endpoints in options.endpoints:
                rng = random.Random(options.seed)
                picker = director(profile, endpoints, options.seed)
                spare_the_collector()
                deciding, settling = measure(picker, model, rng)
                print(f"{profile:<14}{model:<10}{endpoints:>10}{deciding:>12.1f}{settling:>12.1f}")


if __name__ == "__main__":
    main()
