"""The kinds that are watched: where the API server has them, and how an object of each is read.

A row is all that it takes to watch a further kind: its reader turns the JSON of one object into the
few fields that are kept, so that memory does not grow with what others write into their objects.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from pools.kubernetes.endpoint_slice import read_endpoint_slice
from pools.kubernetes.pod import read_pod
from pools.manifests import Object, read_object
from pools.model import DEFAULT_NAMESPACE, ObjectName, Pod, Problem
from pools.well_known import (
    GATEWAY_GROUP,
    INFERENCE_GROUP,
    INFERENCE_X_GROUP,
    LLM_D_GROUP,
    OWN_GROUP,
)

SOURCE = "kubernetes"
"""What every Origin says of where its object was read."""

Value = Object | Pod


@dataclass(frozen=True, slots=True)
class Item:
    """What is kept of one object of the API server."""

    name: ObjectName
    uid: str
    """Differs between an object and one that was created under its name later."""
    value: Value | None
    """None where it cannot be used; then the problems say why."""
    problems: tuple[Problem, ...] = ()
    class_name: str = ""
    """Of a Gateway that cannot be used: the class that it names."""
    gateways: tuple[ObjectName, ...] = ()
    """Of a route that cannot be used: the Gateways that it names."""


Read = Callable[[bytes], tuple[Value | None, tuple[Problem, ...]]]
"""From the JSON of one object. Raises msgspec.MsgspecError if that has not the kind's shape."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: a kind of one API group."""

    name: str
    plural: str
    group: str
    """Empty for the core group."""
    versions: tuple[str, ...]
    """The first of these that the API server has is watched."""
    read: Callable[[str, str], Read]
    """Makes the reader for ``apiVersion`` and ``kind``, which the items of lists may lack."""
    namespaced: bool = True
    query: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Parameters of every list and watch."""
    optional: bool = False
    """A World comes without it where it may not be read."""

    def api_version(self, version: str) -> str:
        return f"{self.group}/{version}" if self.group else version

    def __str__(self) -> str:
        return f"{self.name} ({self.group})" if self.group else self.name


Scope = tuple[Kind, str | None]
"""A kind in one namespace, or in all of them (None)."""


@dataclass(frozen=True, slots=True)
class Collection:
    """What one list or watch covers: a kind, at the version that is there, in one namespace."""

    kind: Kind
    version: str
    namespace: str | None = None
    """None: all of them."""

    @property
    def path(self) -> str:
        return f"{group_path(self.kind, self.version)}{self._namespace}/{self.kind.plural}"

    @property
    def _namespace(self) -> str:
        return f"/namespaces/{self.namespace}" if self.namespace is not None else ""

    @property
    def scope(self) -> Scope:
        return (self.kind, self.namespace)

    def __str__(self) -> str:
        where = f" of namespace {self.namespace}" if self.namespace is not None else ""
        return f"{self.kind}{where}"


def group_path(kind: Kind, version: str) -> str:
    """Where the API server lists the kinds of the group, and below which they are."""
    return f"/apis/{kind.group}/{version}" if kind.group else f"/api/{version}"


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class Head(msgspec.Struct):
    """What every object starts with."""

    metadata: _Metadata

    @property
    def name(self) -> ObjectName:
        return ObjectName(self.metadata.namespace, self.metadata.name)


def read_item(raw: bytes, read: Read) -> tuple[Item, str]:
    """What is kept of an object, and its resource version. Raises msgspec.MsgspecError."""
    head = msgspec.json.decode(raw, type=Head)
    value, problems = read(raw)
    class_name, gateways = _belongs(raw, head) if value is None and problems else ("", ())
    item = Item(head.name, head.metadata.uid, value, problems, class_name, gateways)
    return item, head.metadata.resource_version


class _ParentRef(msgspec.Struct):
    name: str
    namespace: str | None = None


class _Parents(msgspec.Struct, rename="camel"):
    gateway_class_name: str = ""
    parent_refs: list[_ParentRef] = []


class _Child(msgspec.Struct):
    spec: _Parents


def _belongs(raw: bytes, head: Head) -> tuple[str, tuple[ObjectName, ...]]:
    """What a broken Gateway or route belongs to, as far as that can be told."""
    try:
        spec = msgspec.json.decode(raw, type=_Child).spec
    except msgspec.MsgspecError:
        return "", ()
    namespace = head.metadata.namespace or DEFAULT_NAMESPACE
    return spec.gateway_class_name, tuple(
        ObjectName(ref.namespace or namespace, ref.name) for ref in spec.parent_refs
    )


def _manifest(api_version: str, kind: str) -> Read:
    def read(raw: bytes) -> tuple[Value | None, tuple[Problem, ...]]:
        document = msgspec.json.decode(raw, type=dict[str, object])
        document.pop("status", None)
        metadata = document.get("metadata")
        if isinstance(metadata, dict):
            metadata.pop("managedFields", None)
        manifest = read_object({**document, "apiVersion": api_version, "kind": kind}, SOURCE)
        if manifest is None:
            return None, ()
        return manifest.object, manifest.problems

    return read


def _pod(_api_version: str, _kind: str) -> Read:
    return functools.partial(read_pod, source=SOURCE)


def _endpoint_slice(_api_version: str, _kind: str) -> Read:
    return functools.partial(read_endpoint_slice, source=SOURCE)


POD = Kind(
    "Pod",
    "pods",
    "",
    ("v1",),
    _pod,
    # What has finished serves nobody and is often kept by the thousand.
    query={"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"},
)
POOLS = (
    Kind("InferencePool", "inferencepools", INFERENCE_GROUP, ("v1",), _manifest),
    Kind("InferencePool", "inferencepools", INFERENCE_X_GROUP, ("v1alpha2", "v1alpha1"), _manifest),
)
MODELS = (
    Kind(
        "InferenceModel", "inferencemodels", INFERENCE_X_GROUP, ("v1alpha2", "v1alpha1"), _manifest
    ),
    Kind("InferenceObjective", "inferenceobjectives", INFERENCE_X_GROUP, ("v1alpha2",), _manifest),
    Kind("InferenceObjective", "inferenceobjectives", LLM_D_GROUP, ("v1alpha2",), _manifest),
    Kind(
        "InferenceModelRewrite",
        "inferencemodelrewrites",
        INFERENCE_X_GROUP,
        ("v1alpha2",),
        _manifest,
    ),
    Kind("InferenceModelRewrite", "inferencemodelrewrites", LLM_D_GROUP, ("v1alpha2",), _manifest),
)
ENDPOINTS = (Kind("PoolEndpoints", "poolendpoints", OWN_GROUP, ("v1alpha1",), _manifest),)
ROUTES = (
    Kind("HTTPRoute", "httproutes", GATEWAY_GROUP, ("v1", "v1beta1"), _manifest),
    Kind("Gateway", "gateways", GATEWAY_GROUP, ("v1", "v1beta1"), _manifest),
    Kind(
        "GatewayClass",
        "gatewayclasses",
        GATEWAY_GROUP,
        ("v1", "v1beta1"),
        _manifest,
        namespaced=False,
    ),
)

REFERENCE_GRANT = Kind(
    "ReferenceGrant", "referencegrants", GATEWAY_GROUP, ("v1", "v1beta1"), _manifest, optional=True
)
SECRET = Kind(
    "Secret",
    "secrets",
    "",
    ("v1",),
    _manifest,
    query={"fieldSelector": "type=kubernetes.io/tls"},
    optional=True,
)
SERVICE = Kind("Service", "services", "", ("v1",), _manifest, optional=True)
ENDPOINT_SLICE = Kind(
    "EndpointSlice", "endpointslices", "discovery.k8s.io", ("v1",), _endpoint_slice, optional=True
)
NAMESPACE = Kind("Namespace", "namespaces", "", ("v1",), _manifest, namespaced=False, optional=True)
REFERENCES = (REFERENCE_GRANT, SECRET, SERVICE, ENDPOINT_SLICE, NAMESPACE)
"""What routes and Gateways refer to. Not every Gateway needs them, and not everybody wants to have
Secrets read, so what serves without them goes on without them."""

PICKER_KINDS = (*POOLS, *MODELS, *ENDPOINTS, POD)
"""What the endpoint picker needs."""
ALL_KINDS = (*POOLS, *MODELS, *ENDPOINTS, *ROUTES, *REFERENCES, POD)
"""In order of precedence: of two objects of one kind and name in different groups, that of the
earlier row counts."""
