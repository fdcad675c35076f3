"""What simulated pods cost: ``python -m bench.sim_server``.

First one engine on its virtual clock: how much faster than time it runs under the shared prefix
workload (150 groups, 6,000 + 1,200 tokens in, 1,000 out). Then real pods in one process under real
streaming clients: the share of one core that the process takes. Clients run in a process of their
own, so that only the pods are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import aiohttp

from sim.config import PodConfig
from sim.engine import Engine
from sim.events import Finished, FirstToken, Request
from sim.pod import Pod
from sim.server import serve_many


def engine_alone(qps: float, seconds: float, seed: int) -> None:
    """One pod that gets ``qps`` requests a second for so many simulated seconds."""
    rng = random.Random(seed)
    engine = Engine()
    at = 0.0
    requests = 0
    ttft: list[float] = []
    arrived: dict[str, float] = {}
    tokens = 0
    begun = time.perf_counter()
    while at < seconds:
        at += rng.expovariate(qps)
        group = rng.randrange(150)
        blocks = [hash((group, i)) for i in range(375)]
        blocks += [hash((requests, i)) for i in range(137)]
        name = str(requests)
        requests += 1
        events = engine.advance(at)
        engine.submit(Request(name, 7200, 1000, blocks), at)
        arrived[name] = at
        while engine.next_event_time() <= at:
            events += engine.advance(at)
        for event in events:
            if isinstance(event, FirstToken):
                ttft.append(event.at - arrived[event.request_id])
            elif isinstance(event, Finished):
                tokens += 1000
    spent = time.perf_counter() - begun
    ttft.sort()
    print(
        f"engine  {qps:5.1f} req/s   {at / spent:8.0f} x real time"
        f"   {spent / requests * 1e6:6.0f} us a request   {tokens / at:6.0f} tokens/s out"
        f"   TTFT p50 {ttft[len(ttft) // 2]:6.2f} s"
    )


def _serve(pipe: Connection, configs: Sequence[PodConfig]) -> None:
    def ready(pods: Sequence[Pod]) -> None:
        pipe.send([pod.url for pod in pods])

    asyncio.run(serve_many(configs, ready=ready))


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _load(urls: Sequence[str], per_pod: int, seconds: float) -> tuple[int, int]:
    """Keep ``per_pod`` streams open on each pod; answers and bytes received."""
    answers = received = 0
    prompt = "What is known about the history of this city? " * 40
    stop = asyncio.get_running_loop().time() + seconds

    async def client(http: aiohttp.ClientSession, url: str, number: int) -> None:
        nonlocal answers, received
        while asyncio.get_running_loop().time() < stop:
            body = {"prompt": f"{number} {prompt}", "max_tokens": 200, "stream": True}
            async with http.post(f"{url}/v1/completions", json=body) as response:
                async for data in response.content.iter_any():
                    received += len(data)
            answers += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as tasks:
        for url in urls:
            for number in range(per_pod):
                tasks.create_task(client(http, url, number))
    return answers, received


def pods(count: int, per_pod: int, scale: float, seconds: float) -> None:
    configs = [PodConfig(port=0, name=f"vllm-{i}", time_scale=scale) for i in range(count)]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, configs), daemon=True)
    process.start()
    try:
        urls: list[str] = ours.recv()
        assert process.pid is not None
        cpu, begun = _cpu_seconds(process.pid), time.perf_counter()
        answers, received = asyncio.run(_load(urls, per_pod, seconds))
        elapsed = time.perf_counter() - begun
        cpu = _cpu_seconds(process.pid) - cpu
    finally:
        process.terminate()
        process.join(10)
    print(
        f"pods    {count} x {per_pod:3d} streams, time x{scale:g}   {cpu / elapsed:6.1%} of a core"
        f"   {answers * 200 / elapsed:8.0f} tokens/s   {received / elapsed / 1e6:5.1f} MB/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="real time for each row of pods")
    parser.add_argument("--pods", type=int, default=5)
    args = parser.parse_args()
    for qps in (1.0, 2.5, 7.5):
        engine_alone(qps, 300.0, seed=1)
    for per_pod, scale in ((8, 1.0), (64, 1.0), (8, 10.0), (64, 10.0)):
        pods(args.pods, per_pod, scale, args.seconds)


if __name__ == "__main__":
    main()
