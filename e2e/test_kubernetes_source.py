"""The kubernetes source on a real API server: what kubectl does, a World says within a second."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import random
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import structlog
import yaml

from e2e.harness import eventually
from e2e.kube.api_server import ApiServer, pod, pod_object, pod_status
from e2e.kube.proxy import Proxy
from poolpilot.demo.ports import LOOPBACK, reserve
from poolpilot.demo.processes import Children
from pools.kubernetes import KubernetesSettings, KubernetesSource, Timing
from pools.model import ObjectName, Pod, World
from tests.pools.pairs import pair

PROMPT = 1.0
"""Seconds within which a change must reach the World, counted from when kubectl is done."""
LIMIT = 20.0
COUNT = 1000
ROUNDS = 2
FRESH = 2.0
"""Seconds after the last change within which the World must be that of the cluster."""
QUICK = Timing(discovery=0.5, longest_retry=0.5)
_numbers = itertools.count()


def pool(name: str = "llama", app: str = "llama", *ports: int) -> str:
    numbers = ", ".join(f"{{number: {port}}}" for port in ports or (8000,))
    return f"""---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  targetPorts: [{numbers}]
  endpointPickerRef: {{name: picker, port: {{number: 9002}}}}
"""


ROUTE = """---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: llm}
spec:
  parentRefs: [{name: gateway}]
  rules:
  - backendRefs:
    - {group: inference.networking.k8s.io, kind: InferencePool, name: llama}
"""


class Following:
    """The last World of a source that is followed in the background."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.world: World | None = None
        self.revisions = 0
        self._changed = asyncio.Event()

    async def run(self, source: KubernetesSource) -> None:
        async with contextlib.aclosing(source.worlds()) as worlds:  # type: ignore[type-var]  # an async generator
            async for world in worlds:
                self.world = world
                self.revisions += 1
                self._changed.set()

    @property
    def now(self) -> World:
        assert self.world is not None, "no World yet"
        return self.world

    def name(self, name: str) -> ObjectName:
        return ObjectName(self.namespace, name)

    def endpoints(self, pool: str = "llama") -> dict[str, str]:
        """Names by address and port."""
        return {one.key: one.name for one in self.now.endpoints_of(self.name(pool))}

    def absent(self) -> dict[str, str]:
        return {one.name: one.reason for one in self.now.absent}

    async def until(self, holds: Callable[[], bool], what: str, limit: float = PROMPT) -> None:
        await eventually(lambda: self.world is not None and holds(), what, limit)


@asynccontextmanager
async def following(settings: KubernetesSettings) -> AsyncIterator[Following]:
    [namespace, *_] = settings.namespaces
    following = Following(namespace)
    task = asyncio.create_task(following.run(KubernetesSource(settings)))
    try:
        await following.until(lambda: True, "the first World", LIMIT)
        yield following
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def namespace(api_server: ApiServer) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"source-{next(_numbers)}"
    api_server.kubectl("create", "namespace", name)
    yield name
    api_server.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def settings(api_server: ApiServer, namespace: str) -> KubernetesSettings:
    return KubernetesSettings(api_server.kubeconfig, namespaces=(namespace,), timing=QUICK)


class Cluster:
    """kubectl in one namespace, without holding up the event loop."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server = server
        self.namespace = namespace

    async def apply(self, *manifests: str) -> None:
        await asyncio.to_thread(self.server.apply, "".join(manifests), namespace=self.namespace)

    async def delete(self, *what: str) -> None:
        await asyncio.to_thread(
            self.server.kubectl, "delete", f"--namespace={self.namespace}", "--now", *what
        )

    async def runs(self, name: str, address: str, *, ready: bool = True, message: str = "") -> None:
        """What a kubelet would say of a pod."""
        await asyncio.to_thread(
            self.server.patch_status,
            "pod",
            name,
            pod_status(address, ready=ready, message=message),
            namespace=self.namespace,
        )


class Crowd:
    """Pods by the hundred, through the API, since kubectl would take minutes."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._server = server
        self._names = (f"pod-{number}" for number in itertools.count())
        self._slots = asyncio.Semaphore(16)

    async def __aenter__(self) -> Crowd:
        self._session = aiohttp.ClientSession(
            self._server.url, connector=aiohttp.TCPConnector(ssl=self._server.client_tls())
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def add(self, expected: dict[str, str], count: int) -> None:
        """Create Ready pods and note their endpoints."""

        async def one(name: str) -> None:
            number = int(name.removeprefix("pod-"))
            address = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
            manifest = pod_object(name, {"app": "llama"}, {"notes": "x" * 4000})
            await self._ask("POST", "", manifest)
            status = {"status": pod_status(address)}
            await self._ask("PATCH", f"/{name}/status", status, "application/merge-patch+json")
            expected[f"{address}:8000"] = name

        await asyncio.gather(*(one(next(self._names)) for _ in range(count)))

    async def remove(self, expected: dict[str, str], keys: list[str]) -> None:
        async def one(key: str) -> None:
            await self._ask("DELETE", f"/{expected.pop(key)}", {"gracePeriodSeconds": 0})

        await asyncio.gather(*map(one, keys))

    async def _ask(
        self, method: str, path: str, body: object, kind: str = "application/json"
    ) -> None:
        async with (
            self._slots,
            self._session.request(
                method, self._path + path, data=json.dumps(body), headers={"Content-Type": kind}
            ) as answer,
        ):
            assert answer.status < 300, await answer.text()
            await answer.read()


@pytest.fixture
def cluster(api_server: ApiServer, namespace: str) -> Cluster:
    return Cluster(api_server, namespace)


async def test_pods_come_turn_unready_and_go_and_the_world_says_so_within_a_second(
    cluster: Cluster, settings: KubernetesSettings
) -> None:
    async with following(settings) as seen:
        await cluster.apply(pool(), pod("one", {"app": "llama"}), pod("other", {"app": "sql"}))
        await seen.until(lambda: seen.name("llama") in seen.now.pools, "the pool is there")
        await seen.until(
            lambda: seen.absent() == {"one": "not Ready: it has not started yet"},
            "a pod that has not started is told, one of another app is not",
        )
        await cluster.runs("one", "10.1.0.1")
        await seen.until(
            lambda: seen.endpoints() == {"10.1.0.1:8000": "one"} and not seen.now.absent,
            "a Ready pod is an endpoint",
        )
        await cluster.runs("one", "10.1.0.1", ready=False, message="probe failed")
        await seen.until(
            lambda: (
                seen.absent() == {"one": "not Ready since 2026-01-01T12:03:00Z: probe failed"}
                and not seen.endpoints()
            ),
            "a pod that is not Ready is none, and the reason is told",
        )
        await cluster.runs("one", "fd00::1")
        await seen.until(lambda: "[fd00::1]:8000" in seen.endpoints(), "IPv6 works as well")
        await cluster.apply(pool("llama", "llama", 8000, 8001))
        await seen.until(
            lambda: (
                seen.endpoints() == {"[fd00::1]:8000": "one-rank-0", "[fd00::1]:8001": "one-rank-1"}
            ),
            "each port is an endpoint",
        )
        ports = {"inference.networking.k8s.io/active-ports": "8001"}
        await cluster.apply(pod("one", {"app": "llama"}, ports))
        await seen.until(
            lambda: seen.endpoints() == {"[fd00::1]:8001": "one-rank-1"}, "one port is not active"
        )
        await cluster.delete("pod", "one")
        await seen.until(lambda: not seen.endpoints(), "a deleted pod is gone")
        await cluster.delete("inferencepool.inference.networking.k8s.io", "llama")
        await seen.until(lambda: not seen.now.pools, "a deleted pool is gone")


async def test_a_pod_that_is_being_deleted_leaves_at_once(
    cluster: Cluster, settings: KubernetesSettings
) -> None:
    # A finalizer stands for a kubelet that gives the containers time to end.
    held = pod("one", {"app": "llama"}).replace(
        "metadata:", "metadata:\n  finalizers: [poolpilot.dev/held]"
    )
    await cluster.apply(pool(), held)
    await cluster.runs("one", "10.1.0.1")
    async with following(settings) as seen:
        await seen.until(lambda: len(seen.endpoints()) == 1, "it serves", LIMIT)
        await cluster.delete("pod", "one", "--wait=false")
        await seen.until(lambda: not seen.endpoints(), "it is no endpoint any more")
        assert seen.absent() == {"one": "is being deleted"}
        await cluster.apply(pod("one", {"app": "llama"}))  # without the finalizer
        await seen.until(lambda: not seen.now.absent, "and in the end it is gone")


async def test_routes_gateways_and_models_are_followed(
    cluster: Cluster, settings: KubernetesSettings, api_server: ApiServer
) -> None:
    classes = "".join(
        f"""---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: {cluster.namespace}-{name}}}
spec: {{controllerName: {controller}}}
"""
        for name, controller in [
            ("ours", "poolpilot.dev/gateway-controller"),
            ("theirs", "example.com/other"),
        ]
    )
    gateways = "".join(
        f"""---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}}}
spec:
  gatewayClassName: {cluster.namespace}-{of}
  listeners: [{{name: http, port: 8081, protocol: HTTP}}]
"""
        for name, of in [("gateway", "ours"), ("foreign", "theirs")]
    )
    models = """---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata: {name: tweets}
spec: {modelName: tweets, criticality: Critical, poolRef: {name: llama}}
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -1, poolRef: {name: llama}}
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModelRewrite
metadata: {name: canary}
spec:
  poolRef: {name: llama}
  rules: [{targets: [{modelRewrite: llama-2}]}]
"""
    async with following(settings) as seen:
        await cluster.apply(pool(), ROUTE, gateways, models, classes)
        await seen.until(
            lambda: (
                [one.name for one in seen.now.gateways] == [seen.name("gateway")]
                and [one.name for one in seen.now.routes] == [seen.name("llm")]
            ),
            "the route and the gateway of our class are there, the foreign gateway is not",
        )
        await seen.until(
            lambda: (
                [one.model_name for one in seen.now.models] == ["tweets"]
                and [one.priority for one in seen.now.objectives] == [-1]
                and [one.name for one in seen.now.rewrites] == [seen.name("canary")]
            ),
            "models, objectives and rewrites are there",
        )
        assert seen.now.problems == ()
        await cluster.apply(ROUTE.replace("name: llama}", "name: llama, weight: 7}"))
        await seen.until(
            lambda: seen.now.routes[0].rules[0].backends[0].weight == 7, "the route has changed"
        )
        await cluster.apply(ROUTE.replace("rules:", "rules: {}\n  unused:"))
        await seen.until(
            lambda: any("the last good version" in str(one) for one in seen.now.problems),
            "a broken route is told",
        )
        assert seen.now.routes[0].rules[0].backends[0].weight == 7
        await cluster.delete("httproute", "llm")
        await seen.until(lambda: not seen.now.routes and not seen.now.problems, "it is gone")
    await asyncio.to_thread(api_server.kubectl, "delete", "--filename=-", stdin=classes)


def gateway_of(name: str, *listeners: str) -> str:
    """A Gateway of ours and its GatewayClass."""
    return f"""---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: {name}}}
spec: {{controllerName: poolpilot.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gateway}}
spec:
  gatewayClassName: {name}
  listeners: [{", ".join(listeners)}]
"""


HTTPS = "{name: https, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}}"


async def test_a_secret_is_rotated_and_its_key_is_nowhere_to_be_read(
    cluster: Cluster, settings: KubernetesSettings
) -> None:
    first, second = pair(), pair()
    with structlog.testing.capture_logs() as logs:
        async with following(settings) as seen:
            await cluster.apply(pool(), gateway_of(cluster.namespace, HTTPS))
            await seen.until(lambda: bool(seen.now.gateways), "the Gateway is there")
            assert seen.now.certificates == {}
            for one in (first, second):
                await cluster.apply("---\n" + yaml.safe_dump(one.secret(namespace="")))
                await seen.until(
                    lambda key=one.key: [c.key for c in seen.now.certificates.values()] == [key],
                    "the certificate is there",
                )
            broken = replace(second, key=first.key).secret(namespace="")
            await cluster.apply("---\n" + yaml.safe_dump(broken))
            await seen.until(lambda: bool(seen.now.problems), "a wrong key is told")
            assert [one.key for one in seen.now.certificates.values()] == [second.key]
            shown = repr(seen.now) + "".join(map(str, seen.now.problems)) + repr(logs)
            for one in (first, second):
                assert one.key.decode().splitlines()[1] not in shown
                assert one.secret()["data"]["tls.key"][40:80] not in shown
            [origin] = [one.origin for one in seen.now.gateways]
            assert origin is not None
            assert (origin.generation, bool(origin.uid)) == (1, True)
            await cluster.delete("secret", "tls")
            await seen.until(lambda: not seen.now.certificates, "a deleted Secret is gone")
            assert not seen.now.problems


WEB = """---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: gateway}]
  rules:
  - backendRefs: [{name: web, port: 80}]
"""
SERVICE = """---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c}]
"""


def slice_of(service: str, *addresses: str) -> str:
    # No controller makes these here.
    endpoints = "".join(
        f"\n- {{addresses: [{address}], conditions: {{ready: true}}}}" for address in addresses
    )
    return f"""---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints: {endpoints or "[]"}
"""


async def test_the_addresses_of_a_service_that_a_route_names_are_followed_and_of_no_other(
    cluster: Cluster, settings: KubernetesSettings
) -> None:
    http = "{name: http, port: 8081, protocol: HTTP}"

    def addresses() -> list[str]:
        service = seen.now.services.get(seen.name("web"))
        return [f"{ip}:{port}" for ip, port in service.ports[0].addresses] if service else []

    async with following(settings) as seen:
        await cluster.apply(
            pool(), gateway_of(cluster.namespace, http), WEB, SERVICE, slice_of("web", "10.2.0.1")
        )
        await seen.until(lambda: addresses() == ["10.2.0.1:8080"], "the Service has an address")
        assert seen.now.services[seen.name("web")].ports[0].app_protocol == "kubernetes.io/h2c"
        await cluster.apply(slice_of("web", "10.2.0.2", "10.2.0.3"))
        await seen.until(lambda: addresses() == ["10.2.0.2:8080", "10.2.0.3:8080"], "new ones")
        labels = seen.now.namespaces
        assert labels == {cluster.namespace: {"kubernetes.io/metadata.name": cluster.namespace}}
        revisions = seen.revisions
        await cluster.apply(SERVICE.replace("web", "other"), slice_of("other", "10.2.0.9"))
        await cluster.apply(slice_of("web", "10.2.0.4"))
        await seen.until(lambda: addresses() == ["10.2.0.4:8080"], "the next change")
        assert list(seen.now.services) == [seen.name("web")]
        assert seen.revisions == revisions + 1, "nobody asked for the other Service"
        await asyncio.to_thread(
            cluster.server.kubectl, "label", "namespace", cluster.namespace, "team=a"
        )
        await seen.until(
            lambda: seen.now.namespaces[cluster.namespace].get("team") == "a", "a label is seen"
        )


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_a_grant_comes_and_goes(
    cluster: Cluster, settings: KubernetesSettings, version: str
) -> None:
    grant = f"""---
apiVersion: gateway.networking.k8s.io/{version}
kind: ReferenceGrant
metadata: {{name: grant}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: apps}}]
  to: [{{group: "", kind: Service}}]
"""
    async with following(settings) as seen:
        await cluster.apply(pool(), grant)
        await seen.until(
            lambda: [(one.sources, one.targets) for one in seen.now.grants] == [
                ((("gateway.networking.k8s.io", "HTTPRoute", "apps"),), (("", "Service", None),))
            ],
            "the grant is there",
        )  # fmt: skip
        await cluster.delete("referencegrant", "grant")
        await seen.until(lambda: not seen.now.grants, "and gone")


async def test_a_pool_of_the_old_group_works_and_yields_to_one_of_the_new_group(
    cluster: Cluster, settings: KubernetesSettings
) -> None:
    old = """---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferencePool
metadata: {name: llama}
spec:
  selector: {app: llama}
  targetPortNumber: 9000
  extensionRef: {name: picker}
"""
    async with following(settings) as seen:
        await cluster.apply(old, pod("one", {"app": "llama"}))
        await cluster.runs("one", "10.1.0.1")
        await seen.until(lambda: "10.1.0.1:9000" in seen.endpoints(), "the old pool counts")
        await cluster.apply(pool())
        await seen.until(
            lambda: (
                list(seen.endpoints()) == ["10.1.0.1:8000"]
                and ["exists in two API groups" in one.message for one in seen.now.problems]
                == [True]
            ),
            "the new one counts instead, and the double is told",
        )
        await cluster.delete("inferencepools.inference.networking.x-k8s.io", "llama")
        await seen.until(lambda: not seen.now.problems, "the double is gone")


async def test_a_kind_that_is_installed_later_is_picked_up_and_one_that_goes_is_let_go(
    cluster: Cluster, settings: KubernetesSettings, api_server: ApiServer
) -> None:
    model = """---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata: {name: tweets}
spec: {modelName: tweets, poolRef: {name: llama}}
"""
    await asyncio.to_thread(api_server.uninstall, "inferencemodels")
    with structlog.testing.capture_logs() as logs:
        async with following(settings) as seen:
            await cluster.apply(pool())
            await seen.until(lambda: bool(seen.now.pools), "the rest is followed", LIMIT)
            assert [line["kind"] for line in logs if "not installed" in line["event"]].count(
                "InferenceModel (inference.networking.x-k8s.io)"
            ) == 1
            await asyncio.to_thread(api_server.install, "inferencemodels")
            await cluster.apply(model)
            await seen.until(lambda: bool(seen.now.models), "the model is there", LIMIT)
            await asyncio.to_thread(api_server.uninstall, "inferencemodels")
            await seen.until(lambda: not seen.now.models, "and gone with its kind", LIMIT)
            await asyncio.to_thread(api_server.install, "inferencemodels")
            await cluster.apply(model)
            await seen.until(lambda: bool(seen.now.models), "and there again", LIMIT)


async def test_the_api_server_dies_and_comes_back_and_nothing_is_lost_meanwhile(
    cluster: Cluster, settings: KubernetesSettings, api_server: ApiServer
) -> None:
    await cluster.apply(pool(), pod("one", {"app": "llama"}))
    await cluster.runs("one", "10.1.0.1")
    async with following(settings) as seen:
        await seen.until(lambda: len(seen.endpoints()) == 1, "it serves", LIMIT)
        before = seen.now
        api_server.kill()
        await seen.until(
            lambda: [f"the API server {api_server.url} cannot be reached since" in one.message
                     for one in seen.now.problems] == [True],
            "the outage is told, once for all kinds",
        )  # fmt: skip
        away = replace(seen.now, revision=before.revision, problems=before.problems)
        assert away == before, "what was known stays in effect"
        api_server.launch()
        await asyncio.to_thread(api_server.wait_ready)
        await seen.until(lambda: not seen.now.problems, "the outage has ended", LIMIT)
        assert seen.endpoints() == {"10.1.0.1:8000": "one"}
        await cluster.apply(pod("two", {"app": "llama"}))
        await cluster.runs("two", "10.1.0.2")
        await seen.until(lambda: "10.1.0.2:8000" in seen.endpoints(), "changes are seen again")


async def test_what_was_deleted_while_the_version_expired_is_gone_after_the_new_list(
    cluster: Cluster, settings: KubernetesSettings, api_server: ApiServer, tmp_path: Path
) -> None:
    await cluster.apply(pool(), *(pod(name, {"app": "llama"}) for name in ("goes", "stays")))
    await cluster.runs("goes", "10.1.0.1")
    await cluster.runs("stays", "10.1.0.2")
    async with Proxy(api_server.port).running() as proxy:
        kubeconfig = api_server.write_kubeconfig(tmp_path / "kubeconfig", port=proxy.port)
        async with following(replace(settings, kubeconfig=kubeconfig)) as seen:
            await seen.until(lambda: len(seen.endpoints()) == 2, "both serve", LIMIT)
            proxy.cut()
            await cluster.delete("pod", "goes")
            await cluster.apply(pod("new", {"app": "llama"}))
            await cluster.runs("new", "10.1.0.3")
            # A server that has just started knows no version before its own start.
            api_server.kill()
            api_server.launch()
            await asyncio.to_thread(api_server.wait_ready)
            assert set(seen.endpoints()) == {"10.1.0.1:8000", "10.1.0.2:8000"}
            with structlog.testing.capture_logs() as logs:
                proxy.mend()
                await seen.until(
                    lambda: set(seen.endpoints()) == {"10.1.0.2:8000", "10.1.0.3:8000"},
                    "the World is that of the server",
                    LIMIT,
                )
                await seen.until(lambda: not seen.now.problems, "the outage has ended", LIMIT)
            assert any("version expired" in line["event"] for line in logs)


async def test_a_connection_that_breaks_again_and_again_loses_no_event(
    cluster: Cluster, settings: KubernetesSettings, api_server: ApiServer, tmp_path: Path
) -> None:
    await cluster.apply(pool(), *(pod(f"pod-{n}", {"app": "llama"}) for n in range(10)))
    async with Proxy(api_server.port).running() as proxy:
        kubeconfig = api_server.write_kubeconfig(tmp_path / "kubeconfig", port=proxy.port)
        async with following(replace(settings, kubeconfig=kubeconfig)) as seen:
            for number in range(10):
                await cluster.runs(f"pod-{number}", f"10.1.0.{number}")
                proxy.break_connections()
            await seen.until(lambda: len(seen.endpoints()) == 10, "all pods serve", LIMIT)


async def test_a_thousand_pods_churn_and_none_is_stale(
    cluster: Cluster, settings: KubernetesSettings, api_server: ApiServer
) -> None:
    await cluster.apply(pool())
    expected: dict[str, str] = {}
    async with Crowd(api_server, cluster.namespace) as crowd, following(settings) as seen:
        await crowd.add(expected, COUNT)
        await seen.until(lambda: seen.endpoints() == expected, "all thousand serve", FRESH)
        revisions = seen.revisions
        for _ in range(ROUNDS):
            gone = random.sample(sorted(expected), COUNT // 10)
            await crowd.remove(expected, gone)
            await crowd.add(expected, len(gone))
            await seen.until(
                lambda: seen.endpoints() == expected, "no endpoint is stale or missing", FRESH
            )
        changes = ROUNDS * COUNT // 10 * 3
        assert seen.revisions - revisions < changes / 3, "bursts are taken together"
        # What is kept of pods that are gone would be found here.
        gc.collect()
        kept = sum(isinstance(one, Pod) for one in gc.get_objects())
        assert kept <= COUNT, f"{kept} pods in memory, {COUNT} in the cluster"


def documented_role() -> str:
    """The ClusterRole of the documentation."""
    text = (Path(__file__).parents[1] / "docs" / "kubernetes.md").read_text()
    [role] = re.findall(r"```yaml\n(.*?kind: ClusterRole\n.*?)```", text, re.DOTALL)
    return str(role)


async def test_the_documented_permissions_are_enough_and_without_them_no_world_comes(
    cluster: Cluster, settings: KubernetesSettings, api_server: ApiServer, tmp_path: Path
) -> None:
    await cluster.apply(pool(), pod("one", {"app": "llama"}), ROUTE)
    await cluster.runs("one", "10.1.0.1")

    def kubectl(*arguments: str) -> str:
        return api_server.kubectl(*arguments, f"--namespace={cluster.namespace}").strip()

    await asyncio.to_thread(kubectl, "create", "serviceaccount", "poolpilot")
    token = await asyncio.to_thread(kubectl, "create", "token", "poolpilot")
    kubeconfig = api_server.write_kubeconfig(tmp_path / "kubeconfig", token=token)
    # All namespaces, as the role allows.
    limited = replace(settings, kubeconfig=kubeconfig, namespaces=())
    seen = Following(cluster.namespace)
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(seen.run(KubernetesSource(limited)))
        try:
            kinds = len(api_server.get("customresourcedefinitions")["items"]) - 1  # + Pod - 2
            await eventually(
                lambda: sum(line.get("status") == 403 for line in logs) >= kinds,
                "every kind is refused",
                LIMIT,
            )
            assert seen.world is None
            await cluster.apply(documented_role())
            await asyncio.to_thread(
                kubectl, "create", "clusterrolebinding", cluster.namespace,
                "--clusterrole=poolpilot-xds",
                f"--serviceaccount={cluster.namespace}:poolpilot",
            )  # fmt: skip
            await seen.until(
                lambda: (
                    seen.endpoints() == {"10.1.0.1:8000": "one"}
                    and seen.name("llm") in [one.name for one in seen.now.routes]
                    and not any("cannot be read" in one.message for one in seen.now.problems)
                ),
                "everything is read",
                LIMIT,
            )
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    await asyncio.to_thread(kubectl, "delete", "clusterrolebinding", cluster.namespace)


async def test_without_the_rules_for_what_is_referred_to_pools_are_served_and_it_is_told(
    cluster: Cluster, settings: KubernetesSettings, api_server: ApiServer, tmp_path: Path
) -> None:
    await cluster.apply(
        pool(),
        pod("one", {"app": "llama"}),
        gateway_of(cluster.namespace, HTTPS),
        "---\n" + yaml.safe_dump(pair().secret(namespace="")),
    )
    await cluster.runs("one", "10.1.0.1")
    role = yaml.safe_load(documented_role())
    optional = {"secrets", "services", "endpointslices", "namespaces", "referencegrants"}
    narrow = [rule for rule in role["rules"] if not optional & set(rule["resources"])]
    assert len(narrow) < len(role["rules"])

    def kubectl(*arguments: str, stdin: str | None = None) -> str:
        return api_server.kubectl(*arguments, stdin=stdin).strip()

    namespace = f"--namespace={cluster.namespace}"
    name = f"narrow-{cluster.namespace}"

    async def allow(rules: list[object]) -> None:
        document = {**role, "metadata": {"name": name}, "rules": rules}
        await cluster.apply(yaml.safe_dump(document))

    await allow(narrow)
    await asyncio.to_thread(kubectl, "create", "serviceaccount", "poolpilot", namespace)
    account = f"--serviceaccount={cluster.namespace}:poolpilot"
    await asyncio.to_thread(
        kubectl, "create", "clusterrolebinding", name, f"--clusterrole={name}", account
    )
    token = await asyncio.to_thread(kubectl, "create", "token", "poolpilot", namespace)
    kubeconfig = api_server.write_kubeconfig(tmp_path / "kubeconfig", token=token)
    async with following(replace(settings, kubeconfig=kubeconfig)) as seen:
        assert seen.endpoints() == {"10.1.0.1:8000": "one"}
        assert seen.now.unread == {
            "Secret", "Service", "EndpointSlice", "Namespace", "ReferenceGrant"
        }  # fmt: skip
        told = [one for one in seen.now.problems if "if any is needed" in one.message]
        assert len(told) == len(seen.now.unread)
        await allow(role["rules"])
        await seen.until(lambda: not seen.now.unread, "they may be read", LIMIT)
        assert list(seen.now.certificates) == [seen.name("tls")]
    await asyncio.to_thread(kubectl, "delete", "clusterrolebinding", name)
    await asyncio.to_thread(kubectl, "delete", "clusterrole", name)


@pytest.mark.parametrize(
    ("server", "page"), [("xds", "/debug/world"), ("extproc", "/debug/endpoints")]
)
async def test_the_servers_themselves_follow_kubernetes(
    cluster: Cluster, api_server: ApiServer, tmp_path: Path, server: str, page: str
) -> None:
    await cluster.apply(pool(), pod("one", {"app": "llama"}))
    await cluster.runs("one", "10.1.0.1")
    grpc, http = reserve(), reserve()
    children = Children(tmp_path)
    addresses = [f"--address={LOOPBACK}:{grpc.port}", f"--http-address={LOOPBACK}:{http.port}"]
    if server == "extproc":
        addresses.append("--health-address=")
    where = ["--kubernetes", f"--kubeconfig={api_server.kubeconfig}"]
    namespace = f"--namespace={cluster.namespace}"
    children.start(
        server,
        [sys.executable, "-m", "poolpilot", "serve", server, *where, namespace, *addresses],
    )
    try:
        async with aiohttp.ClientSession(f"http://{LOOPBACK}:{http.port}") as session:

            async def shows(text: str) -> bool:
                children.check()
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(page) as answer:
                        return answer.status == 200 and text in await answer.text()
                return False

            await eventually(lambda: shows("10.1.0.1"), "the pod is known", LIMIT)
            await cluster.runs("one", "10.1.0.2")
            await eventually(lambda: shows("10.1.0.2"), "and its new address", PROMPT)
    finally:
        children.stop(grace=3)
        grpc.close()
        http.close()
