"""Bytes back into what a person can read: protobuf's JSON with Envoy's own field names.

Slow (milliseconds per resource), and only for people: debug pages, ``check``, tests.
"""

from __future__ import annotations

import importlib
import re
from typing import cast

import betterproto2
from google.protobuf.json_format import MessageToDict

from xds.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Resource
from xds.snapshot import Snapshot
from xds.wire import endpoint_pb2 as wire

Json = dict[str, object]

_ANY_TYPE = re.compile(rb"type\.googleapis\.com/([A-Za-z0-9_.]+)")
_PREFIX = "type.googleapis.com/"


def as_json(resource: Resource) -> Json:
    """The resource as Envoy's ``/config_dump`` would show it, without ``@type`` at the top.

    Secrets come back redacted. A message of an unknown type is shown as its type and size.
    """
    return message_json(resource.type_url, resource.body)


def message_json(type_url: str, body: bytes) -> Json:
    """A serialised message of any type of Envoy's as JSON."""
    if type_url == SECRET:
        return {"name": "[redacted]", "bytes": len(body)}
    if type_url == ENDPOINT and (quick := _assignment_json(body)) is not None:
        return quick
    message_class = _message_class(type_url.removeprefix(_PREFIX))
    if message_class is None:
        return {"@type": type_url, "bytes": len(body)}
    # An Any can only be unpacked when its type was imported.
    for name in set(_ANY_TYPE.findall(body)):
        _message_class(name.decode())
    parsed = message_class.parse(body)
    return cast(Json, _redacted(parsed.to_dict(casing=_FIELD_NAMES)))


def _assignment_json(body: bytes) -> Json | None:
    """An endpoint assignment, seventy times faster; None if it has more than our small message."""
    message = wire.ClusterLoadAssignment.FromString(body)
    size = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != size:
        return None
    return cast(Json, MessageToDict(message, preserving_proto_field_name=True))


def _message_class(full_name: str) -> type[betterproto2.Message] | None:
    package, _, name = full_name.rpartition(".")
    root = "envoy_data_plane."
    try:
        module = importlib.import_module(root + package)
    except ImportError:
        return None
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, betterproto2.Message):
        return found
    return None


# betterproto2's SNAKE turns "5xx" into "5_xx". It calls the casing with Envoy's own field names,
# which are already what is wanted.
_FIELD_NAMES = cast(betterproto2.Casing, str)

_SECRET_FIELDS = frozenset(
    {
        "private_key",
        "inline_bytes",
        "password",
        "session_ticket_keys",
        "token_secret",
        "hmac_secret",
    }
)


def _redacted(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: "[redacted]" if key in _SECRET_FIELDS else _redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return value


def render_static(snapshot: Snapshot) -> Json:
    """``static_resources`` that mean the same as the snapshot, for an Envoy without a server.

    Routes move into their listeners and endpoints into their clusters. What DNS or health checks
    find out stays as it is.
    """
    routes = {name: as_json(r) for name, r in snapshot.of_type(ROUTE).items()}
    assignments = {name: as_json(r) for name, r in snapshot.of_type(ENDPOINT).items()}
    listeners = [as_json(r) for r in snapshot.of_type(LISTENER).values()]
    clusters = [as_json(r) for r in snapshot.of_type(CLUSTER).values()]
    for listener in listeners:
        for config in _typed_configs(listener):
            rds = cast(Json, config.pop("rds", {}))
            if rds:
                config["route_config"] = routes[cast(str, rds["route_config_name"])]
    for cluster in clusters:
        eds = cast(Json | None, cluster.pop("eds_cluster_config", None))
        if eds is not None:
            cluster["type"] = "STATIC"
            cluster["load_assignment"] = assignments[
                cast(str, eds.get("service_name") or cluster["name"])
            ]
    return {"listeners": listeners, "clusters": clusters}


def _typed_configs(listener: Json) -> list[Json]:
    chains = cast(list[Json], listener.get("filter_chains", []))
    return [
        cast(Json, network_filter["typed_config"])
        for chain in chains
        for network_filter in cast(list[Json], chain.get("filters", []))
    ]
