"""Names within Envoy's configuration: clusters, filters, secrets and logs.

What the endpoint picker speaks too stands in :mod:`pools.contract`.
"""

from __future__ import annotations

from pools.attachment import ServiceRef
from pools.model import ObjectName

EXT_PROC_CLUSTER = "ext-proc"
TRACE_CLUSTER = "trace-collector"
EXT_PROC_FILTER = "envoy.filters.http.ext_proc"
POOL_PICKER_FILTER = "envoy.filters.http.ext_proc/pool-picker"
"""Asks the pickers of pools that have one of their own; only their routes turn it on."""
ACCESS_LOG = "poolpilot"
"""``log_name`` of the gRPC access log."""


POOL_CLUSTERS = "pool/"
"""What the names of the clusters of pools begin with."""


def pool_cluster(pool: ObjectName) -> str:
    """The cluster of a pool, which is also the name of its endpoints."""
    return f"{POOL_CLUSTERS}{pool}"


def service_cluster(service: ObjectName, port: int) -> str:
    return f"service/{service}/{port}"


def picker_cluster(picker: ServiceRef) -> str:
    return f"picker/{picker.name}/{picker.port}"


def certificate_secret(certificate: ObjectName) -> str:
    return f"certificate/{certificate}"
