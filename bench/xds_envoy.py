"""How fast a change reaches a real Envoy.

python -m bench.xds_envoy
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import betterproto2
import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.load_balancing_policies.override_host.v3 as override_v3
import envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin.v3 as round_robin_v3
import structlog
from envoy_data_plane.google.protobuf import Any

from tests.xds.envoy import envoy, until
from tests.xds.resources import ADS, cluster, endpoints, listener, route
from xds.config import XdsServerConfig
from xds.grouped import GroupedSnapshots
from xds.resource import CLUSTER, ENDPOINT, Resource
from xds.server import XdsServer
from xds.wire import endpoint_pb2

ENDPOINTS = 1_000
TURNS = 30
FLEET = 12
CHOICE = "x-host"


def overridable(name: str) -> Resource:
    """A cluster in which a request's header chooses the endpoint, if it is there."""
    balance = cluster_v3.LoadBalancingPolicy
    entry = cluster_v3.LoadBalancingPolicyPolicy

    def policy(kind: str, message: betterproto2.Message) -> cluster_v3.LoadBalancingPolicy:
        return balance(
            policies=[
                entry(
                    typed_extension_config=core.TypedExtensionConfig(
                        name=f"envoy.load_balancing_policies.{kind}",
                        typed_config=Any.pack(message),
                    )
                )
            ]
        )

    source = override_v3.OverrideHostOverrideHostSource(header=CHOICE)
    chosen = override_v3.OverrideHost(
        override_host_sources=[source],
        fallback_policy=policy("round_robin", round_robin_v3.RoundRobin()),
    )
    message = cluster_v3.Cluster(
        name=name,
        type=cluster_v3.ClusterDiscoveryType.EDS,
        eds_cluster_config=cluster_v3.ClusterEdsClusterConfig(eds_config=ADS),
        load_balancing_policy=policy("override_host", chosen),
    )
    return Resource(CLUSTER, name, bytes(message), needs=((ENDPOINT, name),))


def assignment(port: int, turn: int) -> Resource:
    """1,000 addresses of this machine's loopback network, the last of them new in each turn."""
    hosts = [f"127.1.{index // 250}.{index % 250 + 1}" for index in range(ENDPOINTS - 1)]
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name="big")
    locality = message.endpoints.add()
    for host in (*hosts, newest(turn)):
        address = locality.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = host, port
    return Resource(ENDPOINT, "big", message.SerializeToString())


def newest(turn: int) -> str:
    return f"127.2.0.{turn + 1}"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say which address was asked."""
    host = writer.get_extra_info("sockname")[0].rjust(15)
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{host}".encode())
    writer.close()


async def one_endpoint(
    port: int, listening: int, server: XdsServer, snapshots: GroupedSnapshots, rest: list[Resource]
) -> None:
    """One of 1,000 endpoints changes; ended by the first answer that comes from the new one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listening)

    async def reached(host: str) -> str:
        writer.write(f"GET / HTTP/1.1\r\nhost: x\r\n{CHOICE}: {host}:{port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        return (await reader.readexactly(length)).decode().strip()

    probes, times, acks = [], [], []
    for turn in range(1, TURNS + 1):
        asked = time.perf_counter()
        assert await reached(newest(turn - 1)) == newest(turn - 1)
        probes.append((time.perf_counter() - asked) * 1000)
        began = time.perf_counter()
        snapshots.publish("test", [*rest, assignment(port, turn)])
        while await reached(newest(turn)) != newest(turn):
            pass
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.05)
        acks.append(max(server.status().groups[0].history[0].acked.values()) * 1000)
    writer.close()
    times.sort()
    print(
        f"  one endpoint of {ENDPOINTS:,} changed, serves: p50 {statistics.median(times):.1f} ms, "
        f"p90 {times[TURNS * 9 // 10]:.1f} ms; ACKed: p50 {statistics.median(acks):.1f} ms "
        f"(one request: {statistics.median(probes):.1f} ms)",
        flush=True,
    )


async def changed_cluster(server: XdsServer, snapshots: GroupedSnapshots) -> None:
    """A cluster changes, its endpoints do not; ended by the ACK of everything."""
    config = [endpoints("a", 1), listener("l", "r"), route("r", default="a")]
    times = []
    for turn in range(1, 21):
        wanted = snapshots.publish("test", [cluster("a", timeout=1 + turn / 100), *config])
        began = time.perf_counter()

        def there(wanted: object = wanted) -> bool:
            newest = server.status().groups[0].history[0]
            return newest.snapshot is wanted and bool(newest.acked)

        await until(there, "ACK", 20)
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.05)
    print(
        f"  changed cluster, unchanged endpoints, ACKed: p50 {statistics.median(times):.1f} ms, "
        f"worst {max(times):.1f} ms (15,000 ms where endpoints are not sent again)"
    )


async def run(delta: bool) -> None:
    snapshots = GroupedSnapshots(lambda node: node.cluster)
    server = XdsServer(snapshots, XdsServerConfig(port=0))
    snapshots.listen(server.refresh)
    await server.start()
    upstream = await asyncio.start_server(answer, "0.0.0.0", 0)  # All of 127/8.
    port = upstream.sockets[0].getsockname()[1]
    rest = [overridable("big"), listener("l", "r"), route("r", default="big")]
    snapshots.publish("test", [*rest, assignment(port, 0)])
    print("Delta" if delta else "State-of-the-World")
    with tempfile.TemporaryDirectory() as directory:
        async with envoy(Path(directory), server.port, delta=delta) as proxy:

            async def ready() -> bool:
                return bool(await proxy.port("l"))

            await until(ready, "listener")
            listening = await proxy.port("l")
            await until(lambda: bool(server.status().groups[0].history[0].acked), "ACK")
            await one_endpoint(port, listening, server, snapshots, rest)
            await changed_cluster(server, snapshots)
    upstream.close()
    await server.stop(0)


async def reconnecting(delta: bool) -> None:
    """Real Envoys come back to a server that was started anew."""
    config = [r for i in range(100) for r in (cluster(f"c{i}"), endpoints(f"c{i}", 1))]
    config += [listener("l", "r"), route("r", default="c0")]
    snapshots = GroupedSnapshots(lambda node: node.cluster)
    wanted = snapshots.publish("test", config)
    server = XdsServer(snapshots, XdsServerConfig(port=0))
    await server.start()
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number in range(FLEET):
            node = f"envoy-{number}"
            started = envoy(directory / node, server.port, delta=delta, node=node)
            await stack.enter_async_context(started)

        async def all_there(server: XdsServer) -> float:
            def there() -> bool:
                groups = server.status().groups
                if not groups or groups[0].history[0].snapshot is not wanted:
                    return False
                return len(groups[0].history[0].acked) == FLEET

            return await until(there, f"{FLEET} Envoys have everything", 60)

        await all_there(server)
        port = server.port
        await server.stop(0)
        server = XdsServer(snapshots, XdsServerConfig(port=port))
        await server.start()
        took = await all_there(server)
        streams = [s for node in server.status().nodes for s in node.streams]
        resent = Counter[str]()
        for kind in (t for stream in streams for t in stream.types if t.wildcard):
            resent[kind.type_url.rpartition(".")[2]] += sum(
                entry.count
                for stream in streams
                for entry in stream.log
                if entry.direction == "sent" and entry.type_url == kind.type_url
            )
    await server.stop(0)
    print(
        f"  {FLEET} Envoys with 100 clusters come back to a restarted server: "
        f"{resent['Cluster']} clusters and {resent['Listener']} listeners sent again, "
        f"all in sync after {took:.1f} s (their own back-off included)",
        flush=True,
    )


async def both() -> None:
    for delta in (False, True):
        await run(delta)
        await reconnecting(delta)


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(both())


if __name__ == "__main__":
    main()
