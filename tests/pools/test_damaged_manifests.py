"""Whatever is in a manifest: it is read or told, and never raises."""

import copy
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from pools.assemble import assemble
from pools.manifests import read_object
from pools.model import HTTPRoute, Severity
from tests.pools.pairs import good_pair

DOCUMENTS: list[Any] = [
    *yaml.safe_load_all(
        """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: a, labels: {x: y}, uid: u, generation: 2}
spec:
  gatewayClassName: c
  tls: {frontend: {default: {}}, backend: {}}
  addresses: [{value: 10.0.0.1}]
  listeners:
  - name: https
    port: 443
    protocol: HTTPS
    hostname: '*.example.com'
    tls:
      mode: Terminate
      options: {a/b: c}
      certificateRefs: [{group: '', kind: Secret, name: s, namespace: n}]
    allowedRoutes:
      kinds: [{group: gateway.networking.k8s.io, kind: HTTPRoute}]
      namespaces:
        from: Selector
        selector: {matchLabels: {a: b}, matchExpressions: [{key: k, operator: In, values: [v]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, annotations: {poolpilot.dev/route-by-model: 'true'}}
spec:
  hostnames: [a.example.com]
  parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g, port: 443}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /a}, method: GET}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}
    - type: URLRewrite
      urlRewrite: {hostname: h, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}
    retry: {attempts: 1, codes: [503], backoff: 1s}
    timeouts: {request: 10s, backendRequest: 5s}
    sessionPersistence: {type: Cookie}
    backendRefs:
    - name: s
      port: 80
      weight: 2
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x]}}]
  - filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, port: 443, statusCode: 301}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: g}
spec: {from: [{group: a, kind: B, namespace: c}], to: [{group: '', kind: Secret, name: s}]}
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {type: ClusterIP, ports: [{name: http, port: 80, protocol: TCP, appProtocol: http}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]
ports: [{name: http, port: 8080, protocol: TCP}]
---
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {team: a}}
"""
    ),
    good_pair().secret("s", namespace="n"),
]

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(["", "TCP", "Passthrough", "None", "*.", "/", "ReplaceFullPath", "CORS"]),
    st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)


def ways(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something is in a document."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [way, *(found for key, item in items for found in ways(item, (*way, key)))]


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A good document, of which something was replaced, removed or added."""
    document = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([way for way in ways(document) if way]))
        parent = document
        for step in way:
            parent = parent[step]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                parent[last] = draw(ANYTHING)
            case "remove":
                del parent[last]
            case _ if isinstance(parent, dict):
                parent[draw(st.text(max_size=5))] = draw(ANYTHING)
            case _:
                parent.append(draw(ANYTHING))
    return document


@given(st.lists(damaged(), max_size=3))
def test_a_damaged_manifest_is_told_and_what_is_left_makes_a_world(documents: list[Any]) -> None:
    objects = []
    for document in documents:
        manifest = read_object(document, "kubernetes")
        if manifest is None:
            continue
        if manifest.object is None:
            assert manifest.problems
        else:
            objects.append(manifest.object)
            if isinstance(manifest.object, HTTPRoute):
                assert {rule: hash(rule) for rule in manifest.object.rules}
        for problem in manifest.problems:
            assert problem.message
            assert problem.severity in Severity
    world = assemble(objects, now=0.0, of_cluster=True)
    assert len(world.gateways) <= len(objects)


def test_without_damage_nothing_makes_them_useless() -> None:
    for document in DOCUMENTS:
        manifest = read_object(document, "kubernetes")
        assert manifest is not None
        assert manifest.object is not None
