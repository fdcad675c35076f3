"""CSDS, the client status discovery service: the server's status in Envoy's own terms."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.json_format import ParseDict

from xds.resource import SECRET, Resource
from xds.services import CLIENT_STATUS
from xds.snapshot import Node
from xds.status import State, StreamStatus, TypeStatus, XdsStatus
from xds.transport import Context
from xds.wire import discovery_pb2, status_pb2

_STATES: Mapping[State, status_pb2.ConfigStatus.ValueType] = {
    State.SYNCED: status_pb2.SYNCED,
    State.STALE: status_pb2.STALE,
    State.NOT_SENT: status_pb2.NOT_SENT,
    State.ERROR: status_pb2.ERROR,
}


def handler(
    status: Callable[[], XdsStatus], may_see: Callable[[Context, Node], bool]
) -> grpc.GenericRpcHandler[Any, Any]:
    """Serve FetchClientStatus and StreamClientStatus from ``status``, of the nodes that the client
    may see."""

    async def fetch(
        request: status_pb2.ClientStatusRequest, context: Context
    ) -> status_pb2.ClientStatusResponse:
        try:
            return client_status(status(), request, lambda node: may_see(context, node))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise

    async def stream(
        requests: AsyncIterator[status_pb2.ClientStatusRequest], context: Context
    ) -> AsyncIterator[status_pb2.ClientStatusResponse]:
        async for request in requests:
            yield await fetch(request, context)

    return grpc.method_handlers_generic_handler(
        CLIENT_STATUS,
        {
            "FetchClientStatus": grpc.unary_unary_rpc_method_handler(
                fetch,
                request_deserializer=status_pb2.ClientStatusRequest.FromString,
                response_serializer=status_pb2.ClientStatusResponse.SerializeToString,
            ),
            "StreamClientStatus": grpc.stream_stream_rpc_method_handler(
                stream,
                request_deserializer=status_pb2.ClientStatusRequest.FromString,
                response_serializer=status_pb2.ClientStatusResponse.SerializeToString,
            ),
        },
    )


def client_status(
    status: XdsStatus,
    request: status_pb2.ClientStatusRequest,
    may_see: Callable[[Node], bool] = lambda _: True,
) -> status_pb2.ClientStatusResponse:
    """Answer a request. What holds a private key is named, never shown. Raises
    ValueError for a matcher that this server does not understand."""
    response = status_pb2.ClientStatusResponse()
    for node in status.nodes:
        if not may_see(node.node) or not _selected(node.node, request.node_matchers):
            continue
        for stream in node.streams:
            _describe(response.config.add(), stream, contents=not request.exclude_resource_contents)
    return response


def _describe(config: status_pb2.ClientConfig, stream: StreamStatus, *, contents: bool) -> None:
    config.client_scope = str(stream.id)
    _describe_node(config.node, stream.node)
    for described in stream.types:
        rejected = {r.name: r for r in described.rejected}
        for name in sorted({*described.wanted, *described.has, *described.names}):
            entry = config.generic_xds_configs.add(type_url=described.type_url, name=name)
            has = described.has.get(name)
            wanted = described.wanted.get(name)
            shown = has if has is not None and has.body else wanted
            if shown is not None:
                entry.version_info = shown.version
                if contents and not _secret(shown):
                    _put(entry.xds_config, shown)
            if described.acked is not None and has is not None:
                entry.last_updated.FromNanoseconds(int(described.acked.at * 1e9))
            entry.config_status = _STATES[_state(name, described)]
            rejection = rejected.get(name)
            if rejection is not None:
                entry.error_state.details = rejection.message
                entry.error_state.version_info = rejection.version or ""
                entry.error_state.last_update_attempt.FromNanoseconds(int(rejection.at * 1e9))
                if wanted is not None and contents and not _secret(wanted):
                    _put(entry.error_state.failed_configuration, wanted)


def _secret(resource: Resource) -> bool:
    """Also a cluster may hold a key, inline as PEM: that which Envoy shows to the picker."""
    return resource.type_url == SECRET or b"PRIVATE KEY-----" in resource.body


def _put(target: any_pb2.Any, resource: Resource) -> None:
    target.type_url = resource.type_url
    target.value = resource.body


def _state(name: str, described: TypeStatus) -> State:
    if any(rejection.name == name for rejection in described.rejected):
        return State.ERROR
    wanted, has = described.wanted.get(name), described.has.get(name)
    if wanted is None:
        return State.NOT_SENT if has is None else State.STALE
    if has is None:
        return State.NOT_SENT if described.sent is None else State.STALE
    return State.SYNCED if has.version == wanted.version else State.STALE


def _describe_node(message: discovery_pb2.Node, node: Node) -> None:
    message.id = node.id
    message.cluster = node.cluster
    message.user_agent_name = node.user_agent
    if node.metadata:
        ParseDict(dict(node.metadata), message.metadata)
    region, zone, sub_zone = [*node.locality.split("/"), "", ""][:3]
    if node.locality:
        message.locality.region = region
        message.locality.zone = zone
        message.locality.sub_zone = sub_zone
    if node.version is not None:
        number = message.user_agent_build_version.version
        number.major_number, number.minor_number, number.patch = node.version


def _selected(node: Node, matchers: Iterable[status_pb2.NodeMatcher]) -> bool:
    """Whether any matcher matches; no matcher at all means every node."""
    matchers = list(matchers)
    return not matchers or any(_matches(node, matcher) for matcher in matchers)


def _matches(node: Node, matcher: status_pb2.NodeMatcher) -> bool:
    if matcher.HasField("node_id") and not _text(node.id, matcher.node_id):
        return False
    return all(_metadata(node.metadata, wanted) for wanted in matcher.node_metadatas)


def _metadata(metadata: object, matcher: status_pb2.StructMatcher) -> bool:
    value: object = metadata
    for segment in matcher.path:
        value = value.get(segment.key) if isinstance(value, Mapping) else None
    kind = matcher.value.WhichOneof("match_pattern")
    if kind == "present_match":
        return (value is not None) == matcher.value.present_match
    if kind == "bool_match":
        return value is matcher.value.bool_match
    if kind == "string_match":
        return isinstance(value, str) and _text(value, matcher.value.string_match)
    raise ValueError(
        "node_metadatas: only string_match, bool_match and present_match are understood"
    )


def _text(value: str, matcher: status_pb2.StringMatcher) -> bool:
    kind = matcher.WhichOneof("match_pattern")
    if kind == "safe_regex":
        # Python's engine is none for expressions of strangers: one of them can take for ever.
        raise ValueError("safe_regex is not understood; use exact, prefix, suffix or contains")
    if kind is None:
        raise ValueError("a string matcher is empty; set exact, prefix, suffix or contains")
    pattern: str = getattr(matcher, kind)
    if matcher.ignore_case:
        value, pattern = value.lower(), pattern.lower()
    if kind == "exact":
        return value == pattern
    if kind == "prefix":
        return value.startswith(pattern)
    if kind == "suffix":
        return value.endswith(pattern)
    return pattern in value
