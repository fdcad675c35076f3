"""From Worlds to what a stream is sent, and from the start of a process to readiness.

python -m bench.xds_build
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import structlog

from pools.model import Endpoint, HTTPRoute, InferencePool, ObjectName, World
from tests.xds.worlds import pool, prefix, route, rule, to
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.fanout import Fanout
from xds.http import HttpConfig
from xds.protocol.message import DeltaRequest
from xds.protocol.stream import Stream
from xds.provider import WorldProvider
from xds.resource import CLUSTER, ENDPOINT
from xds.snapshot import Node
from xds.translate import TranslateSettings, Translator

POOLS = 100
ENDPOINTS = 100
NODE = Node("envoy-1")


def world(count: int = POOLS) -> World:
    """As many pools, each with a route of its own."""
    pools: list[InferencePool] = [pool(f"default/pool-{i}") for i in range(count)]
    routes: list[HTTPRoute] = [
        route(f"default/r-{i}", rule(prefix(f"/pool-{i}"), backends=to(f"default/pool-{i}")))
        for i in range(count)
    ]
    return World(
        pools={one.name: one for one in pools},
        endpoints={
            one.name: tuple(
                Endpoint(f"10.{i}.0.{n + 1}", 8000, f"pod-{i}-{n}") for n in range(ENDPOINTS)
            )
            for i, one in enumerate(pools)
        },
        routes=tuple(routes),
    )


def moved(before: World, turn: int) -> World:
    """The same with another pod in the first pool."""
    name = ObjectName.parse("default/pool-0")
    new = Endpoint(f"10.200.0.{turn + 1}", 8000, f"new-{turn}")
    return replace(before, endpoints={**before.endpoints, name: (*before.endpoints[name][1:], new)})


def builds(state: World) -> None:
    times = []
    for _ in range(5):
        provider = WorldProvider(Translator(TranslateSettings()))
        began = time.process_time()
        provider.offer(state)
        times.append(time.process_time() - began)
    print(
        f"full build of {POOLS * ENDPOINTS:,} endpoints in {POOLS} pools: "
        f"p50 {statistics.median(times):.2f} s, worst {max(times):.2f} s of CPU"
    )


def changes(state: World) -> None:
    """From a new World to the response for one Delta stream."""
    provider = WorldProvider(Translator(TranslateSettings()))
    provider.offer(state)
    fanout, stream = Fanout(provider, debounce=0.0, history_entries=50), Stream(delta=True)
    fanout.register(stream, NODE, 0.0)
    assert stream.target is not None
    names: Sequence[str] = tuple(stream.target.of(ENDPOINT).resources)
    stream.receive(DeltaRequest(CLUSTER), 0.0)
    stream.receive(DeltaRequest(ENDPOINT, tuple(names)), 0.0)
    while responses := list(stream.poll(0.0)):
        for response in responses:
            stream.receive(DeltaRequest(response.type_url, nonce=response.nonce), 0.0)
    assert stream.converged
    times = []
    for turn in range(20):
        state = moved(state, turn)
        began = time.process_time()
        provider.offer(state)
        fanout.refresh(0.0)
        (response,) = list(stream.poll(0.0))
        times.append((time.process_time() - began) * 1000)
        stream.receive(DeltaRequest(response.type_url, nonce=response.nonce), 0.0)
    print(
        f"one pod of them changes: p50 {statistics.median(times):.1f} ms, "
        f"worst {max(times):.1f} ms of CPU from the new state to the response of a stream"
    )


class Silent:
    """A source that has nothing to say."""

    async def worlds(self) -> AsyncIterator[World]:
        await asyncio.Event().wait()
        yield World()


async def ready() -> None:
    plane = ControlPlane(Silent(), None, XdsServerConfig(port=0), HttpConfig(port=0))
    await plane.start()
    plane.take(world(1))
    assert not plane.not_ready()
    print("ready", time.process_time(), flush=True)
    await plane.stop(0)


def starts() -> None:
    program = "import asyncio, bench.xds_build as b; asyncio.run(b.ready())"
    times, cpu = [], []
    for _ in range(5):
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.startswith("ready"))
            times.append(time.perf_counter() - began)
            cpu.append(float(line.split()[1]))
            process.stdout.read()
    print(
        "start of a process to ready (gRPC, HTTP and one pool): "
        f"p50 {statistics.median(times):.2f} s, best {min(times):.2f} s, "
        f"of it p50 {statistics.median(cpu):.2f} s of CPU"
    )


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    state = world()
    builds(state)
    changes(state)
    starts()


if __name__ == "__main__":
    main()
