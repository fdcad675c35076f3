"""The simulator against real processes: ``python -m bench.policies_live``.

One small fleet of simulated vLLM servers, the same requests at the same times, three ways:

- offline: ``sim.fleet``, on its virtual clock;
- live: the servers as processes behind the real Envoy with both PoolPilot servers;
- with ``--router PATH``: the same processes behind another router that takes vllm-router's options
  (vllm-router 0.1.12 or sglang-router 0.3.2 from PyPI).

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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
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
from sim.fleet.traffic import WARM_UP, Arrival, Call
from sim.workloads.shared_prefix import SharedPrefix

PODS = 4
ENGINE = EngineConfig(kv_cache_tokens=64_000)
# W1 in small: the system prompts fill half of the fleet's caches, and one pod's twice. Questions
# are new each time, so that even a hit takes long beside the milliseconds of the network.
WORKLOAD = SharedPrefix(
    name="small",
    title="32 system prompts of 4,000 tokens, new questions of 1,000, answers of 100",
    loads=(6,),
    groups=32,
    users=4,
    prefix_tokens=4000,
    question_tokens=1000,
    fresh=True,
    output_tokens=100,
    warm_up_rate=6,
    default_seconds=60,
    pods=PODS,
)


@dataclass(frozen=True, slots=True)
class Row:
    policy: str
    where: str
    ttft_p50: float
    ttft_p90: float
    ttft_mean: float
    latency_p50: float
    hit_rate: float
    failed: int


@dataclass(frozen=True, slots=True)
class Answer:
    call: Call
    ttft: float
    latency: float
    cached: int


def offline(policy: str, rate: float, seed: int, scale: float) -> Row:
    """On the virtual clock. What does not scale with the pods' clock takes longer on it."""
    fleet = FleetConfig(
        scrape_interval=0.2 * scale, scrape_delay=0.005 * scale, report_delay=0.05 * scale
    )
    result = perform(Run(WORKLOAD, policy, rate, seed, PODS, ENGINE, fleet))
    m = result.measures
    return Row(
        policy, "offline", m.ttft_p50, m.ttft_p90, m.ttft_mean, m.latency_p50, m.hit_rate, m.lost
    )


async def drive(url: str, rate: float, seed: int, scale: float) -> tuple[list[Answer], int]:
    """Send the workload's requests at their times; the measured answers, and how many failed."""
    traffic = WORKLOAD.traffic(rate, PODS, random.Random(f"traffic {seed} {rate}"))
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
    return Answer(call, (first - began) * scale, (ended - began) * scale, cached)


def summary(policy: str, where: str, answers: Sequence[Answer], failures: int) -> Row:
    ttft = sorted(answer.ttft for answer in answers)
    latency = sorted(answer.latency for answer in answers)
    prompt_tokens = sum(answer.call.prompt_tokens for answer in answers)
    return Row(
        policy,
        where,
        quantile(ttft, 0.5),
        quantile(ttft, 0.9),
        sum(ttft) / len(ttft),
        quantile(latency, 0.5),
        sum(answer.cached for answer in answers) / prompt_tokens,
        failures,
    )


def pod_options(scale: float) -> list[str]:
    return [
        f"--time-scale={scale:g}",
        f"--kv-cache-tokens={ENGINE.kv_cache_tokens}",
        f"--max-model-len={ENGINE.kv_cache_tokens}",
    ]


async def with_envoy(policy: str, rate: float, seed: int, scale: float) -> Row:
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
            answers, failures = await drive(stack.url, rate, seed, scale)
        finally:
            stack.stop()
    return summary(policy, "live", answers, failures)


async def with_router(binary: str, policy: str, rate: float, seed: int, scale: float) -> Row:
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
        answers, failures = await drive(url, rate, seed, scale)
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
        titles = f"{'TTFT p50':>9} {'p90':>9} {'mean':>9} {'e2e p50':>8} {'hits':>5}"
        print(f"{'policy':26} {'':8} {titles}")
    for row in rows:
        p50, p90, mean = (
            f"{t * 1000:6.0f} ms" for t in (row.ttft_p50, row.ttft_p90, row.ttft_mean)
        )
        failed = f"  {row.failed} failed" if row.failed else ""
        print(
            f"{row.policy:26} {row.where:8} {p50} {p90} {mean} {row.latency_p50:6.2f} s"
            f" {row.hit_rate:5.0%}{failed}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", action="append")
    parser.add_argument("--rate", type=float, default=6.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="of measured traffic")
    parser.add_argument("--time-scale", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--router", metavar="PATH", help="launcher of another router")
    options = parser.parse_args()
    global WORKLOAD
    WORKLOAD = replace(WORKLOAD, default_seconds=options.seconds)
    rate, seed, scale = options.rate, options.seed, options.time_scale
    print(f"{PODS} pods, {rate:g} req/s: {WORKLOAD.title}\n")
    policies = options.policy or ["default", "weighted", "least-load", "round-robin"]
    for policy in policies:
        show([offline(policy, rate, seed, scale)], header=policy == policies[0])
        show([asyncio.run(with_envoy(policy, rate, seed, scale))], header=False)
    if options.router:
        for policy in ("cache_aware", "round_robin"):
            row = asyncio.run(with_router(options.router, policy, rate, seed, scale))
            show([row], header=False)


if __name__ == "__main__":
    main()
