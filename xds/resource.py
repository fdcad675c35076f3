"""A resource as xDS sees it: a name, a type, and bytes that never change.

Resources are authored as messages once, packed once, and only bytes move afterwards. The version is
a hash of the bytes, so that it is the same after a restart and on every replica.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

_PREFIX = "type.googleapis.com/"

LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = _PREFIX + "envoy.config.route.v3.RouteConfiguration"
SCOPED_ROUTE = _PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration"
VIRTUAL_HOST = _PREFIX + "envoy.config.route.v3.VirtualHost"
CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
RUNTIME = _PREFIX + "envoy.service.runtime.v3.Runtime"
EXTENSION_CONFIG = _PREFIX + "envoy.config.core.v3.TypedExtensionConfig"

TYPES = (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ROUTE,
    SCOPED_ROUTE,
    VIRTUAL_HOST,
    SECRET,
    RUNTIME,
    EXTENSION_CONFIG,
)
"""Every type served, in the order in which new resources must reach a proxy."""


def version_of(body: bytes) -> str:
    """The version of a resource with these bytes: 16 hex digits of their SHA-256."""
    return hashlib.sha256(body).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Resource:
    type_url: str
    name: str
    body: bytes = field(repr=False)
    """The serialised message, without the Any around it."""
    version: str = ""
    origin: str = ""
    """Where it comes from, for people: ``InferencePool default/llama (pools.yaml:3)``."""
    needs: tuple[tuple[str, str], ...] = ()
    """(type URL, name) of each resource that this one refers to and that must be in the same
    snapshot: a listener its route configurations, a route its clusters, a cluster its endpoints."""

    def __post_init__(self) -> None:
        if not self.version:
            object.__setattr__(self, "version", version_of(self.body))
