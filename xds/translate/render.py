"""Bytes back into what a person can read: protobuf's JSON with Envoy's own field names.

Slow (milliseconds per resource), and only for people: debug pages, ``check``, tests.
"""

from __future__ import annotations

import datetime
import importlib
import re
from functools import cache
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

    Secrets come back without what is secret in them. A message of an unknown type is shown as its
    type and size.
    """
    return message_json(resource.type_url, resource.body)


def message_json(type_url: str, body: bytes) -> Json:
    """A serialised message of any type of Envoy's as JSON."""
    if type_url == ENDPOINT and (quick := _assignment_json(body)) is not None:
        return quick
    message_class = _message_class(type_url.removeprefix(_PREFIX))
    if message_class is None:
        return {"@type": type_url, "bytes": len(body)}
    # An Any can only be unpacked when its type was imported.
    for name in set(_ANY_TYPE.findall(body)):
        _message_class(name.decode())
    parsed = message_class.parse(body).to_dict(casing=_FIELD_NAMES)
    return cast(Json, _blank(parsed) if type_url == SECRET else _redacted(parsed))


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
            key: _blank(item) if key in _SECRET_FIELDS else _redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return value


def _blank(value: object, key: str = "") -> object:
    """What is secret in its shape, as Envoy's own dump has it, with nothing to read in it."""
    if isinstance(value, dict):
        return {one: _blank(item, one) for one, item in value.items()}
    if isinstance(value, list):
        return [_blank(item, key) for item in value]
    return value if key in ("name", "filename") else "[redacted]"


def render_static(snapshot: Snapshot) -> Json:
    """``static_resources`` that mean the same as the snapshot, for an Envoy without a server.

    Routes move into their listeners and endpoints into their clusters. What DNS or health checks
    find out stays as it is. No private key is ever written out: in place of each certificate
    stands one that was made for the purpose.
    """
    routes = {name: as_json(r) for name, r in snapshot.of_type(ROUTE).items()}
    assignments = {name: as_json(r) for name, r in snapshot.of_type(ENDPOINT).items()}
    listeners = [as_json(r) for r in snapshot.of_type(LISTENER).values()]
    clusters = [as_json(r) for r in snapshot.of_type(CLUSTER).values()]
    for listener in listeners:
        _stand_in(listener)
        for config in _typed_configs(listener):
            rds = cast(Json, config.pop("rds", {}))
            if rds:
                config["route_config"] = routes[cast(str, rds["route_config_name"])]
    for cluster in clusters:
        _stand_in_client(cluster)
        eds = cast(Json | None, cluster.pop("eds_cluster_config", None))
        if eds is not None:
            cluster["type"] = "STATIC"
            cluster["load_assignment"] = assignments[
                cast(str, eds.get("service_name") or cluster["name"])
            ]
    return {"listeners": listeners, "clusters": clusters}


def _stand_in(listener: Json) -> None:
    """Replace references to certificates by one that nobody trusts."""
    for chain in cast(list[Json], listener.get("filter_chains", [])):
        socket = cast(Json | None, chain.get("transport_socket"))
        if socket is not None:
            common = cast(Json, cast(Json, socket["typed_config"])["common_tls_context"])
            if common.pop("tls_certificate_sds_secret_configs", None):
                common["tls_certificates"] = [_unknown_pair()]


def _stand_in_client(cluster: Json) -> None:
    """The same for what Envoy shows to the picker, whose key has been left out."""
    socket = cast(Json | None, cluster.get("transport_socket"))
    if socket is not None:
        common = cast(Json, cast(Json, socket["typed_config"])["common_tls_context"])
        if "tls_certificates" in common:
            common["tls_certificates"] = [_unknown_pair()]


def _unknown_pair() -> Json:
    chain_pem, key_pem = _unknown_certificate()
    return {
        "certificate_chain": {"inline_string": chain_pem},
        "private_key": {"inline_string": key_pem},
    }


@cache
def _unknown_certificate() -> tuple[str, str]:
    """PEM of a certificate and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def _typed_configs(listener: Json) -> list[Json]:
    chains = cast(list[Json], listener.get("filter_chains", []))
    return [
        cast(Json, network_filter["typed_config"])
        for chain in chains
        for network_filter in cast(list[Json], chain.get("filters", []))
    ]
