"""What a real API server says of Gateways, routes and pools after we looked at them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from e2e.harness import eventually
from e2e.kube.api_server import ApiServer
from e2e.kube.proxy import Proxy
from poolpilot.demo.ports import LOOPBACK, reserve
from poolpilot.demo.processes import Children
from pools.kubernetes import KubernetesSettings, KubernetesSource, Timing
from pools.kubernetes.connection import MERGE_PATCH, ApiError, Connection
from pools.kubernetes.credentials import Credentials
from pools.kubernetes.status import StatusSettings, StatusTiming, StatusWriter
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.http import HttpConfig

LIMIT = 20.0
QUICK = Timing(discovery=0.5, longest_retry=0.5)
FAST = StatusTiming(lease=3.0, debounce=0.02, resync=300.0, longest_retry=0.5)
_numbers = itertools.count()


class Cluster:
    """kubectl in one namespace, with a GatewayClass of the test's own."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server = server
        self.namespace = namespace
        self.class_name = namespace
        self.controller = f"poolpilot.test/{namespace}"

    async def apply(self, *manifests: str, namespace: str = "") -> None:
        text = "---\n".join(manifests).replace("CLASS", self.class_name)
        await asyncio.to_thread(self.server.apply, text, namespace=namespace or self.namespace)

    async def delete(self, *what: str) -> None:
        await asyncio.to_thread(
            self.server.kubectl, "delete", f"--namespace={self.namespace}", "--now", *what
        )

    async def get(self, kind: str, name: str = "", namespace: str = "") -> Any:
        within = f"--namespace={namespace or self.namespace}"
        return await asyncio.to_thread(self.server.get, kind, *([name] if name else []), within)

    async def wait(self, condition: str, what: str) -> None:
        """As a user or a script does."""
        await asyncio.to_thread(
            self.server.kubectl,
            "wait",
            f"--namespace={self.namespace}",
            f"--for=condition={condition}",
            "--timeout=15s",
            what,
        )

    async def until(
        self, kind: str, name: str, holds: Callable[[Any], bool], what: str, namespace: str = ""
    ) -> Any:
        """Ask for an object's status until it says what it should."""
        deadline = asyncio.get_running_loop().time() + LIMIT
        while True:
            status = (await self.get(kind, name, namespace)).get("status", {})
            with contextlib.suppress(KeyError, IndexError, ValueError):
                if holds(status):
                    return status
            assert asyncio.get_running_loop().time() < deadline, (
                f"{what}: {json.dumps(status, indent=1)}"
            )
            await asyncio.sleep(0.05)

    async def events(self) -> list[tuple[str, str, str]]:
        """Object, reason and note."""
        found = (await self.get("events.events.k8s.io"))["items"]
        return [(e["regarding"]["name"], e["reason"], e["note"]) for e in found]


@pytest.fixture
def cluster(api_server: ApiServer) -> Iterator[Cluster]:
    name = f"status-{next(_numbers)}"
    api_server.kubectl("create", "namespace", name)
    cluster = Cluster(api_server, name)
    api_server.apply(
        f"""
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: {name}}}
spec: {{controllerName: {cluster.controller}}}
"""
    )
    yield cluster
    api_server.kubectl("delete", "gatewayclass", name)
    api_server.kubectl("delete", "namespace", name, "--wait=false")


@asynccontextmanager
async def reporting(cluster: Cluster, **settings: Any) -> AsyncIterator[StatusWriter]:
    """A replica that reads the cluster and writes what it makes of it."""
    kubeconfig = settings.pop("kubeconfig", cluster.server.kubeconfig)
    namespaces = settings.pop("namespaces", (cluster.namespace,))
    writer = StatusWriter(
        StatusSettings(
            kubeconfig,
            namespaces=namespaces,
            controller=cluster.controller,
            lease_namespace=cluster.namespace,
            timing=settings.pop("timing", FAST),
            **settings,
        )
    )
    control = ControlPlane(
        KubernetesSource(
            KubernetesSettings(
                cluster.server.kubeconfig,
                namespaces=namespaces,
                controller=cluster.controller,
                timing=QUICK,
            )
        ),
        server_config=XdsServerConfig(port=0),
        http_config=HttpConfig(port=0),
        reporter=writer,
    )
    task = asyncio.create_task(control.run())
    try:
        await eventually(lambda: control.provider.world is not None, "the first World", LIMIT)
        yield writer
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: inference}
spec:
  gatewayClassName: CLASS
  listeners:
  - {name: http, port: 8081, protocol: HTTP}
"""
POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama}
spec:
  selector: {matchLabels: {app: llama}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: poolpilot-extproc, port: {number: 9002}}
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: llm}
spec:
  parentRefs: [{name: inference}]
  rules:
  - backendRefs:
    - {group: inference.networking.k8s.io, kind: InferencePool, name: llama}
"""


def condition(conditions: list[dict[str, Any]], kind: str) -> tuple[str, str]:
    """Status and reason."""
    [found] = [one for one in conditions if one["type"] == kind]
    return found["status"], found["reason"]


def message(conditions: list[dict[str, Any]], kind: str) -> str:
    [found] = [one for one in conditions if one["type"] == kind]
    return str(found["message"])


async def test_kubectl_can_wait_for_what_is_well(cluster: Cluster) -> None:
    async with reporting(cluster, addresses=(("IPAddress", "192.0.2.7"),)):
        await cluster.apply(GATEWAY, POOL, ROUTE)

        await cluster.wait("Accepted", f"gatewayclass/{cluster.class_name}")
        await cluster.wait("Accepted", "gateway/inference")
        await cluster.wait("Programmed", "gateway/inference")
        pool = await cluster.until(
            "inferencepool", "llama", lambda s: bool(s["parents"]), "the pool has a parent"
        )

        gateway = await cluster.until(
            "gateway", "inference", lambda s: s["listeners"][0]["attachedRoutes"] == 1, "attached"
        )
        assert gateway["addresses"] == [{"type": "IPAddress", "value": "192.0.2.7"}]
        [listener] = gateway["listeners"]
        assert listener["supportedKinds"] == [
            {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}
        ]
        assert condition(listener["conditions"], "Conflicted") == ("False", "NoConflicts")
        route = await cluster.until("httproute", "llm", lambda s: bool(s["parents"]), "a parent")
        [parent] = route["parents"]
        assert parent["controllerName"] == cluster.controller
        assert parent["parentRef"]["name"] == "inference"
        assert condition(parent["conditions"], "Accepted") == ("True", "Accepted")
        assert condition(parent["conditions"], "ResolvedRefs") == ("True", "ResolvedRefs")
        [parent] = pool["parents"]
        assert parent["parentRef"]["kind"] == "Gateway"
        assert condition(parent["conditions"], "Accepted") == ("True", "Accepted")
        assert condition(parent["conditions"], "ResolvedRefs") == ("True", "ResolvedRefs")
        assert await cluster.events() == []


def bad_route(name: str, spec: str) -> str:
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec: {spec}
"""


def to(name: str, kind: str = "InferencePool", **more: object) -> dict[str, object]:
    group = "inference.networking.k8s.io" if kind == "InferencePool" else ""
    return {"group": group, "kind": kind, "name": name, **more}


def spec_of(*backends: dict[str, object], parent: dict[str, object] | None = None) -> str:
    ref = {"name": "inference", **(parent or {})}
    return json.dumps({"parentRefs": [ref], "rules": [{"backendRefs": list(backends)}]})


BAD_ROUTES = {
    "no-section": (
        spec_of(to("llama"), parent={"sectionName": "nope"}),
        ("Accepted", "NoMatchingParent", "nope"),
    ),
    "wrong-port": (
        spec_of(to("llama"), parent={"port": 9999}),
        ("Accepted", "NoMatchingParent", "9999"),
    ),
    "no-host": (
        json.dumps(
            {
                "parentRefs": [{"name": "inference", "sectionName": "hosted"}],
                "hostnames": ["example.org"],
                "rules": [{"backendRefs": [to("llama")]}],
            }
        ),
        ("Accepted", "NoMatchingListenerHostname", "spec.hostnames"),
    ),
    "not-allowed": (
        spec_of(to("llama"), parent={"sectionName": "closed"}),
        ("Accepted", "NotAllowedByListeners", "allowedRoutes"),
    ),
    "no-pool": (
        spec_of(to("gone")),
        ("ResolvedRefs", "BackendNotFound", "spec.rules[0].backendRefs[0]"),
    ),
    "no-service": (
        spec_of(to("llama"), to("gone", "Service", port=80)),
        ("ResolvedRefs", "BackendNotFound", "spec.rules[0].backendRefs[1]"),
    ),
    "odd-kind": (
        spec_of({"group": "example.com", "kind": "Bucket", "name": "b"}),
        ("ResolvedRefs", "InvalidKind", "spec.rules[0].backendRefs[0]"),
    ),
    "other-namespace": (
        spec_of(to("llama", namespace="kube-system")),
        ("ResolvedRefs", "RefNotPermitted", "spec.rules[0].backendRefs[0]"),
    ),
    "mirror": (
        json.dumps(
            {
                "parentRefs": [{"name": "inference"}],
                "rules": [
                    {
                        "backendRefs": [to("llama")],
                        "filters": [
                            {
                                "type": "RequestMirror",
                                "requestMirror": {"backendRef": {"name": "x", "port": 80}},
                            }
                        ],
                    }
                ],
            }
        ),
        ("Accepted", "UnsupportedValue", "spec.rules[0].filters"),
    ),
    "bad-regex": (
        json.dumps(
            {
                "parentRefs": [{"name": "inference"}],
                "rules": [
                    {
                        "matches": [{"path": {"type": "RegularExpression", "value": "("}}],
                        "backendRefs": [to("llama")],
                    }
                ],
            }
        ),
        ("Accepted", "UnsupportedValue", "spec.rules[0].matches[0].path.value"),
    ),
}
LISTENERS = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: inference}
spec:
  gatewayClassName: CLASS
  listeners:
  - {name: http, port: 8081, protocol: HTTP}
  - {name: hosted, port: 8082, protocol: HTTP, hostname: "*.example.com"}
  - name: closed
    port: 8083
    protocol: HTTP
    allowedRoutes:
      namespaces: {from: Selector, selector: {matchLabels: {team: others}}}
  - {name: one, port: 8084, protocol: HTTP, hostname: a.example.com}
  - {name: two, port: 8084, protocol: HTTP, hostname: a.example.com}
  - {name: tcp, port: 8085, protocol: TCP}
  - name: tls
    port: 8443
    protocol: HTTPS
    tls: {certificateRefs: [{name: gone}]}
"""


async def test_whatever_is_wrong_is_told_with_its_field_and_the_rest_goes_on(
    cluster: Cluster,
) -> None:
    routes = [bad_route(name, spec) for name, (spec, _) in BAD_ROUTES.items()]
    bad_picker = POOL.replace("poolpilot-extproc", "gone").replace("llama", "lonely")
    lonely = ROUTE.replace("name: llm", "name: to-lonely").replace("name: llama", "name: lonely")
    bad_ports = POOL.replace("name: llama", "name: ports").replace("8000", "800000")
    bad_selector = POOL.replace("name: llama", "name: selector").replace(
        "{matchLabels: {app: llama}}", "{matchLabels: 7}"
    )
    async with reporting(cluster):
        await cluster.apply(LISTENERS, POOL, ROUTE, bad_picker, lonely, bad_ports, bad_selector)
        await cluster.apply(*routes)
        broken = GATEWAY.replace("name: inference", "name: broken").replace("8081", "99999")
        await cluster.apply(broken)
        for name, (_, (kind, reason, field)) in BAD_ROUTES.items():
            status = await cluster.until(
                "httproute",
                name,
                lambda s, k=kind, r=reason: (  # type: ignore[misc]  # bound now
                    condition(s["parents"][0]["conditions"], k) == ("False", r)
                ),
                f"{name} is told",
            )
            assert field in message(status["parents"][0]["conditions"], kind), name
        gateway = await cluster.until(
            "gateway", "inference", lambda s: len(s["listeners"]) == 7, "all listeners are told"
        )
        told = {one["name"]: one["conditions"] for one in gateway["listeners"]}
        assert condition(told["http"], "Programmed") == ("True", "Programmed")
        assert condition(told["one"], "Conflicted") == ("True", "HostnameConflict")
        assert condition(told["two"], "Programmed") == ("False", "Invalid")
        assert condition(told["tcp"], "Accepted") == ("False", "UnsupportedProtocol")
        assert condition(told["tls"], "ResolvedRefs") == ("False", "InvalidCertificateRef")
        assert condition(gateway["conditions"], "Accepted") == ("True", "ListenersNotValid")
        status = await cluster.until("gateway", "broken", lambda s: s["conditions"], "told")
        assert condition(status["conditions"], "Accepted") == ("False", "Invalid")
        assert condition(status["conditions"], "Programmed") == ("False", "Invalid")
        assert "spec.listeners[0].port" in message(status["conditions"], "Accepted")
        pool = await cluster.until("inferencepool", "lonely", lambda s: s["parents"], "told")
        conditions = pool["parents"][0]["conditions"]
        assert condition(conditions, "ResolvedRefs") == ("False", "InvalidExtensionRef")
        assert "spec.endpointPickerRef.name" in message(conditions, "ResolvedRefs")

        wanted = {
            **{name: field for name, (_, (_, _, field)) in BAD_ROUTES.items()},
            "lonely": "spec.endpointPickerRef.name",
            "ports": "spec.targetPorts[0].number",
            "selector": "spec.selector.matchLabels",
            "inference": "spec.listeners[tls]",
            "broken": "spec.listeners[0].port",
        }

        async def all_told() -> bool:
            events = await cluster.events()
            return all(
                any(of == name and field in note for of, _, note in events)
                for name, field in wanted.items()
            )

        await eventually(all_told, f"an Event for each of {wanted}", LIMIT)

        route = await cluster.until("httproute", "llm", lambda s: s["parents"], "told")
        assert condition(route["parents"][0]["conditions"], "Accepted") == ("True", "Accepted")
        assert condition(route["parents"][0]["conditions"], "ResolvedRefs")[0] == "True"

        # And when it is mended, it is told that it is well.
        await cluster.apply(bad_route("no-pool", spec_of(to("llama"))))
        await cluster.until(
            "httproute",
            "no-pool",
            lambda s: condition(s["parents"][0]["conditions"], "ResolvedRefs")[0] == "True",
            "mended",
        )


async def test_a_version_that_cannot_be_read_is_refused_and_the_last_one_serves_on(
    cluster: Cluster,
) -> None:
    async with reporting(cluster):
        await cluster.apply(GATEWAY, POOL, ROUTE)
        await cluster.until("httproute", "llm", lambda s: s["parents"], "accepted")
        spec = json.loads(BAD_ROUTES["bad-regex"][0])
        await cluster.apply(bad_route("llm", json.dumps(spec)))
        status = await cluster.until(
            "httproute",
            "llm",
            lambda s: condition(s["parents"][0]["conditions"], "Accepted")[0] == "False",
            "refused",
        )
        [accepted] = [
            one for one in status["parents"][0]["conditions"] if one["type"] == "Accepted"
        ]
        generation = (await cluster.get("httproute", "llm"))["metadata"]["generation"]
        assert accepted["observedGeneration"] == generation == 2
        assert "spec.rules[0].matches[0].path.value" in accepted["message"]


async def test_entries_of_others_stay_and_ours_go_with_the_reference(cluster: Cluster) -> None:
    theirs = {
        "parentRef": {"name": "theirs"},
        "controllerName": "example.com/theirs",
        "conditions": [
            {
                "type": "Accepted",
                "status": "True",
                "reason": "Accepted",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    await cluster.apply(GATEWAY, POOL, ROUTE)
    for kind, name in (("httproute", "llm"), ("inferencepool", "llama")):
        await asyncio.to_thread(
            cluster.server.patch_status,
            kind,
            name,
            {"parents": [theirs]},
            namespace=cluster.namespace,
        )
    async with reporting(cluster):
        for kind, name in (("httproute", "llm"), ("inferencepool", "llama")):
            status = await cluster.until(kind, name, lambda s: len(s["parents"]) == 2, "both")
            assert status["parents"][0] == theirs
        await cluster.apply(ROUTE.replace("{name: inference}", "{name: theirs}"))
        for kind, name in (("httproute", "llm"), ("inferencepool", "llama")):
            status = await cluster.until(kind, name, lambda s: len(s["parents"]) == 1, "ours went")
            assert status["parents"] == [theirs]


async def test_a_pool_of_two_gateways_loses_them_one_by_one(cluster: Cluster) -> None:
    second = GATEWAY.replace("name: inference", "name: second")
    to_second = ROUTE.replace("name: llm", "name: two").replace("inference}]", "second}]")
    async with reporting(cluster):
        await cluster.apply(GATEWAY, second, POOL, ROUTE, to_second)
        await cluster.until("inferencepool", "llama", lambda s: len(s["parents"]) == 2, "two")
        await cluster.delete("httproute", "llm")
        status = await cluster.until(
            "inferencepool", "llama", lambda s: len(s["parents"]) == 1, "one is left"
        )
        assert status["parents"][0]["parentRef"]["name"] == "second"
        await cluster.delete("httproute", "two")
        await cluster.until("inferencepool", "llama", lambda s: s["parents"] == [], "none is left")


async def test_a_pool_of_v1alpha2_has_its_own_form(cluster: Cluster) -> None:
    pool = """
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferencePool
metadata: {name: llama}
spec:
  selector: {app: llama}
  targetPortNumber: 8000
  extensionRef: {name: poolpilot-extproc}
"""
    route = ROUTE.replace("inference.networking.k8s.io", "inference.networking.x-k8s.io")
    kind = "inferencepools.inference.networking.x-k8s.io"
    async with reporting(cluster):
        await cluster.apply(GATEWAY, pool, route)
        status = await cluster.until(kind, "llama", lambda s: s["parent"], "told")
        assert condition(status["parent"][0]["conditions"], "Accepted") == ("True", "Accepted")
        await cluster.delete("httproute", "llm")
        await cluster.until(kind, "llama", lambda s: s["parent"] == [], "taken back")


async def test_when_nothing_changes_nothing_is_written_even_by_the_next_one(
    cluster: Cluster,
) -> None:
    await cluster.apply(GATEWAY, POOL, ROUTE, bad_route("no-pool", BAD_ROUTES["no-pool"][0]))

    async def versions() -> list[str]:
        kinds = "gateways,httproutes,inferencepools.inference.networking.k8s.io"
        return [one["metadata"]["resourceVersion"] for one in (await cluster.get(kinds))["items"]]

    async with reporting(cluster):
        await cluster.until("httproute", "llm", lambda s: s["parents"], "written")
        await cluster.until("httproute", "no-pool", lambda s: s["parents"], "written")
        await cluster.until("inferencepool", "llama", lambda s: s["parents"], "written")

        async def told() -> bool:
            return len(await cluster.events()) == 1

        await eventually(told, "the Event", LIMIT)
    before, events = await versions(), await cluster.events()
    async with reporting(cluster, timing=replace(FAST, resync=0.2)) as writer:
        await eventually(lambda: writer.looks >= 3, "it has looked at everything thrice", LIMIT)
    assert await versions() == before
    assert await cluster.events() == events


async def holder(cluster: Cluster) -> str:
    leases = (await cluster.get("leases"))["items"]
    return str(leases[0]["spec"]["holderIdentity"]) if leases else ""


async def test_of_two_replicas_one_writes_and_the_other_takes_over_at_once_when_it_ends(
    cluster: Cluster,
) -> None:
    slow = replace(FAST, lease=30.0)
    await cluster.apply(GATEWAY, POOL, ROUTE)
    async with reporting(cluster, timing=slow) as second:
        await eventually(lambda: second.looks > 0, "the second leads", LIMIT)
        async with reporting(cluster, timing=slow) as first:
            held = await holder(cluster)
            await cluster.wait("Programmed", "gateway/inference")
            assert first.looks == 0
            assert await holder(cluster) == held

    assert await holder(cluster) == "", "it was given back"
    async with reporting(cluster, timing=slow) as third:
        began = asyncio.get_running_loop().time()
        await eventually(lambda: third.looks > 0, "the third leads", LIMIT)
        assert asyncio.get_running_loop().time() - began < slow.lease / 2, "it did not wait"


async def test_a_replica_that_vanished_is_followed_when_its_lease_has_expired(
    cluster: Cluster,
) -> None:
    await cluster.apply(GATEWAY)
    async with reporting(cluster):
        await eventually(lambda: _held(cluster), "the lease is there", LIMIT)
        [lease] = (await cluster.get("leases"))["items"]
    vanished = json.dumps(
        {
            "spec": {
                "holderIdentity": "vanished",
                "leaseDurationSeconds": 3,
                # Its clock was far ahead. That matters to nobody.
                "renewTime": "2099-01-01T00:00:00.000000Z",
            }
        }
    )
    await asyncio.to_thread(
        cluster.server.kubectl, "patch", "lease", lease["metadata"]["name"],
        f"--namespace={cluster.namespace}", "--type=merge", f"--patch={vanished}",
    )  # fmt: skip
    async with reporting(cluster) as writer:
        await eventually(lambda: writer.looks > 0, "it leads", LIMIT)
        assert await holder(cluster) != "vanished"
        [lease] = (await cluster.get("leases"))["items"]
        assert lease["spec"]["leaseTransitions"] >= 1


async def _held(cluster: Cluster) -> bool:
    return bool(await holder(cluster))


async def test_what_may_not_be_written_is_told_once_with_the_rule_and_the_rest_is_written(
    cluster: Cluster, tmp_path: Path
) -> None:
    def kubectl(*arguments: str) -> str:
        return cluster.server.kubectl(*arguments, f"--namespace={cluster.namespace}").strip()

    lease_role, further = documented_rules()
    readers = [rule for rule in further if "httproutes/status" not in rule["resources"]]
    # To read is allowed, as it is to the source; to write routes' statuses is not.
    readers.append(
        {
            "apiGroups": ["gateway.networking.k8s.io", "inference.networking.k8s.io"],
            "resources": ["gatewayclasses", "gateways", "httproutes", "inferencepools"],
            "verbs": ["get", "list"],
        }
    )
    name = f"writer-{cluster.namespace}"

    def role(rules: list[Any]) -> str:
        made = {**lease_role, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
        return yaml.safe_dump(made)

    await cluster.apply(role([*readers, *lease_role["rules"]]), GATEWAY, POOL, ROUTE)
    await asyncio.to_thread(kubectl, "create", "serviceaccount", "writer")
    await asyncio.to_thread(
        kubectl, "create", "clusterrolebinding", name, f"--clusterrole={name}",
        f"--serviceaccount={cluster.namespace}:writer",
    )  # fmt: skip
    token = await asyncio.to_thread(kubectl, "create", "token", "writer")
    kubeconfig = cluster.server.write_kubeconfig(tmp_path / "kubeconfig", token=token)
    with structlog.testing.capture_logs() as logs:
        timing = replace(FAST, resync=0.3)
        async with reporting(cluster, kubeconfig=kubeconfig, timing=timing) as writer:
            await cluster.until("inferencepool", "llama", lambda s: s["parents"], "the pool")
            await eventually(lambda: writer.looks >= 3, "it has tried again", LIMIT)
            told = [
                line for line in logs if line["event"] == "may not be written, going on without"
            ]
            assert sorted(line["what"] for line in told) == [
                "gatewayclasses/status",
                "gateways/status",
                "httproutes/status",
            ]
            assert "allow patch on httproutes/status" in next(
                line["fix"] for line in told if line["what"] == "httproutes/status"
            )
            assert "parents" not in (await cluster.get("httproute", "llm")).get("status", {})
            await cluster.apply(role([*readers, *further, *lease_role["rules"]]))
            await cluster.until("httproute", "llm", lambda s: s["parents"], "now it is")
    await asyncio.to_thread(kubectl, "delete", "clusterrolebinding,clusterrole", name)


def documented_rules() -> tuple[dict[str, Any], list[Any]]:
    """The Role for the Lease, and the rules for statuses and Events."""
    text = (Path(__file__).parents[1] / "docs" / "kubernetes.md").read_text()
    section = text[text.index("## Status and Events") :]
    rules, role, *_ = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    return yaml.safe_load(role), yaml.safe_load(rules)


async def test_without_a_lease_nothing_is_written_and_worlds_come_all_the_same(
    cluster: Cluster, tmp_path: Path
) -> None:
    kubeconfig = cluster.server.write_kubeconfig(tmp_path / "kubeconfig", token="nobody's")
    with structlog.testing.capture_logs() as logs:
        async with reporting(cluster, kubeconfig=kubeconfig):
            await cluster.apply(GATEWAY, POOL, ROUTE)
            await eventually(
                lambda: any("no lease" in line["event"] for line in logs), "it is told", LIMIT
            )
    assert "status" not in await cluster.get("gateway", "inference")


async def test_objects_that_go_while_they_are_written_and_huge_ones_hold_up_nothing(
    cluster: Cluster,
) -> None:
    huge = {
        "parentRefs": [{"name": "inference"}],
        "rules": [
            {
                "matches": [
                    {"headers": [{"name": f"h{k}", "value": "v" * 500} for k in range(8)]}
                    for _ in range(8)
                ],
                "backendRefs": [to(f"gone-{'x' * 200}-{i}-{j}") for j in range(16)],
            }
            for i in range(16)
        ],
    }
    many = [bad_route(f"many-{i}", spec_of(to("gone"))) for i in range(60)]
    async with reporting(cluster):
        await cluster.apply(GATEWAY, bad_route("huge", json.dumps(huge)), *many)
        await cluster.delete("httproute", *(f"many-{i}" for i in range(60)))
        await cluster.apply(POOL, ROUTE)
        status = await cluster.until(
            "httproute", "huge", lambda s: s["parents"][0]["conditions"], "the huge one is told"
        )
        assert "spec.rules[0].backendRefs[0]" in message(
            status["parents"][0]["conditions"], "ResolvedRefs"
        )
        await cluster.until("httproute", "llm", lambda s: s["parents"], "the good one is told")


async def test_while_the_api_server_is_away_nothing_is_lost_and_nobody_writes_without_a_lease(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with Proxy(cluster.server.port).running() as proxy:
        kubeconfig = cluster.server.write_kubeconfig(tmp_path / "kubeconfig", port=proxy.port)
        await cluster.apply(GATEWAY, POOL)
        with structlog.testing.capture_logs() as logs:
            async with reporting(cluster, kubeconfig=kubeconfig):
                await cluster.wait("Programmed", "gateway/inference")
                proxy.cut()
                await cluster.apply(ROUTE)
                await eventually(
                    lambda: any("no longer writes" in line["event"] for line in logs),
                    "it stops when its lease can no longer be relied on",
                    LIMIT,
                )
                proxy.mend()
                await cluster.until("httproute", "llm", lambda s: s["parents"], "it is told")


async def written(connection: Connection, path: str, body: bytes) -> bool:
    """Whether nobody else wrote since it was read."""
    try:
        await connection.send("PATCH", path, body, MERGE_PATCH)
    except ApiError as error:
        if error.status != 409:
            raise
        return False
    return True


async def test_two_controllers_that_write_at_once_both_have_their_say(cluster: Cluster) -> None:
    """Each changes the same list, so each must see what the other wrote."""
    path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{cluster.namespace}/httproutes/llm"
    async with (
        reporting(cluster),
        Connection(Credentials(cluster.server.kubeconfig)) as connection,
    ):
        await cluster.apply(GATEWAY, POOL, ROUTE)
        changes = 12
        for i in range(changes):
            await cluster.apply(ROUTE + "    timeouts: {request: " + f"{i + 1}s}}\n")
            while True:
                current = json.loads(await connection.get(path))
                parents = current.get("status", {}).get("parents", [])
                kept = [one for one in parents if one["controllerName"] == cluster.controller]
                theirs = {
                    "parentRef": {"name": "theirs"},
                    "controllerName": "example.com/theirs",
                    "conditions": [{"type": "Accepted", "status": "True", "reason": f"R{i}"}],
                }
                metadata = {"resourceVersion": current["metadata"]["resourceVersion"]}
                patch = {"metadata": metadata, "status": {"parents": [theirs, *kept]}}
                body = json.dumps(patch).encode()
                if await written(connection, f"{path}/status", body):
                    break

        def both(status: Any) -> bool:
            theirs, ours = status["parents"]
            return (
                theirs["conditions"][0]["reason"] == f"R{changes - 1}"
                and ours["controllerName"] == cluster.controller
                and all(one["observedGeneration"] == changes + 1 for one in ours["conditions"])
            )

        await cluster.until("httproute", "llm", both, "both are there")


async def test_the_server_writes_statuses_and_gives_its_lease_back_when_it_ends(
    cluster: Cluster, tmp_path: Path
) -> None:
    await cluster.apply(GATEWAY, POOL, ROUTE)
    grpc, http = reserve(), reserve()
    children = Children(tmp_path)
    children.start(
        "xds",
        [
            sys.executable, "-m", "poolpilot", "serve", "xds",
            "--kubernetes", f"--kubeconfig={cluster.server.kubeconfig}",
            f"--namespace={cluster.namespace}", f"--lease-namespace={cluster.namespace}",
            f"--controller-name={cluster.controller}", "--gateway-address=llm.example.com",
            f"--address={LOOPBACK}:{grpc.port}", f"--http-address={LOOPBACK}:{http.port}",
        ],
    )  # fmt: skip
    try:
        await cluster.until("httproute", "llm", lambda s: s["parents"], "the route is told")
        status = await cluster.until("gateway", "inference", lambda s: s["listeners"], "told")
        assert status["addresses"] == [{"type": "Hostname", "value": "llm.example.com"}]
        assert await _held(cluster)
    finally:
        await asyncio.to_thread(children.stop, grace=10.0)
        grpc.close()
        http.close()
    assert not await _held(cluster)
