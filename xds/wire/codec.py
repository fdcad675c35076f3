"""Bytes on the wire to the plain values of the protocol core, and back.

Requests are parsed with protobuf's C classes (Envoy's first request is 61 KB). Responses are put
together from bytes that are already there: a protobuf message is the concatenation of its fields in
any order, so one body serves every stream and each appends its own nonce.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message

from xds.protocol.message import DeltaRequest, ErrorDetail, Response, SotwRequest
from xds.resource import VIRTUAL_HOST
from xds.snapshot import Node
from xds.wire import discovery_pb2 as pb
from xds.wire import endpoint_pb2

_NONCE = 0x2A
"""Field 5, length-delimited: the nonce, in both kinds of response."""
LONGEST_ERROR = 8192
"""Characters of an error that count. Envoy sends half of it; each resource is looked for in them,
and they are logged and kept."""


def decode_sotw(data: bytes) -> SotwRequest:
    """Parse a DiscoveryRequest. Raises ValueError for bytes that are not one."""
    message = pb.DiscoveryRequest()
    _parse(message, data)
    return SotwRequest(
        type_url=message.type_url,
        names=tuple(message.resource_names),
        version=message.version_info,
        nonce=message.response_nonce,
        error=_error(message.error_detail) if message.HasField("error_detail") else None,
        node=decode_node(message.node) if message.HasField("node") else None,
    )


def decode_delta(data: bytes) -> DeltaRequest:
    """Parse a DeltaDiscoveryRequest. Raises ValueError for bytes that are not one."""
    message = pb.DeltaDiscoveryRequest()
    _parse(message, data)
    return DeltaRequest(
        type_url=message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=_error(message.error_detail) if message.HasField("error_detail") else None,
        node=decode_node(message.node) if message.HasField("node") else None,
    )


def decode_node(node: pb.Node) -> Node:
    version = None
    if node.HasField("user_agent_build_version"):
        number = node.user_agent_build_version.version
        version = (number.major_number, number.minor_number, number.patch)
    parts = (node.locality.region, node.locality.zone, node.locality.sub_zone)
    return Node(
        id=node.id,
        cluster=node.cluster,
        metadata=MessageToDict(node.metadata) if node.HasField("metadata") else {},
        locality="/".join(part for part in parts if part),
        user_agent=node.user_agent_name,
        version=version,
        extensions=frozenset(e.name for e in node.extensions if not e.disabled),
    )


def encode_sotw(response: Response, identifier: str) -> bytes:
    """A DiscoveryResponse without its nonce."""
    message = pb.DiscoveryResponse(version_info=response.version, type_url=response.type_url)
    message.control_plane.identifier = identifier
    for resource in response.resources:
        message.resources.add(type_url=resource.type_url, value=resource.body)
    return message.SerializeToString()


def encode_delta(response: Response, identifier: str) -> bytes:
    """A DeltaDiscoveryResponse without its nonce."""
    message = pb.DeltaDiscoveryResponse(
        system_version_info=response.version,
        type_url=response.type_url,
        removed_resources=response.removed,
    )
    message.control_plane.identifier = identifier
    for resource in response.resources:
        entry = message.resources.add(name=resource.name, version=resource.version)
        if resource.body or resource.type_url != VIRTUAL_HOST:
            entry.resource.type_url = resource.type_url
            entry.resource.value = resource.body
        else:  # A virtual host that does not exist: named, without a body.
            entry.aliases.append(resource.name)
    return message.SerializeToString()


def with_nonce(body: bytes, nonce: str) -> bytes:
    """The same response under a nonce of at most 127 bytes."""
    encoded = nonce.encode()
    return b"".join((body, bytes((_NONCE, len(encoded))), encoded))


def eds_names(cluster_body: bytes) -> Iterable[str]:
    """The assignment that a serialised Cluster takes over EDS: at most one name.

    Raises ValueError for bytes that are not a Cluster.
    """
    cluster = endpoint_pb2.Cluster()
    _parse(cluster, cluster_body)
    if not cluster.HasField("eds_cluster_config"):
        return ()
    return (cluster.eds_cluster_config.service_name or cluster.name,)


def _parse(message: Message, data: bytes) -> None:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"not a {message.DESCRIPTOR.name}: {error}") from error


def _error(status: pb.Status) -> ErrorDetail:
    return ErrorDetail(status.code, status.message[:LONGEST_ERROR])
