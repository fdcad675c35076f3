"""Names that Envoy's configuration and the endpoint picker share, written in one place.

The picker speaks them too (endpoint picker protocol P4 to P10, P18), but the two servers never
import each other: what crosses the wire is the contract.
"""

from __future__ import annotations

from pools.attachment import ServiceRef
from pools.model import ObjectName

DESTINATION = "x-gateway-destination-endpoint"
"""Header and metadata key of the picked endpoints (P8, P9)."""
SERVED = "x-gateway-destination-endpoint-served"
"""Metadata key of the endpoint that answered (P18)."""
LB_NAMESPACE = "envoy.lb"
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
"""Metadata that restricts the pick (P4)."""
OWN_NAMESPACE = "poolpilot"
"""Metadata of our own picker: the key ``pick`` names the decision."""
PICK_KEY = "pick"
USAGE_NAMESPACE = "poolpilot.usage"
"""Token counts that Envoy read from the response: ``prompt_tokens``, ``completion_tokens``,
``cached_tokens`` (part of the prompt's), ``cache_read_tokens`` (cached too, but to be added to the
prompt's) and ``cache_creation_tokens`` (to be added as well: the Anthropic API leaves both out, and
Envoy cannot add)."""
POOL_METADATA = "x-inference-pool"
"""gRPC initial metadata that tells the picker which pool Envoy's route chose."""
EXPLANATION_HEADER = "x-poolpilot-explanation"
"""Request header in which the picker explains its pick; copied into the response."""
POOL_HEADER = "x-poolpilot-pool"
"""Request header with which a picker names the pool of a request whose route named none. Never
taken from clients."""

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
