"""Snapshots and their resources as JSON, with Envoy's field names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from xds import resource as types
from xds.consistency import ByType
from xds.debug.redact import redacted
from xds.provider import FeatureVariant
from xds.resource import Resource
from xds.snapshot import Snapshot
from xds.translate.features import missing
from xds.wire import endpoint_pb2

TYPE_NAMES: Mapping[str, str] = {
    "listeners": types.LISTENER,
    "routes": types.ROUTE,
    "scoped-routes": types.SCOPED_ROUTE,
    "virtual-hosts": types.VIRTUAL_HOST,
    "clusters": types.CLUSTER,
    "endpoints": types.ENDPOINT,
    "secrets": types.SECRET,
    "runtimes": types.RUNTIME,
    "extension-configs": types.EXTENSION_CONFIG,
}
"""What the types are called in paths."""

_SHORT = {type_url: short for short, type_url in TYPE_NAMES.items()}


def type_name(type_url: str) -> str:
    return _SHORT.get(type_url, type_url)


def variant_json(variant: FeatureVariant) -> dict[str, object]:
    return {
        "group": variant.group,
        "lacking": list(missing(variant.features)),
        "problem": variant.problem,
        **(snapshot_json(variant.snapshot) if variant.snapshot else {"version": None}),
    }


def snapshot_json(snapshot: Snapshot) -> dict[str, object]:
    return {
        "version": snapshot.version,
        "cause": snapshot.cause,
        "notes": list(snapshot.notes),
        "counts": {type_name(url): len(named) for url, named in sorted(snapshot.resources.items())},
    }


def resources_json(resources: ByType) -> dict[str, object]:
    """Every resource by type and name, without its content."""
    return {
        type_name(url): {name: resource_head(r) for name, r in named.items()}
        for url, named in sorted(resources.items())
    }


def resource_head(resource: Resource) -> dict[str, object]:
    return {
        "version_info": resource.version,
        "bytes": len(resource.body),
        "origin": resource.origin,
        "needs": [f"{type_name(url)}/{name}" for url, name in resource.needs],
    }


def resource_json(resource: Resource) -> dict[str, object]:
    """A resource with its content, as it would stand in Envoy's config dump."""
    return {
        "name": resource.name,
        **resource_head(resource),
        "resource": {"@type": resource.type_url, **content(resource)},
    }


def content(resource: Resource) -> dict[str, object]:
    """What a resource says, without secrets."""
    if resource.type_url == types.ENDPOINT:
        quick = _assignment(resource.body)
        if quick is not None:
            return quick
    from xds.translate.render import as_json

    return cast(dict[str, object], redacted(as_json(resource)))


def _assignment(body: bytes) -> dict[str, object] | None:
    """Assignments are large and often looked at: protobuf's C classes read them a hundred times
    faster. None where they hold fields that our subset of the message does not have."""
    message = endpoint_pb2.ClusterLoadAssignment()
    try:
        message.ParseFromString(body)
    except DecodeError:
        return None
    size = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != size:
        return None
    return cast(
        dict[str, object],
        redacted(MessageToDict(message, preserving_proto_field_name=True)),
    )
