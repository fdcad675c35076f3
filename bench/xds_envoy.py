"""How fast a change reaches a real Envoy.

python -m bench.xds_envoy
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import structlog

from bench.xds_scale import assignment
from tests.xds.envoy import Envoy, envoy, until
from tests.xds.resources import cluster, endpoints, listener, route
from xds.config import XdsServerConfig
from xds.grouped import GroupedSnapshots
from xds.resource import Resource
from xds.server import XdsServer


async def one_endpoint(proxy: Envoy, snapshots: GroupedSnapshots, rest: list[Resource]) -> None:
    """One of 1,000 endpoints changes; ended by Envoy's own counter of membership changes."""
    stat = "cluster.big.membership_change"
    times = []
    for turn in range(1, 31):
        before = (await proxy.stats(f"^{stat}$")).get(stat, 0)
        began = time.perf_counter()
        snapshots.publish("test", [*rest, assignment("big", 1000, turn)])

        async def active(before: int = before) -> bool:
            return (await proxy.stats(f"^{stat}$")).get(stat, 0) != before

        await until(active, "the change is active")
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.05)
    times.sort()
    print(
        f"  one endpoint of 1,000 changed, active: p50 {statistics.median(times):.1f} ms, "
        f"p90 {times[26]:.1f} ms"
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
    rest = [cluster("big"), listener("l", "r"), route("r", default="big")]
    snapshots.publish("test", [*rest, assignment("big", 1000)])
    print("Delta" if delta else "State-of-the-World")
    with tempfile.TemporaryDirectory() as directory:
        async with envoy(Path(directory), server.port, delta=delta) as proxy:

            async def ready() -> bool:
                return bool(await proxy.port("l"))

            await until(ready, "listener")
            await one_endpoint(proxy, snapshots, rest)
            await changed_cluster(server, snapshots)
    await server.stop(0)


async def both() -> None:
    for delta in (False, True):
        await run(delta)


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(both())


if __name__ == "__main__":
    main()
