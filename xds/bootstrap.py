"""The configuration that an Envoy starts with: who it is, and where to ask for everything else.

Envoy's ``/ready`` turns LIVE a few seconds after start even when the xDS server cannot be reached,
with no listener at all. Probe the listener's port instead, or ask the admin port for
:data:`ACTIVE_LISTENERS` and read the answer with :func:`active_listeners`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import yaml

from pools.addresses import is_ip
from pools.expressions import MOST_INSTRUCTIONS
from xds.translate.settings import Pipe, SocketAddress, TargetAddress

ACTIVE_LISTENERS = "/stats?format=json&filter=^listener_manager.total_listeners_active$"
"""Path on Envoy's admin port that tells how many listeners are serving."""

XDS_CLUSTER = "xds"

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files on Envoy's machine with which it trusts the xDS server and proves who it is."""

    ca: str
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None
    """Name in the server's certificate, where it differs from the address."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate needs its key, and a key its certificate")


@dataclass(frozen=True, slots=True)
class BootstrapSettings:
    node_id: str = "envoy"
    node_cluster: str = "poolpilot"
    gateway: str | None = None
    """``namespace/name`` of the Gateway whose listeners this Envoy serves."""
    xds: tuple[TargetAddress, ...] = (SocketAddress("127.0.0.1", 18000),)
    delta: bool = True
    """Incremental xDS; otherwise State-of-the-World."""
    tls: TlsFiles | None = None
    admin: SocketAddress = field(default_factory=lambda: SocketAddress("127.0.0.1", 19000))
    max_connections: int = 50_000
    """Of all clients together; further ones are turned away."""


_RECONNECT: Json = {"retry_back_off": {"base_interval": "0.25s", "max_interval": "5s"}}
"""How an Envoy waits before it asks again for a configuration, with jitter. Its own limit of 30 s
is long when the server was only replaced."""


def bootstrap(settings: BootstrapSettings | None = None) -> Json:
    """A bootstrap that takes listeners, routes, clusters and endpoints over one ADS stream."""
    settings = settings or BootstrapSettings()
    return {
        "node": _node(settings),
        "admin": {"address": _socket(settings.admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if settings.delta else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {"envoy_grpc": {"cluster_name": XDS_CLUSTER, "retry_policy": _RECONNECT}}
                ],
            },
            "cds_config": {"resource_api_version": "V3", "ads": {}},
            "lds_config": {"resource_api_version": "V3", "ads": {}},
        },
        "static_resources": {"clusters": [_xds_cluster(settings)]},
        **_limits(settings),
    }


def static_bootstrap(static_resources: Json, settings: BootstrapSettings | None = None) -> Json:
    """A bootstrap that asks nobody: for checking a configuration with Envoy itself."""
    settings = settings or BootstrapSettings()
    return {
        "node": _node(settings),
        "admin": {"address": _socket(settings.admin)},
        "static_resources": static_resources,
        **_limits(settings),
    }


def bootstrap_yaml(settings: BootstrapSettings | None = None) -> str:
    return envoy_yaml(bootstrap(settings))


class _Dumper(yaml.SafeDumper):
    """Quotes also what only Envoy's parser takes for a number or a truth."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]$"), list("yYnN"))
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+|0[xX][0-9a-fA-F.]+(?:[pP][-+]?[0-9]+)?)$"
    ),
    list("-+.0123456789"),
)


def envoy_yaml(*documents: Json) -> str:
    """A configuration file of Envoy's, or several, one after the other."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False)


def active_listeners(stats: str | bytes) -> int:
    """The number in Envoy's answer to :data:`ACTIVE_LISTENERS`; 0 if it is not there (yet)."""
    for stat in json.loads(stats).get("stats", ()):
        if stat.get("name") == "listener_manager.total_listeners_active":
            return int(stat["value"])
    return 0


def _node(settings: BootstrapSettings) -> Json:
    node: Json = {"id": settings.node_id, "cluster": settings.node_cluster}
    if settings.gateway is not None:
        node["metadata"] = {"gateway": settings.gateway}
    return node


def _limits(settings: BootstrapSettings) -> Json:
    connections = "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3"
    return {
        "layered_runtime": {
            "layers": [
                {
                    "name": "static",
                    # Long regular expressions in routes are accepted.
                    "static_layer": {"re2.max_program_size.error_level": MOST_INSTRUCTIONS},
                }
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{connections}.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": settings.max_connections,
                    },
                }
            ]
        },
    }


def _xds_cluster(settings: BootstrapSettings) -> Json:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    by_dns = any(isinstance(t, SocketAddress) and not is_ip(t.host) for t in settings.xds)
    cluster: Json = {
        "name": XDS_CLUSTER,
        "type": "STRICT_DNS" if by_dns else "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "connection_keepalive": {"interval": "30s", "timeout": "5s"}
                    }
                },
            }
        },
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": _address(target)}} for target in settings.xds
                    ]
                }
            ],
        },
    }
    if by_dns:
        cluster["dns_lookup_family"] = "V4_PREFERRED"
    if settings.tls is not None:
        cluster["transport_socket"] = _tls(settings.tls)
    return cluster


def _address(target: TargetAddress) -> Json:
    if isinstance(target, Pipe):
        return {"pipe": {"path": target.path}}
    return _socket(target)


def _socket(address: SocketAddress) -> Json:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _tls(files: TlsFiles) -> Json:
    common: Json = {"validation_context": {"trusted_ca": {"filename": files.ca}}}
    common["alpn_protocols"] = ["h2"]
    if files.certificate is not None:
        common["tls_certificates"] = [
            {
                "certificate_chain": {"filename": files.certificate},
                "private_key": {"filename": files.key},
            }
        ]
    context: Json = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common,
    }
    if files.server_name is not None:
        context["sni"] = files.server_name
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}
