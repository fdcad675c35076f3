"""Manifests: Kubernetes kinds, and ``PoolEndpoints``, as the values of ``pools.model``.

The rules of each kind are in ``inference``, ``gateway``, ``route`` with ``filters``, ``cluster``,
``secret`` and ``endpoints``; how a field is read and what is said when it is wrong is in
``fields``; where text becomes nodes with lines is in ``text``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pools.manifests import cluster, endpoints, gateway, inference, route, secret
from pools.manifests.fields import Fields, Place, Report, did_you_mean, struct
from pools.manifests.meta import Meta, loose_identity, loose_name, read_meta
from pools.manifests.node import Node, node_from
from pools.manifests.text import json_documents, yaml_documents
from pools.model import (
    EndpointSlice,
    Gateway,
    GatewayClass,
    HTTPRoute,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    InferencePool,
    Namespace,
    ObjectName,
    Origin,
    PoolEndpoints,
    Problem,
    ReferenceGrant,
    Service,
    Severity,
    TlsCertificate,
)
from pools.well_known import (
    GATEWAY_GROUP,
    INFERENCE_GROUP,
    INFERENCE_X_GROUP,
    LLM_D_GROUP,
    OWN_GROUP,
)

__all__ = [
    "Key",
    "Manifest",
    "Object",
    "Reading",
    "is_usable",
    "key_of",
    "read_object",
    "read_text",
]

Object = (
    InferencePool
    | InferenceModel
    | InferenceObjective
    | InferenceModelRewrite
    | HTTPRoute
    | Gateway
    | GatewayClass
    | PoolEndpoints
    | Service
    | EndpointSlice
    | TlsCertificate
    | ReferenceGrant
    | Namespace
)
Key = tuple[str, ObjectName]
"""Kind and name: what makes two manifests the same object."""
Build = Callable[[Meta, Fields], Object]

_ALPHA_1 = f"{INFERENCE_X_GROUP}/v1alpha1"
_ALPHA_2 = f"{INFERENCE_X_GROUP}/v1alpha2"
_LLM_D = f"{LLM_D_GROUP}/v1alpha2"
_GATEWAY = f"{GATEWAY_GROUP}/v1"
_GATEWAY_BETA = f"{GATEWAY_GROUP}/v1beta1"

KINDS: Mapping[str, Mapping[str, Build]] = {
    "InferencePool": {
        f"{INFERENCE_GROUP}/v1": inference.pool_v1,
        _ALPHA_2: functools.partial(inference.pool_alpha, "portNumber"),
        _ALPHA_1: functools.partial(inference.pool_alpha, "targetPortNumber"),
    },
    "InferenceModel": {
        _ALPHA_2: functools.partial(inference.model, 1),
        _ALPHA_1: functools.partial(inference.model, 0),
    },
    "InferenceObjective": {_ALPHA_2: inference.objective, _LLM_D: inference.objective},
    "InferenceModelRewrite": {_ALPHA_2: inference.rewrite, _LLM_D: inference.rewrite},
    "HTTPRoute": {_GATEWAY: route.http_route, _GATEWAY_BETA: route.http_route},
    "Gateway": {_GATEWAY: gateway.gateway, _GATEWAY_BETA: gateway.gateway},
    "GatewayClass": {_GATEWAY: gateway.gateway_class, _GATEWAY_BETA: gateway.gateway_class},
    "ReferenceGrant": {_GATEWAY: gateway.reference_grant, _GATEWAY_BETA: gateway.reference_grant},
    "PoolEndpoints": {f"{OWN_GROUP}/v1alpha1": endpoints.pool_endpoints},
    "Service": {"v1": cluster.service},
    "EndpointSlice": {"discovery.k8s.io/v1": cluster.endpoint_slice},
    "Secret": {"v1": secret.secret},
    "Namespace": {"v1": cluster.namespace},
}
"""Every kind that is read, by API version."""

_CLUSTER_SCOPED = {"GatewayClass", "Namespace"}
_WITHOUT_SPEC = {"EndpointSlice", "Secret", "Namespace"}
"""Their fields are next to ``metadata``."""
_GROUPS = {INFERENCE_GROUP, INFERENCE_X_GROUP, LLM_D_GROUP, GATEWAY_GROUP, OWN_GROUP}
"""A kind of these that is not known is likely to be a slip."""
_OTHERS_KINDS = {
    "BackendTLSPolicy",
    "GRPCRoute",
    "InferencePoolImport",
    "TCPRoute",
    "TLSRoute",
    "UDPRoute",
    "XBackendTrafficPolicy",
    "XListenerSet",
}
"""Kinds of the groups above that say nothing to us."""
_CLASS_NAMES = {"TlsCertificate": "Secret"}
"""Kinds of values that are called otherwise."""


def key_of(value: Object) -> Key:
    """Kind and name."""
    name = type(value).__name__
    return (_CLASS_NAMES.get(name, name), value.name)


def is_usable(value: object) -> bool:
    """Whether it is worth more than an earlier version that was good."""
    return not isinstance(value, TlsCertificate) or not value.problem


@dataclass(frozen=True, slots=True)
class Manifest:
    """What came of one document of a kind that is ours, or should have been."""

    key: Key | None
    """None where it cannot be told which object this is."""
    object: Object | None
    """None where an error makes it useless."""
    problems: tuple[Problem, ...] = ()

    @property
    def obscure(self) -> bool:
        """It may be any object that was here before."""
        return self.key is None and any(p.severity is Severity.ERROR for p in self.problems)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file says."""

    manifests: tuple[Manifest, ...]
    documents: int
    """Documents of any kind. Zero: the file is empty, or only comments."""


def read_text(text: str, source: str) -> Reading:
    """Read a file. ``source`` is its path: it says where a problem is, and ``.json`` which format.

    Never raises: what is wrong is in the problems of the manifests.
    """
    documents = (json_documents if source.endswith(".json") else yaml_documents)(text)
    manifests: list[Manifest] = []
    for document in documents:
        if document.node is not None:
            manifests += _items(document.node, source)
        elif document.error is not None:
            problem = Problem(
                Severity.ERROR,
                document.error.message,
                source=source,
                line=document.error.line or document.line,
            )
            manifests.append(Manifest(None, None, (problem,)))
    return Reading(tuple(manifests), len(documents))


def read_object(value: Mapping[str, object], source: str) -> Manifest | None:
    """Read an object as an API client returns it. None if its kind is none of ours."""
    return _manifest(node_from(value), source)


def _items(node: Node, source: str) -> Iterator[Manifest]:
    """The object of a document, or the objects of a ``List``."""
    if isinstance(node.value, dict):
        kind, items = node.value.get("kind"), node.value.get("items")
        is_list = kind is not None and isinstance(kind.value, str) and kind.value.endswith("List")
        if is_list and items is not None and isinstance(items.value, list):
            for item in items.value:
                yield from _items(item, source)
            return
    manifest = _manifest(node, source)
    if manifest is not None:
        yield manifest


def _manifest(node: Node, source: str) -> Manifest | None:
    if not isinstance(node.value, dict):
        return _nameless(Severity.ERROR, "must be a mapping with apiVersion and kind", source, node)
    kind, version = (
        node.value[key].value if key in node.value else None for key in ("kind", "apiVersion")
    )
    if kind is None and version is None:
        message = "has no apiVersion and no kind, so it was ignored"
        return _nameless(Severity.WARNING, message, source, node)
    if not isinstance(kind, str) or not isinstance(version, str):
        return _nameless(Severity.ERROR, "must have an apiVersion and a kind", source, node)
    build = KINDS.get(kind, {}).get(version)
    if build is None:
        return _stranger(kind, version, source, node)
    if kind == "Secret" and not secret.is_tls(node):
        return None
    return _read(build, kind, version, node, source)


def _read(build: Build, kind: str, version: str, node: Node, source: str) -> Manifest:
    namespaced = kind not in _CLUSTER_SCOPED
    name = loose_name(node, namespaced=namespaced)
    identity = loose_identity(node)
    origin = Origin(
        kind, name or ObjectName("", "(no name)"), source, node.line, version, *identity
    )
    report = Report(origin)
    fields = Fields(Place(node, report))
    fields.known("apiVersion", "kind", "status")
    meta = fields.required("metadata", read_meta(origin, namespaced=namespaced))
    if kind in _WITHOUT_SPEC:
        value = build(meta, fields)
    else:
        value = fields.required("spec", struct(functools.partial(build, meta)))
    fields.warn_of_others()
    problems = tuple(sorted(report.problems, key=lambda p: (p.line or 0, p.field)))
    key = None if name is None else (kind, name)
    return Manifest(key, None if report.failed else value, problems)


def _stranger(kind: str, version: str, source: str, node: Node) -> Manifest | None:
    """A kind or version that is not read: silently, unless it looks like a slip."""
    group = version.partition("/")[0]
    if group in _GROUPS:
        if kind in _OTHERS_KINDS:
            return None
        if kind in KINDS:
            known = ", ".join(KINDS[kind])
            message = f"apiVersion {version!r} of {kind} is not supported; use one of {known}"
        else:
            message = f"kind {kind!r} is not known{did_you_mean(kind, KINDS)}"
    else:
        hint = did_you_mean(version, KINDS.get(kind, ()), alike=0.85)
        if not hint:
            return None
        message = f"apiVersion {version!r} of {kind} is not known{hint}"
    return _nameless(Severity.ERROR, message, source, node)


def _nameless(severity: Severity, message: str, source: str, node: Node) -> Manifest:
    return Manifest(None, None, (Problem(severity, message, source=source, line=node.line),))
