"""The conformance suite of the Gateway API's inference extension, on plain Envoy.

What it asserts, with its parameters: objects on a real API server, a picker of its own for each
pool as the suite deploys them, two Gateways. Pods are servers on loopback addresses; as nobody may
name such addresses in an EndpointSlice, pickers listen on this machine's own.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from e2e.harness import eventually
from e2e.kube.api_server import ApiServer, pod_object, pod_status
from e2e.live import Envoy, led
from e2e.pods import h2c_pod, http_pod
from e2e.reference_picker import SELECTION, SERVED, ReferencePicker
from poolpilot.demo.ports import reserve
from pools.kubernetes import KubernetesSettings, KubernetesSource, Timing

pytestmark = pytest.mark.asyncio(loop_scope="module")

INFRA, APP, CLASS = "conformance-infra", "conformance-app", "conformance"
BODY = {
    "model": "conformance-fake-model",
    "prompt": "Write as if you were a critic: San Francisco",
}
REQUESTS, CONCURRENCY = 100, 10
CONSECUTIVE = 3
"""So many answers in a row must be right (MakeRequestAndExpectEventuallyConsistentResponse)."""
DRAWS, TOLERANCE = 200, 0.146
GATEWAY_GROUP = "gateway.networking.k8s.io"
POOL_GROUP = "inference.networking.k8s.io"

Made = dict[str, Any]


def network(number: int) -> str:
    """Loopback addresses that no other process uses by chance."""
    return f"127.{number}.{os.getpid() // 250 % 250}.{os.getpid() % 250}"


@dataclass(frozen=True)
class PoolOf:
    """A pool of the suite's base resources."""

    name: str
    app: str
    ports: tuple[int, ...]
    failure_mode: str = "FailClose"
    app_protocol: str = "http"
    tls: bool = True


PRIMARY = PoolOf("primary-inference-pool", "primary", (3000,))
SECONDARY = PoolOf("secondary-inference-pool", "secondary", (3000,), "FailOpen")
HTTP = PoolOf("appprotocol-http", "appprotocol", (3000,), tls=False)
H2C = PoolOf("appprotocol-h2c", "appprotocol", (3001,), app_protocol="kubernetes.io/h2c")
PARALLEL = PoolOf("dp-inference-pool", "dp", (3000, 3002, 3004))
POOLS = (PRIMARY, SECONDARY, HTTP, H2C, PARALLEL)
APPS = {
    app: [network(number) for number in range(first, first + 3)]
    for app, first in (("primary", 61), ("secondary", 71), ("appprotocol", 81), ("dp", 91))
}


def made(api_version: str, kind: str, name: str, namespace: str | None, **more: Any) -> Made:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **more}


def gateway(name: str, port: int, hostname: str | None = None) -> Made:
    listener: Made = {
        "name": "http",
        "port": port,
        "protocol": "HTTP",
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    if hostname:
        listener["hostname"] = hostname
    spec = {"gatewayClassName": CLASS, "listeners": [listener]}
    return made(f"{GATEWAY_GROUP}/v1", "Gateway", name, INFRA, spec=spec)


def pool(of: PoolOf) -> Made:
    spec: Made = {
        "selector": {"matchLabels": {"app": of.app}},
        "targetPorts": [{"number": number} for number in of.ports],
        "appProtocol": of.app_protocol,
        "endpointPickerRef": {
            "name": f"{of.name}-epp",
            "port": {"number": 9002},
            "failureMode": of.failure_mode,
        },
    }
    return made(f"{POOL_GROUP}/v1", "InferencePool", of.name, APP, spec=spec)


def picker_service(of: PoolOf, address: str, port: int, *, ready: bool = True) -> list[Made]:
    name = f"{of.name}-epp"
    protocol = "http2" if of.tls else "kubernetes.io/h2c"
    ports = [{"name": "grpc", "port": 9002, "targetPort": port, "appProtocol": protocol}]
    ends = made("discovery.k8s.io/v1", "EndpointSlice", name, APP, addressType="IPv4")
    ends["metadata"]["labels"] = {"kubernetes.io/service-name": name}
    ends["endpoints"] = [{"addresses": [address], "conditions": {"ready": ready}}]
    ends["ports"] = [{"name": "grpc", "port": port, "protocol": "TCP"}]
    return [made("v1", "Service", name, APP, spec={"ports": ports}), ends]


def to(of: PoolOf | str, **more: Any) -> Made:
    name = of if isinstance(of, str) else of.name
    return {"group": POOL_GROUP, "kind": "InferencePool", "name": name, **more}


def rule(path: str, *backends: Made) -> Made:
    return {
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "backendRefs": list(backends),
    }


def route(
    name: str, *rules: Made, hosts: Sequence[str] = (), parents: Sequence[str] = ("primary",)
) -> Made:
    refs = [{"name": parent, "namespace": INFRA} for parent in parents]
    spec: Made = {"parentRefs": refs, "rules": list(rules)}
    if hosts:
        spec["hostnames"] = list(hosts)
    return made(f"{GATEWAY_GROUP}/v1", "HTTPRoute", name, APP, spec=spec)


@dataclass
class Suite:
    """The base resources, in place, and what asks the two Gateways."""

    server: ApiServer
    host: str
    urls: dict[str, str]
    client: httpx.AsyncClient
    envoys: Mapping[str, Envoy]
    pickers: dict[str, ReferencePicker] = field(default_factory=dict)
    picker_ports: dict[str, int] = field(default_factory=dict)

    async def apply(self, *objects: Made) -> None:
        text = yaml.safe_dump_all(objects)
        await asyncio.to_thread(self.server.apply, text)

    async def delete(self, kind: str, *names: str) -> None:
        arguments = ("delete", kind, *names, f"--namespace={APP}")
        await asyncio.to_thread(self.server.kubectl, *arguments)

    async def ask(
        self,
        path: str,
        *,
        host: str = "primary.example.com",
        pin: str = "",
        gateway: str = "primary",
        get: bool = False,
    ) -> httpx.Response:
        headers = {"host": host} | ({SELECTION: pin} if pin else {})
        url = f"{self.urls[gateway]}{path}"
        if get:
            return await self.client.get(url, headers=headers)
        return await self.client.post(url, headers=headers, json=BODY)

    async def becomes(
        self,
        path: str,
        expected: Callable[[httpx.Response], bool],
        *,
        times: int = CONSECUTIVE,
        **more: Any,
    ) -> None:
        """Wait until several answers in a row are as expected."""
        last: list[str] = []

        async def in_a_row() -> bool:
            for _ in range(times):
                answer = await self.ask(path, **more)
                last[:] = [f"{answer.status_code} {answer.text[:300]}"]
                if not expected(answer):
                    return False
            return True

        try:
            await eventually(in_a_row, f"{path} {more} is answered as expected")
        except AssertionError as error:
            raise AssertionError(f"{error}; the last answer: {last}") from error

    async def leak_nowhere(self, path: str, pin: str, allowed: set[str], **more: Any) -> None:
        """A hundred requests, ten at a time: all of them are answered by one of ``allowed``."""
        for _ in range(REQUESTS // CONCURRENCY):
            answers = await asyncio.gather(
                *(self.ask(path, pin=pin, **more) for _ in range(CONCURRENCY))
            )
            assert [a.status_code for a in answers] == [200] * CONCURRENCY
            assert {a.json()["address"] for a in answers} <= allowed


def from_pod(address: str) -> Callable[[httpx.Response], bool]:
    return lambda answer: answer.status_code == 200 and answer.json()["address"] == address


def from_app(app: str) -> Callable[[httpx.Response], bool]:
    return lambda answer: answer.status_code == 200 and answer.json()["pod"].startswith(app)


def is_asked(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and SERVED in answer.headers


def status(*codes: int) -> Callable[[httpx.Response], bool]:
    return lambda answer: answer.status_code in codes


def own_address() -> str:
    """Of this machine, and not a loopback one. No packet is sent to find it out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("this machine has no address but those of its loopback interface")
        address: str = probe.getsockname()[0]
    return address


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Suite]:
    host = own_address()
    async with AsyncExitStack() as stack:
        held = {name: reserve() for name in ("primary", "secondary")}
        for one in held.values():
            stack.callback(one.close)
        for app, addresses in APPS.items():
            for i, address in enumerate(addresses):
                for port in {"appprotocol": (3000,), "dp": (3000, 3002, 3004)}.get(app, (3000,)):
                    await stack.enter_async_context(http_pod(f"{app}-{i}", address, port))
                if app == "appprotocol":
                    await stack.enter_async_context(h2c_pod(f"{app}-{i}", address, 3001))
        objects = [
            made("v1", "Namespace", INFRA, None),
            made("v1", "Namespace", APP, None),
            made(
                f"{GATEWAY_GROUP}/v1",
                "GatewayClass",
                CLASS,
                None,
                spec={"controllerName": "poolpilot.dev/gateway-controller"},
            ),
            gateway("primary", held["primary"].port),
            gateway("secondary", held["secondary"].port, "secondary.example.com"),
            *map(pool, POOLS),
        ]
        for app, addresses in APPS.items():
            for i in range(len(addresses)):
                described: Made = pod_object(f"{app}-{i}", {"app": app})
                described["metadata"]["namespace"] = APP
                objects.append(described)
        pickers, ports = {}, {}
        for of in POOLS:
            endpoints = [f"{a}:{p}" for a, p in itertools.product(APPS[of.app], of.ports)]
            picker = pickers[of.name] = ReferencePicker(endpoints, tls=of.tls)
            ports[of.name] = await picker.start(host)
            stack.push_async_callback(picker.stop)
            objects += picker_service(of, host, ports[of.name])
        await asyncio.to_thread(api_server.apply, yaml.safe_dump_all(objects))
        for app, addresses in APPS.items():
            for i, address in enumerate(addresses):
                await asyncio.to_thread(
                    api_server.patch_status,
                    "pod",
                    f"{app}-{i}",
                    pod_status(address),
                    namespace=APP,
                )
        source = KubernetesSource(
            KubernetesSettings(
                api_server.kubeconfig,
                namespaces=(INFRA, APP),
                timing=Timing(discovery=0.5, longest_retry=0.5),
            )
        )
        names = {name: f"{INFRA}/{name}" for name in held}
        leading = await stack.enter_async_context(
            led(source, tmp_path_factory.mktemp("conformance"), *names.values())
        )
        for proxy in leading.envoys.values():
            await eventually(proxy.listening, "each Gateway's Envoy listens")
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=30))
        yield Suite(
            api_server,
            host,
            {name: f"http://127.0.0.1:{one.port}" for name, one in held.items()},
            client,
            {name: leading.envoys[full] for name, full in names.items()},
            pickers,
            ports,
        )
        await asyncio.to_thread(
            api_server.kubectl, "delete", "namespace", INFRA, APP, "--wait=false"
        )
        await asyncio.to_thread(api_server.kubectl, "delete", "gatewayclass", CLASS)


async def test_b1_the_gateway_follows_the_picker(suite: Suite) -> None:
    path, addresses = "/primary-gateway-test", APPS["primary"]
    await suite.apply(route("b1", rule(path, to(PRIMARY)), hosts=["primary.example.com"]))
    for address in addresses:
        await suite.becomes(path, from_pod(f"{address}:3000"), pin=address)
    for count in (1, 2, 3):
        chosen = addresses[-count:]
        await suite.leak_nowhere(path, ",".join(chosen), {f"{one}:3000" for one in chosen})


async def test_b2_every_port_of_a_data_parallel_pod_is_an_endpoint(suite: Suite) -> None:
    path, (one, two, three) = "/primary-gateway-dp-test", APPS["dp"]
    await suite.apply(route("b2", rule(path, to(PARALLEL)), hosts=["primary.example.com"]))
    ports = (3000, 3002, 3004)
    for endpoint in (f"{a}:{p}" for a in (one, two, three) for p in ports):
        await suite.becomes(path, from_pod(endpoint), pin=endpoint)

    def every(address: str) -> set[str]:
        return {f"{address}:{number}" for number in ports}

    await suite.leak_nowhere(path, two, every(two))
    await suite.leak_nowhere(path, f"{one},{three}:3002", every(one) | {f"{three}:3002"})
    await suite.leak_nowhere(
        path,
        f"{one},{two}:3000,{two}:3004,{three}",
        every(one) | {f"{two}:3000", f"{two}:3004"} | every(three),
    )


async def test_b3_the_picker_is_told_which_endpoint_served(suite: Suite) -> None:
    path = "/destination-endpoint-served-test"
    await suite.apply(route("b3", rule(path, to(PRIMARY)), hosts=["primary.example.com"]))
    for address in APPS["primary"]:
        expected = f"{address}:3000"

        def is_told(answer: httpx.Response, expected: str = expected) -> bool:
            return from_pod(expected)(answer) and answer.headers[SERVED] == expected

        await suite.becomes(path, is_told, pin=address)


async def test_b4_a_pool_that_fails_open_is_served_without_its_own_picker(suite: Suite) -> None:
    path, host = "/failopen-pool-test", "secondary.example.com"
    closed = "/failclose-pool-test"
    more: Made = {"host": host, "gateway": "secondary"}
    await suite.apply(
        route(
            "b4",
            rule(path, to(SECONDARY)),
            rule(closed, to(PRIMARY)),
            hosts=[host],
            parents=["secondary"],
        )
    )
    for address in APPS["secondary"]:
        await suite.becomes(path, from_pod(f"{address}:3000"), pin=address, **more)
    await suite.becomes(closed, from_app("primary"), **more)
    service = SECONDARY, suite.host, suite.picker_ports[SECONDARY.name]
    cluster = f"picker/{APP}/{SECONDARY.name}-epp/9002"
    proxy = suite.envoys["secondary"]

    async def is_without_picker() -> bool:
        return await proxy.hosts(cluster) == {}

    # As the suite does it: nobody answers for the Service any more.
    await suite.apply(*picker_service(*service, ready=False))
    await eventually(is_without_picker, "Envoy knows it")
    answers = await asyncio.gather(*(suite.ask(path, **more) for _ in range(CONCURRENCY)))
    assert [answer.status_code for answer in answers] == [200] * CONCURRENCY
    assert not [answer for answer in answers if SERVED in answer.headers], "nobody was asked"
    await suite.apply(*picker_service(*service))
    await suite.becomes(path, is_asked, **more)

    # And as it happens at night: it is killed, and all say that it is there.
    killed = [SECONDARY.name, PRIMARY.name]
    try:
        await suite.pickers[SECONDARY.name].stop()
        await suite.becomes(path, from_app("secondary"), **more)
        await suite.becomes(closed, from_app("primary"), **more)
        seen = Counter[str]()
        for _ in range(30):
            answer = await suite.ask(path, **more)
            assert answer.status_code == 200
            assert SERVED not in answer.headers, "nobody was asked"
            seen[answer.json()["pod"]] += 1
        assert len(seen) == 3, "Envoy chooses among all pods of the pool"
        await suite.pickers[PRIMARY.name].stop()
        await suite.becomes(closed, status(500, 502, 503, 504), **more)
    finally:
        for name in killed:
            await suite.pickers[name].stop()
            await suite.pickers[name].start(suite.host, suite.picker_ports[name])
    await suite.becomes(path, is_asked, **more)
    await suite.becomes(closed, from_app("primary"), **more)


async def test_b5_two_pools_share_a_rule_by_weight(suite: Suite) -> None:
    path = "/weighted-two-pools-test"
    await suite.apply(
        route(
            "b5",
            rule(path, to(PRIMARY, weight=70), to(SECONDARY, weight=30)),
            hosts=["primary.example.com"],
        )
    )
    everyone = [*APPS["primary"], *APPS["secondary"]]
    for address in everyone:
        # The other pool's picker knows no such endpoint, and says so.
        await suite.becomes(path, from_pod(f"{address}:3000"), times=1, pin=f"{address}:3000")
    pin = ",".join(f"{address}:3000" for address in everyone)
    drawn = Counter[str]()
    for _ in range(DRAWS // 5):
        answers = await asyncio.gather(*(suite.ask(path, pin=pin) for _ in range(5)))
        assert [answer.status_code for answer in answers] == [200] * 5
        drawn.update(answer.json()["pod"].partition("-")[0] for answer in answers)
    assert drawn.keys() == {"primary", "secondary"}
    assert abs(drawn["primary"] / DRAWS - 0.7) <= TOLERANCE, drawn


async def test_b6_each_gateway_leads_to_its_own_pool(suite: Suite) -> None:
    await suite.apply(
        route(
            "b6-primary",
            rule("/test-primary-gateway", to(PRIMARY)),
            hosts=["primary.example.com"],
        ),
        route(
            "b6-secondary",
            rule("/test-secondary-gateway", to(SECONDARY)),
            hosts=["secondary.example.com"],
            parents=["secondary"],
        ),
    )
    there: Made = {"host": "secondary.example.com", "gateway": "secondary", "get": True}
    await suite.becomes("/test-primary-gateway", from_app("primary"), get=True)
    await suite.becomes("/test-secondary-gateway", from_app("secondary"), **there)
    await suite.becomes("/test-primary-gateway", status(404), **there)
    await suite.becomes("/test-secondary-gateway", status(404), get=True)


async def test_b7_each_rule_leads_to_its_own_pool(suite: Suite) -> None:
    await suite.apply(route("b7", rule("/primary", to(PRIMARY)), rule("/secondary", to(SECONDARY))))
    for app in ("primary", "secondary"):
        await suite.becomes(f"/{app}", from_app(app), host="any.example.org", get=True)


async def test_b8_pods_are_spoken_to_in_the_pools_protocol(suite: Suite) -> None:
    for kind, of, port in (("h2c", H2C, 3001), ("http", HTTP, 3000)):
        path, host = f"/inferencepool-app-protocol-{kind}", f"appprotocol-{kind}.example.com"
        await suite.apply(route(f"b8-{kind}", rule(path, to(of)), hosts=[host]))
        for address in APPS["appprotocol"]:
            expected = f"{address}:{port}"

            def is_right(answer: httpx.Response, expected: str = expected) -> bool:
                return from_pod(expected)(answer) and answer.headers[SERVED] == expected

            await suite.becomes(path, is_right, host=host, pin=expected)
    async with httpx.AsyncClient(trust_env=False) as plain:
        with pytest.raises(httpx.TransportError):
            await plain.get(f"http://{APPS['appprotocol'][0]}:3001/")


@pytest.mark.parametrize(
    ("name", "port"), [("unspecified", None), ("matching", 3000), ("non-matching", 8888)]
)
async def test_b9_the_port_of_a_reference_to_a_pool_is_ignored(
    suite: Suite, name: str, port: int | None
) -> None:
    path, host = f"/test-port-{name}", f"port-{name}.example.com"
    more = {} if port is None else {"port": port}
    await suite.apply(route(f"b9-{name}", rule(path, to(PRIMARY, **more)), hosts=[host]))
    await suite.becomes(path, from_app("primary"), host=host, get=True)


async def test_b10_a_picker_that_does_not_exist_costs_its_own_pool_alone(suite: Suite) -> None:
    invalid = PoolOf("invalid-epp", "primary", (3000,))
    await suite.apply(
        pool(invalid),
        route("b10", rule("/invalid-epp-test", to(invalid)), rule("/valid-epp-test", to(PRIMARY))),
    )
    await suite.becomes("/valid-epp-test", from_app("primary"), get=True)
    await suite.becomes("/invalid-epp-test", status(500, 501, 502, 503, 504), get=True)
    # Its picker comes: it is served.
    own = ReferencePicker([f"{address}:3000" for address in APPS["primary"]])
    port = await own.start(suite.host)
    try:
        await suite.apply(*picker_service(invalid, suite.host, port))
        await suite.becomes("/invalid-epp-test", from_app("primary"), get=True)
        assert own.asked > 0
    finally:
        await own.stop()
        await suite.delete("service", "invalid-epp-epp")
    await suite.becomes("/invalid-epp-test", status(500, 501, 502, 503, 504), get=True)


async def test_b11_a_pool_is_shared_by_two_gateways_until_their_routes_go(suite: Suite) -> None:
    hosts = {"primary": "b11.example.com", "secondary": "secondary.example.com"}
    await suite.apply(
        *(
            route(
                f"b11-{name}", rule("/shared-pool-test", to(PRIMARY)), hosts=[host], parents=[name]
            )
            for name, host in hosts.items()
        )
    )

    async def becomes(name: str, expected: Callable[[httpx.Response], bool]) -> None:
        await suite.becomes("/shared-pool-test", expected, host=hosts[name], gateway=name, get=True)

    await becomes("primary", from_app("primary"))
    await becomes("secondary", from_app("primary"))
    await suite.delete("httproute", "b11-primary")
    await becomes("primary", status(404))
    await becomes("secondary", from_app("primary"))
    await suite.delete("httproute", "b11-secondary")
    await becomes("secondary", status(404))
