"""One description, as files and from an API server: the same World."""

import contextlib
import dataclasses
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from pools.files import FilesSource
from pools.kubernetes import KubernetesSettings, KubernetesSource
from pools.model import World
from pools.source import Source
from tests.pools.kubernetes.api import FakeServer
from tests.pools.pairs import Pair, good_pair


def secret(of: Pair) -> str:
    return yaml.safe_dump(of.secret(namespace="certificates"))


Documents = Sequence[dict[str, Any]]

POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama}
spec:
  selector: {matchLabels: {app: llama}}
  targetPorts: [{number: 8000}, {number: 8001}]
  endpointPickerRef: {name: picker, port: {number: 9002}, failureMode: FailOpen}
"""
ENDPOINTS = """
apiVersion: poolpilot.dev/v1alpha1
kind: PoolEndpoints
metadata: {name: llama}
spec:
  poolRef: {name: llama}
  labels: {zone: a}
  endpoints:
  - {address: 10.0.0.1, name: one}
  - {address: 10.0.0.2, name: two, ports: [9000], metricsPort: 9100, draining: true}
"""
MODELS = """
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata: {name: young, creationTimestamp: '2026-02-01T00:00:00Z'}
spec: {modelName: m, poolRef: {name: llama}}
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata: {name: old, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {modelName: m, criticality: Critical, poolRef: {name: llama}}
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -1, poolRef: {name: lama}}
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModelRewrite
metadata: {name: canary}
spec: {poolRef: {name: llama}, rules: [{targets: [{modelRewrite: a, weight: 1}]}]}
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: llm}
spec:
  hostnames: [llm.example.com]
  parentRefs: [{name: gateway, sectionName: http}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /v1}}]
    timeouts: {request: 10m}
    backendRefs:
    - {group: inference.networking.k8s.io, kind: InferencePool, name: llama, weight: 3}
    - {group: inference.networking.k8s.io, kind: InferencePool, name: elsewhere}
"""
GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ours}
spec: {controllerName: poolpilot.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  gatewayClassName: ours
  listeners: [{name: http, port: 8081, protocol: HTTP, hostname: '*.example.com'}]
"""
TLS_GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ours}
spec: {controllerName: poolpilot.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: secure}
spec:
  gatewayClassName: ours
  listeners:
  - name: https
    port: 8443
    protocol: HTTPS
    tls: {certificateRefs: [{name: tls, namespace: certificates}, {kind: ConfigMap, name: x}]}
    allowedRoutes:
      namespaces:
        from: Selector
        selector: {matchExpressions: [{key: team, operator: In, values: [a, b]}]}
      kinds: [{kind: HTTPRoute}, {kind: GRPCRoute}]
  - {name: db, port: 5432, protocol: TCP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: secure, namespace: certificates}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}]
  to: [{group: '', kind: Secret, name: tls}]
"""
SERVICES = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, annotations: {poolpilot.dev/route-by-model: 'true'}}
spec:
  parentRefs: [{name: secure}, {group: '', kind: Service, name: mesh}]
  rules:
  - filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /x}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}}}
    retry: {attempts: 2, codes: [503], backoff: 100ms}
    backendRefs:
    - {name: web, port: 80}
    - {group: example.com, kind: Bucket, name: b}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.1.2.3
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: dns, port: 53, protocol: UDP}]
endpoints:
- {addresses: [10.0.0.2], conditions: {ready: true, serving: true, terminating: false}}
- {addresses: [10.0.0.1, 10.0.9.9]}
- {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.0.4], conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: unused}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {team: a}}
"""
BROKEN = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: broken}
spec:
  selector: {matchLabels: {app: x}}
  targetPorts: [{number: 0}, {nummer: 1}]
"""
UNRESOLVED = """
apiVersion: poolpilot.dev/v1alpha1
kind: PoolEndpoints
metadata: {name: more}
spec:
  poolRef: {name: lama}
  endpoints: []
"""
_PLURALS = {"PoolEndpoints": "poolendpoints", "GatewayClass": "gatewayclasses"}
_CLUSTER_SCOPED = ("GatewayClass", "Namespace")
_BAD = Pair(good_pair().chain, b"")


async def by_files(documents: Documents, directory: Path) -> World:
    for number, document in enumerate(documents):
        (directory / f"{number:03}.yaml").write_text(yaml.safe_dump(document))
    return await first(FilesSource(directory))


async def by_kubernetes(documents: Documents, directory: Path) -> World:
    async with FakeServer().running() as server:
        for document in documents:
            plural = _PLURALS.get(document["kind"], document["kind"].lower() + "s")
            metadata = dict(document["metadata"])
            if document["kind"] not in _CLUSTER_SCOPED:
                metadata.setdefault("namespace", "default")
            root = "/apis" if "/" in document["apiVersion"] else "/api"
            server.put(
                f"{root}/{document['apiVersion']}/{plural}", {**document, "metadata": metadata}
            )
        kubeconfig = directory / "kubeconfig"
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "clusters": [{"name": "c", "cluster": {"server": server.url}}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "c",
                }
            )
        )
        return await first(KubernetesSource(KubernetesSettings(kubeconfig)))


async def first(source: Source) -> World:
    async with closing(source.worlds()) as worlds:
        return await anext(worlds)


@contextlib.asynccontextmanager
async def closing(worlds: AsyncIterator[World]) -> AsyncIterator[AsyncIterator[World]]:
    try:
        yield worlds
    finally:
        await worlds.aclose()  # type: ignore[attr-defined]  # an async generator


def without_places(value: Any) -> Any:
    """The same value, without the file, line or API server that it came from."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, {
            one.name: without_places(getattr(value, one.name))
            for one in dataclasses.fields(value)
            if one.name not in ("source", "line", "uid")
        }
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [without_places(item) for item in value]
    if type(value) is str:
        return re.sub(r" \((kubernetes|\d+\.yaml:\d+)\)", "", value)
    return value


@pytest.mark.parametrize(
    "text",
    [POOL, POOL + "---" + ENDPOINTS, POOL + "---" + MODELS, POOL + "---" + ROUTE, GATEWAY, BROKEN,
     TLS_GATEWAY + "---\n" + secret(good_pair()), TLS_GATEWAY + "---\n" + secret(_BAD),
     TLS_GATEWAY + "---" + SERVICES, "---".join([POOL, ENDPOINTS, MODELS, ROUTE, GATEWAY, BROKEN,
     UNRESOLVED, TLS_GATEWAY.partition("---")[2], SERVICES, "\n" + secret(good_pair())])],
    ids=["pool", "endpoints", "models", "route", "gateway", "broken", "tls", "bad-secret",
         "services", "everything"],
)  # fmt: skip
async def test_files_and_an_api_server_with_the_same_objects_give_the_same_world(
    text: str, tmp_path: Path
) -> None:
    documents = list(yaml.safe_load_all(text))
    directory = tmp_path / "manifests"
    directory.mkdir()
    files = without_places(await by_files(documents, directory))
    cluster = without_places(await by_kubernetes(documents, tmp_path))
    assert [one[1].pop("of_cluster") for one in (files, cluster)] == [False, True]
    in_any_order = [one[1].pop("problems") for one in (files, cluster)]
    assert cluster == files
    assert sorted(map(repr, in_any_order[0])) == sorted(map(repr, in_any_order[1]))
