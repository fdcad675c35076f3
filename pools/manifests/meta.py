"""What every kind has: a name, a namespace, labels and annotations."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pools.manifests.fields import (
    Fields,
    Place,
    Read,
    T,
    namespace_name,
    object_name,
    string_map,
    struct,
    word,
)
from pools.manifests.node import Node
from pools.model import DEFAULT_NAMESPACE, ObjectName, Origin
from pools.well_known import POOL_GROUPS

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d.*")


@dataclass(frozen=True, slots=True)
class Meta:
    """The metadata of one object."""

    name: ObjectName
    origin: Origin
    created: str = ""
    """RFC 3339 in UTC, so that text order is time order; empty where unknown."""
    annotations: Place | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def annotation(self, key: str, read: Read[T]) -> T | None:
        if self.annotations is None or not isinstance(self.annotations.node.value, dict):
            return None
        node = self.annotations.node.value.get(key)
        return None if node is None else read(self.annotations.child(node, key))


def read_meta(origin: Origin, *, namespaced: bool = True) -> Read[Meta]:
    def build(fields: Fields) -> Meta:
        name = fields.required("name", object_name)
        namespace = ""
        if namespaced:
            namespace = fields.optional("namespace", namespace_name, DEFAULT_NAMESPACE)
        annotations = fields.get("annotations")
        if annotations is not None:
            string_map(annotations)
        labels = fields.optional("labels", string_map, {})
        created = fields.optional("creationTimestamp", _time, "")
        fields.known(*_WRITTEN_BY_KUBERNETES)
        return Meta(ObjectName(namespace, name), origin, created, annotations, labels)

    return struct(build)


_WRITTEN_BY_KUBERNETES = (
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)


def loose_name(node: Node, *, namespaced: bool = True) -> ObjectName | None:
    """The name of an object that may be broken elsewhere."""
    fields = node.value.get("metadata") if isinstance(node.value, dict) else None
    if fields is None or not isinstance(fields.value, dict):
        return None
    name, namespace = (
        fields.value[key].value if key in fields.value else None for key in ("name", "namespace")
    )
    if not isinstance(name, str) or not name:
        return None
    if not namespaced:
        return ObjectName("", name)
    return ObjectName(namespace if isinstance(namespace, str) else DEFAULT_NAMESPACE, name)


def loose_identity(node: Node) -> tuple[str, int]:
    """The ``uid`` and ``generation`` of an object that may be broken elsewhere."""
    fields = node.value.get("metadata") if isinstance(node.value, dict) else None
    values = fields.value if fields is not None and isinstance(fields.value, dict) else {}
    uid, generation = (
        values[key].value if key in values else None for key in ("uid", "generation")
    )
    return uid if isinstance(uid, str) else "", generation if type(generation) is int else 0


def _time(place: Place) -> str:
    value = place.node.value
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            time = datetime.datetime.fromisoformat(value)
            zone = time.tzinfo or datetime.UTC
            return time.replace(tzinfo=zone).astimezone(datetime.UTC).isoformat()
        except (ValueError, OverflowError):
            pass
    place.must_be("a time such as 2025-01-31T12:00:00Z")
    return ""


def pool_ref(namespace: str) -> Read[ObjectName]:
    """``poolRef``: a pool in the object's own namespace."""

    def build(fields: Fields) -> ObjectName:
        fields.optional("group", word(*POOL_GROUPS), "")
        fields.optional("kind", word("InferencePool"), "")
        return ObjectName(namespace, fields.required("name", object_name))

    return struct(build)
