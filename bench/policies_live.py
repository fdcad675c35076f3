"""Policies on real processes, beside the simulator: ``python -m bench.policies_live``.

Small forms of the workloads of ``poolpilot simulate`` (``bench/live/forms.py``), the same requests
at the same times, three ways:

- offline: ``sim.fleet``, on its virtual clock;
- live: simulated vLLM servers as processes behind the real Envoy with both PoolPilot servers;
- with ``--router [PATH]``: the same processes behind another router that takes vllm-router's
  options (vllm-router 0.1.12 or sglang-router 0.3.2 from PyPI). Without a path, ``vllm-router``.
  Its ``cache_aware`` is played offline too.

Of several seeds each is run with every policy before the next seed. A live run that others on the
machine starved is run again, twice at most.

vllm-router 0.1.17 asks the servers to tokenize for it (vLLM's ``/render``, off by default there and
not simulated here); without that its cache_aware goes by load alone.

Time runs faster than real. All times shown are those of the pods' clock, but for the last columns:
``path`` is what a first token took outside the pods, ``late`` by how much the slowest tenth of the
requests missed its time, both in real milliseconds; ``wait`` how long the unluckiest pod waited for
a CPU, ``front`` the CPU of what stands before the pods, both as a share of one CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from bench.live.forms import FORMS, Form
from bench.live.load import play
from bench.live.rows import Row, live, median, show, simulated
from bench.live.servers import Servers, Watch, behind_envoy, behind_router
from extproc.picking.admission.settings import AdmissionSettings, BandSettings
from extproc.picking.director import IN_FLIGHT_EXPIRY
from extproc.picking.endpoint_health import HealthPolicy
from extproc.picking.profiles import read_profiles
from extproc.picking.scheduling.load import PREFILL_RATE, LoadSettings
from extproc.picking.scraping import ScrapeSettings
from sim.fleet.experiment import Run, perform
from sim.fleet.fleet import FleetConfig

TRIES = 3


def offline(form: Form, policy: str, seed: int) -> Row:
    """On the virtual clock."""
    fleet = surroundings(form)
    run = Run(form.workload, policy, form.load, seed, form.workload.pods, form.engine, fleet)
    return simulated(policy, perform(run).measures)


def surroundings(form: Form) -> FleetConfig:
    """What is around the pods. It does not scale with their clock, so it takes longer on it, and
    they are faster than the picker thinks."""
    scale = form.time_scale
    scrape, health = ScrapeSettings(), HealthPolicy()
    return FleetConfig(
        scrape=replace(
            scrape,
            interval=scrape.interval * scale,
            timeout=scrape.timeout * scale,
            max_backoff=scrape.max_backoff * scale,
            max_per_second=scrape.max_per_second / scale,
        ),
        scrape_delay=0.005 * scale,
        report_delay=0.05 * scale,
        load=LoadSettings(prefill_rate=PREFILL_RATE / scale),
        health=replace(
            health,
            cool_down=health.cool_down * scale,
            max_cool_down=health.max_cool_down * scale,
            slow_start=health.slow_start * scale,
        ),
        admission=_admission(form),
        in_flight_expiry=IN_FLIGHT_EXPIRY * scale,
    )


def _admission(form: Form) -> AdmissionSettings | None:
    if not form.admission:
        return None
    profiles, problems = read_profiles(form.profiles("default"), "profiles")
    if profiles is None or profiles.admission is None:
        raise ValueError(f"{form.workload.name}: {problems}")
    settings, scale = profiles.admission, form.time_scale

    def band(settings: BandSettings) -> BandSettings:
        return replace(settings, ttl=settings.ttl * scale)

    return replace(
        settings,
        default_band=band(settings.default_band),
        bands={priority: band(one) for priority, one in settings.bands.items()},
        max_ttl=settings.max_ttl * scale,
        no_endpoints_ttl=settings.no_endpoints_ttl * scale,
    )


async def through(
    front: Callable[[], AbstractAsyncContextManager[Servers]], name: str, form: Form, seed: int
) -> Row:
    """Played live; again if the machine was busy with something else."""
    for last in (*(False,) * (TRIES - 1), True):
        async with front() as servers:
            watch = Watch(servers.processes)
            played = await play(
                form.workload, servers.url, form.load, seed, form.time_scale, servers.suffer
            )
            # Where requests wait in the picker's queue, that is no part of the path.
            pods_ttft = math.nan if form.admission else servers.pods_ttft()
            row = live(name, played, pods_ttft, watch.shares(), form.time_scale, servers.restarted)
        if last or not row.starved:
            break
        print("  again, as this one was starved:")
        show([row], header=False)
    return row


def rows(
    form: Form, seed: int, ours: Sequence[str], theirs: Sequence[str], options: argparse.Namespace
) -> Iterator[Row]:
    """Every policy once, as asked for."""
    if not options.live_only:
        for policy in (*ours, *(["cache-aware"] if "cache_aware" in theirs else [])):
            yield offline(form, policy, seed)
    if options.offline_only:
        return
    for policy in ours:
        yield asyncio.run(through(partial(behind_envoy, form, policy), policy, form, seed))
    for policy in theirs:
        front = partial(behind_router, form, policy, options.router)
        name = f"{Path(options.router).name} {policy}"
        yield asyncio.run(through(front, name, form, seed))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", action="append", choices=list(FORMS))
    parser.add_argument("--policy", action="append")
    parser.add_argument("--rate", type=float, help="requests a second, or clients")
    parser.add_argument("--time-scale", type=float)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--live-only", action="store_true", help="not on the virtual clock")
    parser.add_argument("--offline-only", action="store_true", help="on the virtual clock only")
    parser.add_argument(
        "--router", metavar="PATH", nargs="?", const="vllm-router", help="launcher of another one"
    )
    parser.add_argument("--router-policy", action="append")
    parser.add_argument("--json", type=Path, help="append each run to this file, one a line")
    options = parser.parse_args()
    seeds = options.seed or [1]
    policies = options.policy or ["default", "weighted", "least-load", "round-robin"]
    theirs = (options.router_policy or ["cache_aware"]) if options.router else []
    for name in options.workload or ["prefixes"]:
        form = FORMS[name]
        form = replace(
            form,
            load=options.rate or form.load,
            time_scale=options.time_scale or form.time_scale,
        )
        print(
            f"{name}: {form.workload.pods} pods, {form.load:g} {form.workload.unit},"
            f" {form.time_scale:g} times as fast: {form.workload.title}\n"
        )
        runs: dict[tuple[str, str], list[Row]] = {}
        for seed in seeds:
            for row in rows(form, seed, policies, theirs, options):
                show([row], header=not runs)
                runs.setdefault((row.policy, row.where), []).append(row)
                if options.json:
                    record = {"workload": name, "seed": seed, **asdict(row)}
                    with options.json.open("a") as file:
                        file.write(json.dumps(record) + "\n")
        if len(seeds) > 1:
            print("\nmedians")
            show([median(of_seeds) for of_seeds in runs.values()])
        print()


if __name__ == "__main__":
    main()
