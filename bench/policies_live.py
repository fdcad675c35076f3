"""The simulator against real processes: ``python -m bench.policies_live``.

One small fleet of simulated vLLM servers, the same requests at the same times, three ways:

- offline: ``sim.fleet``, on its virtual clock;
- live: the servers as processes behind the real Envoy with both PoolPilot servers;
- with ``--router [PATH]``: the same processes behind another router that takes vllm-router's
  options (vllm-router 0.1.12 or sglang-router 0.3.2 from PyPI). Without a path, ``vllm-router``.

Three kinds of traffic (``--workload``): ``prefixes`` as W1, ``chats`` as W3 and W4 but in turns,
``unshared`` as W7. Of several seeds each is run with every policy before the next seed.

vllm-router 0.1.17 asks the servers to tokenize for it (vLLM's ``/render``, off by default there and
not simulated here); without that its cache_aware goes by load alone.

Time runs ``--time-scale`` times faster than real. All times shown are those of the pods' clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields
from pathlib import Path

import aiohttp

from poolpilot.demo.ports import LOOPBACK, Ports
from poolpilot.demo.quickstart import BASE_MODEL, manifests
from poolpilot.demo.stack import Stack
from poolpilot.envoy_binary import find_envoy
from sim.engine import EngineConfig
from sim.fleet.experiment import Run, perform
from sim.fleet.fleet import FleetConfig
from sim.fleet.measure import quantile
from sim.fleet.prompt import text
from sim.fleet.traffic import WARM_UP, Arrival, Call, Workload
from sim.workloads.conversations import Conversations
from sim.workloads.lengths import Shape, Spread, lognormal
from sim.workloads.shared_prefix import SharedPrefix
from sim.workloads.single_turns import SingleTurns

PODS = 4
ENGINE = EngineConfig(kv_cache_tokens=64_000)


def workloads(seconds: float) -> Mapping[str, Workload]:
    """By name, with so many seconds of measured traffic."""
    # The system prompts fill half of the fleet's caches, and one pod's twice. Questions are new
    # each time, so that even a hit takes long beside the milliseconds of the network.
    return {
        "prefixes": SharedPrefix(
            name="prefixes",
            title="32 system prompts of 4,000 tokens, new questions of 1,000, answers of 100",
            loads=(6,),
            groups=32,
            users=4,
            prefix_tokens=4000,
            question_tokens=1000,
            fresh=True,
            output_tokens=100,
            warm_up_rate=6,
            default_seconds=seconds,
            pods=PODS,
        ),
        "chats": Conversations(
            name="chats",
            title="250 shared tokens, turns of 1,000 new ones, answers of 200, 2 s to read",
            loads=(30,),
            shared_tokens=250,
            turns=Spread(Shape.NORMAL, 4, 1, low=2, high=6),
            question=lognormal(1000, 800, 100, 5000),
            output=lognormal(200, 100, 20, 600),
            think=lognormal(2, 1, 0.5, 6),
            warm_up=15,
            seconds=seconds,
            max_tokens=20_000,
            pods=PODS,
        ),
        "unshared": SingleTurns(
            name="unshared",
            title="nothing shared: questions of 330 tokens, answers of 100",
            loads=(10,),
            question=lognormal(330, 600, 4, 8000),
            output=lognormal(100, 60, 4, 500),
            warm_up=10,
            seconds=seconds,
            pods=PODS,
        ),
    }


@dataclass(frozen=True, slots=True)
class Row:
    policy: str
    where: str
    ttft_p50: float
    ttft_p90: float
    ttft_mean: float
    latency_p50: float
    tokens_per_second: float
    hit_rate: float
    failed: int


@dataclass(frozen=True, slots=True)
class Answer:
    call: Call
    began: float
    ttft: float
    latency: float
    cached: int


def offline(workload: Workload, policy: str, rate: float, seed: int, scale: float) -> Row:
    """On the virtual clock. What does not scale with the pods' clock takes longer on it."""
    fleet = FleetConfig(
        scrape_interval=0.2 * scale, scrape_delay=0.005 * scale, report_delay=0.05 * scale
    )
    result = perform(Run(workload, policy, rate, seed, PODS, ENGINE, fleet))
    m = result.measures
    return Row(
        policy,
        "offline",
        m.ttft_p50,
        m.ttft_p90,
        m.ttft_mean,
        m.latency_p50,
        m.output_tokens_per_second,
        m.hit_rate,
        m.lost,
    )


async def drive(
    workload: Workload, url: str, rate: float, seed: int, scale: float
) -> tuple[list[Answer], int]:
    """Send the workload's requests at their times; the measured answers, and how many failed."""
    traffic = workload.traffic(rate, PODS, random.Random(f"traffic {seed} {rate}"))
    loop = asyncio.get_running_loop()
    origin = loop.time() + 0.2
    answers: list[Answer] = []
    failures = 0

    async def one(session: aiohttp.ClientSession, at: float, call: Call) -> None:
        nonlocal failures
        await asyncio.sleep(max(0.0, origin + at / scale - loop.time()))
        try:
            answer = await _ask(session, url, call, scale)
            if call.stage != WARM_UP:
                answers.append(answer)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            print(f"  {type(error).__name__}: {error}", file=sys.stderr)
            failures += 1
        begin(session, traffic.ended(call, (loop.time() - origin) * scale))

    pending: set[asyncio.Task[None]] = set()

    def begin(session: aiohttp.ClientSession, arrivals: Iterable[Arrival]) -> None:
        for at, call in arrivals:
            pending.add(asyncio.create_task(one(session, at, call)))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        begin(session, list(traffic.start()))
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            pending.difference_update(done)
            for task in done:
                task.result()
    return answers, failures


async def _ask(session: aiohttp.ClientSession, url: str, call: Call, scale: float) -> Answer:
    body = {
        "model": BASE_MODEL,
        "prompt": text(call.prompt),
        "max_tokens": call.output_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = time.perf_counter()
    first = usage = None
    async with session.post(f"{url}/v1/completions", json=body) as response:
        if response.status != 200:
            raise ValueError(f"{response.status}: {(await response.text())[:200]}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if first is None and chunk["choices"]:
                first = time.perf_counter()
            usage = chunk.get("usage") or usage
    ended = time.perf_counter()
    if first is None or usage is None:
        raise ValueError("the answer ended early")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Answer(call, began * scale, (first - began) * scale, (ended - began) * scale, cached)


def summary(policy: str, where: str, answers: Sequence[Answer], failures: int) -> Row:
    ttft = sorted(answer.ttft for answer in answers)
    latency = sorted(answer.latency for answer in answers)
    began = min(answer.began for answer in answers)
    seconds = max(answer.began + answer.latency for answer in answers) - began
    prompt_tokens = sum(answer.call.prompt_tokens for answer in answers)
    return Row(
        policy,
        where,
        quantile(ttft, 0.5),
        quantile(ttft, 0.9),
        sum(ttft) / len(ttft),
        quantile(latency, 0.5),
        sum(answer.call.output_tokens for answer in answers) / seconds,
        sum(answer.cached for answer in answers) / prompt_tokens,
        failures,
    )


def pod_options(scale: float) -> list[str]:
    return [
        f"--time-scale={scale:g}",
        f"--kv-cache-tokens={ENGINE.kv_cache_tokens}",
        f"--max-model-len={ENGINE.kv_cache_tokens}",
    ]


async def with_envoy(workload: Workload, policy: str, rate: float, seed: int, scale: float) -> Row:
    """Through the real Envoy and both servers, everything started anew."""
    with tempfile.TemporaryDirectory() as directory:
        stack = Stack(
            Path(directory),
            Ports.free(PODS),
            [f"pod-{number}" for number in range(PODS)],
            find_envoy(),
            pod_options=pod_options(scale),
            extproc_options=[f"--profile={policy}", "--transport=native"],
            log_level="warning",
        )
        try:
            stack.write(manifests(stack.placed()))
            stack.start()
            await stack.ready(60)
            answers, failures = await drive(workload, stack.url, rate, seed, scale)
        finally:
            stack.stop()
    return summary(policy, "live", answers, failures)


async def with_router(
    workload: Workload, binary: str, policy: str, rate: float, seed: int, scale: float
) -> Row:
    """The same pods behind another router."""
    ports = [_free_port() for _ in range(PODS + 2)]
    pods = [
        [sys.executable, "-m", "poolpilot", "fake-vllm", f"--address={LOOPBACK}:{port}",
         f"--name=pod-{number}", "--log-level=warning", *pod_options(scale)]
        for number, port in enumerate(ports[:PODS])
    ]  # fmt: skip
    router = [
        *(binary, "--host", LOOPBACK, "--port", str(ports[-1]), "--policy", policy),
        *("--prometheus-port", str(ports[-2]), "--log-level", "error"),
        *("--worker-urls", *(f"http://{LOOPBACK}:{port}" for port in ports[:PODS])),
    ]
    url = f"http://{LOOPBACK}:{ports[-1]}"
    async with AsyncExitStack() as cleanup:
        for command in (*pods, router):
            cleanup.callback(_stop(_start(command)))
        for address in (*(f"http://{LOOPBACK}:{port}" for port in ports[:PODS]), url):
            await _ready(f"{address}/health")
        answers, failures = await drive(workload, url, rate, seed, scale)
    return summary(f"{Path(binary).name} {policy}", "live", answers, failures)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _stop(child: subprocess.Popen[bytes]) -> Callable[[], None]:
    def stop() -> None:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    return stop


async def _ready(url: str, limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} does not answer")
            await asyncio.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def show(rows: Sequence[Row], *, header: bool = True) -> None:
    if header:
        titles = (
            f"{'TTFT p50':>9} {'p90':>9} {'mean':>9} {'e2e p50':>8} {'tokens/s':>8} {'hits':>5}"
        )
        print(f"{'policy':26} {'':8} {titles}")
    for row in rows:
        p50, p90, mean = (
            f"{t * 1000:6.0f} ms" for t in (row.ttft_p50, row.ttft_p90, row.ttft_mean)
        )
        failed = f"  {row.failed} failed" if row.failed else ""
        print(
            f"{row.policy:26} {row.where:8} {p50} {p90} {mean} {row.latency_p50:6.2f} s"
            f" {row.tokens_per_second:8.0f} {row.hit_rate:5.0%}{failed}",
            flush=True,
        )


def median(rows: Sequence[Row]) -> Row:
    """Of each number by itself; failures are added up."""
    numbers = [f.name for f in fields(Row) if f.name not in ("policy", "where", "failed")]
    return Row(
        rows[0].policy,
        rows[0].where,
        **{name: statistics.median(getattr(row, name) for row in rows) for name in numbers},
        failed=sum(row.failed for row in rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", action="append", choices=list(workloads(1)))
    parser.add_argument("--policy", action="append")
    parser.add_argument("--rate", type=float, help="requests a second, or clients")
    parser.add_argument("--seconds", type=float, default=60.0, help="of measured traffic")
    parser.add_argument("--time-scale", type=float, default=2.0)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--live-only", action="store_true", help="not on the virtual clock")
    parser.add_argument(
        "--router", metavar="PATH", nargs="?", const="vllm-router", help="launcher of another one"
    )
    parser.add_argument("--router-policy", action="append")
    options = parser.parse_args()
    seeds, scale = options.seed or [1], options.time_scale
    policies = options.policy or ["default", "weighted", "least-load", "round-robin"]
    theirs = (options.router_policy or ["cache_aware", "round_robin"]) if options.router else []
    for name in options.workload or ["prefixes"]:
        workload = workloads(options.seconds)[name]
        load = options.rate or workload.loads[0]
        print(f"{PODS} pods, {load:g} {workload.unit}: {workload.title}\n")
        runs: dict[tuple[str, str], list[Row]] = {}
        for seed in seeds:
            rows = []
            for policy in policies:
                if not options.live_only:
                    rows.append(offline(workload, policy, load, seed, scale))
                rows.append(asyncio.run(with_envoy(workload, policy, load, seed, scale)))
            rows += [
                asyncio.run(with_router(workload, options.router, policy, load, seed, scale))
                for policy in theirs
            ]
            show(rows, header=seed == seeds[0])
            for row in rows:
                runs.setdefault((row.policy, row.where), []).append(row)
        if len(seeds) > 1:
            print("\nmedians")
            show([median(rows) for rows in runs.values()])
        print()


if __name__ == "__main__":
    main()
