"""``PoolEndpoints``: our own kind, which says where the servers of a pool are without Kubernetes.

Addresses stay as they were written; ``pools.dns`` resolves names and ``pools.assemble`` joins both
with the pool.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from pools.addresses import no_host
from pools.manifests.fields import (
    Fields,
    Place,
    boolean,
    duration,
    labels,
    list_of,
    namespace_name,
    object_name,
    port_number,
    struct,
    text,
    unique,
    word,
)
from pools.manifests.inference import MAX_TARGET_PORTS
from pools.manifests.meta import Meta
from pools.model import Host, ObjectName, PoolEndpoints
from pools.model.endpoints import DEFAULT_REFRESH
from pools.well_known import POOL_GROUPS

MIN_REFRESH = 0.1

_DNS_NAME = re.compile(
    r"(?=.{1,253}\.?$)([A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?\.)*"
    r"(?![0-9]+\.?$)[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?\.?"
)
_WITH_PORT = re.compile(r"(\[.*\]|[^:]+):[0-9]+")


def pool_endpoints(meta: Meta, spec: Fields) -> PoolEndpoints:
    common = spec.optional("labels", labels(), {})
    pool = spec.required("poolRef", struct(lambda ref: _pool(meta.name.namespace, ref)))
    refresh = spec.optional("refresh", _refresh, DEFAULT_REFRESH)
    hosts = spec.required("endpoints", list_of(struct(lambda host: _host(common, host))))
    return PoolEndpoints(meta.name, pool, hosts, refresh, meta.origin)


def _pool(namespace: str, ref: Fields) -> ObjectName:
    ref.optional("group", word(*POOL_GROUPS), "")
    ref.optional("kind", word("InferencePool"), "")
    return ObjectName(
        ref.optional("namespace", namespace_name, namespace), ref.required("name", object_name)
    )


_read_ports = list_of(port_number, 1, MAX_TARGET_PORTS)
_read_labels = labels()
_read_name = text("a name", high=253)


def _host(common: Mapping[str, str], fields: Fields) -> Host:
    address, is_name = fields.required("address", _address)
    ports_at = fields.get("ports")
    ports = fields.optional("ports", _read_ports, ())
    unique(ports_at, ports, "ports")
    own = fields.optional("labels", _read_labels, {})
    return Host(
        address,
        is_name,
        fields.optional("name", _read_name, ""),
        ports,
        fields.optional("metricsPort", port_number, None),
        {**common, **own} if own else common,
        fields.optional("draining", boolean, False),
        fields.place.line,
    )


def _address(place: Place) -> tuple[str, bool]:
    value = place.node.value
    if not isinstance(value, str):
        place.must_be("an IP address or a DNS name")
        return "", False
    try:
        ip = ipaddress.ip_address(value)
    except ValueError:
        pass
    else:
        if "%" in value:
            place.must_be("the address of one host, without a zone")
        elif reason := no_host(value):
            place.error(f"must be the address of one host; {value} {reason}")
        return str(ip), False
    if _WITH_PORT.fullmatch(value):
        place.error(f"must be an address without a port, not {value!r}: put the port into 'ports'")
    elif value.startswith("["):
        place.error(f"must be an address without brackets, not {value!r}")
    elif not _DNS_NAME.fullmatch(value):
        place.must_be("an IPv4 address, an IPv6 address or a DNS name")
    return value.lower(), True


def _refresh(place: Place) -> float:
    value = place.node.value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    seconds = float(value) if number else duration(place)  # type: ignore[arg-type]  # a number
    if seconds < MIN_REFRESH or seconds > 86_400:
        if number or (place.report and not place.report.failed):
            place.error(f"must be from {MIN_REFRESH} seconds to 24 hours")
        return DEFAULT_REFRESH
    return seconds
