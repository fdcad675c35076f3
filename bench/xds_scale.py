"""How the xDS server core scales, without an Envoy.

    python -m bench.xds_scale

Clients are gRPC streams from another process on the same machine, one TCP connection each.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import grpc
import structlog
from prometheus_client import CollectorRegistry, generate_latest

from tests.xds.wire_client import SOTW
from xds.config import Limits, XdsServerConfig
from xds.grouped import GroupedSnapshots
from xds.metrics import XdsMetrics
from xds.protocol.message import DeltaRequest
from xds.protocol.stream import Stream
from xds.protocol.view import SnapshotView
from xds.resource import CLUSTER, ENDPOINT, Resource
from xds.server import XdsServer
from xds.snapshot import Snapshot
from xds.wire import discovery_pb2 as pb
from xds.wire import endpoint_pb2

LIMITS = Limits(streams_per_peer=5_000)


def assignment(name: str, count: int, turn: int = 0) -> Resource:
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    locality = message.endpoints.add()
    for index in range(count):
        endpoint = locality.lb_endpoints.add()
        address = endpoint.endpoint.address.socket_address
        address.address = f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"
        address.port_value = 8000 + (turn if index == 0 else 0)
        endpoint.health_status = endpoint_pb2.HEALTHY
        endpoint.load_balancing_weight.value = 1
    return Resource(ENDPOINT, name, message.SerializeToString())


def small_cluster(name: str) -> Resource:
    body = endpoint_pb2.Cluster(name=name).SerializeToString()
    return Resource(CLUSTER, name, body, needs=((ENDPOINT, name),))


def resident_megabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def _client(port: int, number: int, version: str, opened: Callable[[], None]) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.stream_stream(SOTW)()
        for type_url, names in ((CLUSTER, ()), (ENDPOINT, ("a",))):
            request = pb.DiscoveryRequest(type_url=type_url, resource_names=names)
            request.node.id = f"node-{number}"
            if type_url == CLUSTER:
                request.version_info = version
            await call.write(request.SerializeToString())
        opened()
        while isinstance(data := await call.read(), bytes):
            response = pb.DiscoveryResponse.FromString(data)
            ack = pb.DiscoveryRequest(
                type_url=response.type_url,
                response_nonce=response.nonce,
                version_info=response.version_info,
                resource_names=("a",) if response.type_url == ENDPOINT else (),
            )
            await call.write(ack.SerializeToString())


def _clients(port: int, count: int, version: str, control: Connection) -> None:
    async def run() -> None:
        tasks = [
            asyncio.ensure_future(_client(port, number, version, lambda: None))
            for number in range(count)
        ]
        await asyncio.to_thread(control.recv)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


class Fleet:
    """Clients in a process of their own."""

    def __init__(self, port: int, count: int, version: str = "") -> None:
        context = multiprocessing.get_context("spawn")
        self._control, theirs = context.Pipe()
        self._process = context.Process(target=_clients, args=(port, count, version, theirs))
        self._process.start()

    def stop(self) -> None:
        self._control.send(None)
        self._process.join(10)
        self._process.kill()


async def serve(registry: CollectorRegistry) -> tuple[XdsServer, GroupedSnapshots]:
    snapshots = GroupedSnapshots(lambda _node: "all")
    config = XdsServerConfig(port=0, limits=LIMITS, log_entries=20)
    server = XdsServer(snapshots, config, metrics=XdsMetrics(registry))
    snapshots.listen(server.refresh)
    await server.start()
    return server, snapshots


async def all_acked(server: XdsServer, wanted: Snapshot, clients: int) -> list[float]:
    """Wait for it; seconds that it took each client. Looks seldom, so as not to disturb."""
    for _ in range(100):
        await asyncio.sleep(0.6)  # To ask costs the server's time.
        for group in server.status().groups:
            newest = group.history[0]
            if newest.snapshot is wanted and len(newest.acked) == clients:
                return sorted(newest.acked.values())
    raise SystemExit("not all clients acknowledged within a minute")


async def fanout(streams: int, endpoints: int, turns: int) -> None:
    registry = CollectorRegistry()
    server, snapshots = await serve(registry)
    before = resident_megabytes()
    wanted = snapshots.publish("all", [small_cluster("a"), assignment("a", endpoints)])
    fleet = Fleet(server.port, streams)
    await all_acked(server, wanted, streams)
    held = resident_megabytes()
    times = []
    for turn in range(1, turns + 1):
        wanted = snapshots.publish("all", [small_cluster("a"), assignment("a", endpoints, turn)])
        times.append((await all_acked(server, wanted, streams))[-1] * 1000)
    print(
        f"{endpoints} endpoints to {streams} streams, all ACKed: "
        f"p50 {statistics.median(times):.0f} ms, worst {max(times):.0f} ms of {turns}"
    )
    print(
        f"{streams} streams held: {held:.0f} MB resident in all ({held - before:.0f} MB for them)"
    )
    began = time.process_time()
    server.status()
    told = (time.process_time() - began) * 1000
    began = time.process_time()
    size = len(generate_latest(registry))
    print(
        f"with {streams} streams: status() {told:.0f} ms, /metrics "
        f"{(time.process_time() - began) * 1000:.0f} ms of CPU for {size / 1000:.0f} KB"
    )
    fleet.stop()
    await server.stop(0)


async def reconnect(clients: int) -> None:
    server, snapshots = await serve(CollectorRegistry())
    clusters = [small_cluster(name) for name in ("a", *(f"c{i}" for i in range(99)))]
    ends = [assignment(cluster.name, 1) for cluster in clusters]
    snapshot = snapshots.publish("all", [*clusters, *ends])
    version = SnapshotView(snapshot).of(CLUSTER).version
    began = time.perf_counter()
    fleet = Fleet(server.port, clients, version)
    await all_acked(server, snapshot, clients)
    took = time.perf_counter() - began
    sent = sum(
        kind.responses
        for node in server.status().nodes
        for stream in node.streams
        for kind in stream.types
        if kind.type_url == CLUSTER
    )
    print(
        f"{clients} clients come back: {sent} cluster responses sent, all in sync in {took:.2f} s "
        "(the start of their process included)"
    )
    fleet.stop()
    await server.stop(0)


def one_change(pools: int, endpoints: int) -> None:
    """CPU of the core for one changed assignment and one Delta stream."""
    resources = {}
    for index in range(pools):
        name = f"pool-{index}"
        resources[CLUSTER, name] = small_cluster(name)
        resources[ENDPOINT, name] = assignment(name, endpoints)
    target = SnapshotView(Snapshot.of(resources.values()))
    stream = Stream(delta=True)
    stream.offer(target, 0.0)
    names = tuple(f"pool-{index}" for index in range(pools))
    for request in (DeltaRequest(CLUSTER), DeltaRequest(ENDPOINT, names)):
        stream.receive(request, 0.0)
    for _ in range(3):
        for response in list(stream.poll(0.0)):
            stream.receive(DeltaRequest(response.type_url, nonce=response.nonce), 0.0)
    assert stream.converged
    times = []
    for turn in range(1, 21):
        resources[ENDPOINT, "pool-0"] = assignment("pool-0", endpoints, turn)
        began = time.process_time()
        target = SnapshotView(Snapshot.of(resources.values()), target)
        stream.offer(target, 0.0)
        (response,) = list(stream.poll(0.0))
        times.append((time.process_time() - began) * 1000)
        stream.receive(DeltaRequest(ENDPOINT, nonce=response.nonce), 0.0)
    print(
        f"one change among {pools} pools of {endpoints}: "
        f"{statistics.median(times):.2f} ms CPU from resources to response"
    )


def start() -> None:
    """From the start of a process to the first answer of the health service."""
    program = (
        "import asyncio\n"
        "from xds.server import XdsServer\n"
        "from xds.config import XdsServerConfig\n"
        "from xds.grouped import GroupedSnapshots\n"
        "async def main():\n"
        "    server = XdsServer(GroupedSnapshots(lambda n: 'g'), XdsServerConfig(port=0))\n"
        "    await server.start()\n"
        "    await server.stop(0)\n"
        "asyncio.run(main())\n"
    )
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    print(f"process start to listening to process end: {statistics.median(times):.2f} s")


async def with_clients() -> None:
    await fanout(500, 1000, 10)
    await fanout(1000, 10, 3)
    await reconnect(100)


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    start()
    one_change(100, 100)
    asyncio.run(with_clients())


if __name__ == "__main__":
    main()
