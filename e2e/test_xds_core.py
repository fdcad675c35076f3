"""The xDS server core and a real Envoy, State-of-the-World and Delta."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.xds.envoy import until
from tests.xds.resources import cluster, endpoints, listener, route
from tests.xds.scene import scene, upstream
from xds.config import XdsServerConfig
from xds.resource import CLUSTER, Resource
from xds.server import XdsServer
from xds.status import State

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=["sotw", "delta"])
def delta(request) -> bool:
    return request.param == "delta"


async def test_a_changed_cluster_with_unchanged_endpoints_is_acknowledged_at_once(tmp_path, delta):
    config = [endpoints("a", 1), listener("l", "r"), route("r", default="a")]
    async with scene(tmp_path, [cluster("a"), *config], delta=delta) as at:
        at.publish(cluster("a", timeout=2.0), *config)
        assert await at.converged() < 2.0, "Envoy waits 15 s where its endpoints are not sent again"


async def test_forty_swaps_of_a_route_to_a_new_cluster_lose_no_request(tmp_path, delta):
    async with upstream() as port:

        def config(name: str) -> list[Resource]:
            return [
                cluster(name),
                endpoints(name, port),
                listener("l", "r"),
                route("r", default=name),
            ]

        async with scene(tmp_path, config("swap-0"), delta=delta) as at:
            url = f"http://127.0.0.1:{await at.listens()}/"
            answers: Counter[int] = Counter()
            done = asyncio.Event()

            async def client() -> None:
                while not done.is_set():
                    answers[(await at.envoy.http.get(url)).status_code] += 1

            clients = [asyncio.ensure_future(client()) for _ in range(4)]
            for number in range(1, 41):
                at.publish(*config(f"swap-{number}"))
                await at.converged()
            done.set()
            await asyncio.gather(*clients)
            assert answers.keys() == {200}, answers
            assert answers[200] > 100
            assert (await at.envoy.clusters()).keys() == {"xds", "swap-40"}


@pytest.mark.parametrize("kind", ["validation", "construction"])
async def test_good_neighbours_of_a_bad_cluster_are_active_and_the_bad_one_is_named(
    tmp_path, delta, kind
):
    broken = (
        cluster("bad", timeout=-1.0)
        if kind == "validation"
        else cluster("bad", policy="CLUSTER_PROVIDED")
    )
    start = [cluster("a"), endpoints("a", 1), listener("l", "r"), route("r", default="a")]
    async with scene(tmp_path, start, delta=delta) as at:
        good = [r for n in ("g1", "g2", "g3") for r in (cluster(n), endpoints(n, 1))]
        at.publish(*start, *good, broken, endpoints("bad", 1))
        for name in ("g1", "g2", "g3"):
            await at.active(name, limit=1.0)
        rejected = next(t for t in at.stream.types if t.type_url == CLUSTER).rejected
        assert [(r.name, r.origin) for r in rejected] == [("bad", "test:bad")]
        assert "goo.gle" not in rejected[0].message
        assert at.server.status().nodes[0].state is State.ERROR
        assert "a" in await at.envoy.clusters()
        at.publish(*start, *good, cluster("bad"), endpoints("bad", 1))
        await at.active("bad")
        await at.converged()
        assert at.server.status().nodes[0].state is State.SYNCED


async def test_the_last_good_form_of_a_cluster_stays_when_its_new_form_is_bad(tmp_path, delta):
    start = [cluster("a"), endpoints("a", 1), listener("l", "r"), route("r", default="a")]
    async with scene(tmp_path, start, delta=delta) as at:
        broken = [cluster("a", timeout=-1.0), *start[1:]]
        at.publish(*broken, cluster("b"), endpoints("b", 2))
        await at.active("b", limit=1.0)
        assert "a" in await at.envoy.clusters()


async def test_endpoints_that_come_and_go_are_active_at_once(tmp_path, delta):
    rest = [cluster("a"), listener("l", "r"), route("r", default="a")]
    async with scene(tmp_path, [*rest, endpoints("a", 1)], delta=delta) as at:
        for ports in ((1, 2), (2, 3), (2,)):
            at.publish(*rest, endpoints("a", *ports))

            async def there(ports: tuple[int, ...] = ports) -> bool:
                return (await at.envoy.clusters())["a"] == list(ports)

            await until(there, f"endpoints {ports}", 1.0)


async def test_an_envoy_that_comes_back_to_a_restarted_server_keeps_serving(tmp_path, delta):
    async with upstream() as port:
        config = [
            cluster("a"),
            endpoints("a", port),
            listener("l", "r"),
            route("r", default="a"),
        ]
        async with scene(tmp_path, config, delta=delta) as at:
            url = f"http://127.0.0.1:{await at.listens()}/"
            xds_port = at.server.port
            await at.server.stop(0)
            again = XdsServer(at.snapshots, XdsServerConfig(port=xds_port))
            await again.start()
            try:
                assert (await at.envoy.http.get(url)).status_code == 200
                await until(
                    lambda: (
                        bool(again.status().groups)
                        and again.status().groups[0].history[0].acked != {}
                    ),
                    "Envoy is back",
                    15,
                )
                clusters = next(
                    t for t in again.status().nodes[0].streams[0].types if t.type_url == CLUSTER
                )
                assert clusters.bytes_sent < 200, "unchanged clusters are not sent again"
                assert (await at.envoy.http.get(url)).status_code == 200
            finally:
                await again.stop(0)


async def test_grpcs_own_xds_client_is_served(tmp_path):
    """In a process of its own, since gRPC reads its bootstrap once."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.xds.grpc_xds_client", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "SERVING" in done.stdout
