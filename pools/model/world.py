"""One consistent state of everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pools.model.cluster import ReferenceGrant, Service, TlsCertificate
from pools.model.gateway import Gateway, GatewayClass
from pools.model.inference import (
    AbsentEndpoint,
    Endpoint,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    InferencePool,
)
from pools.model.objects import ObjectName, Origin, Problem
from pools.model.route import HTTPRoute


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One consistent state of everything a source knows. Never mutated.

    References inside a World may dangle (a route to a pool that is not there): that is the user's
    state, and each consumer decides what it means. What could not be read at all is in
    ``problems``, next to the last good version of it.
    """

    revision: int = 0
    """Counts up within one process; for people, not for equality."""
    pools: Mapping[ObjectName, InferencePool] = field(default_factory=dict)
    endpoints: Mapping[ObjectName, tuple[Endpoint, ...]] = field(default_factory=dict)
    """By pool, sorted by key. A pool without an entry has none."""
    models: tuple[InferenceModel, ...] = ()
    objectives: tuple[InferenceObjective, ...] = ()
    rewrites: tuple[InferenceModelRewrite, ...] = ()
    routes: tuple[HTTPRoute, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    problems: tuple[Problem, ...] = ()
    endpoint_origins: Mapping[str, Origin] = field(default_factory=dict)
    """Where each endpoint key came from."""
    absent: tuple[AbsentEndpoint, ...] = ()
    """Who could have been an endpoint and is none."""
    gateway_classes: tuple[GatewayClass, ...] = ()
    """Of ours alone, like ``gateways``."""
    certificates: Mapping[ObjectName, TlsCertificate] = field(default_factory=dict)
    """Those that a listener names."""
    services: Mapping[ObjectName, Service] = field(default_factory=dict)
    """Those that a route or a pool names."""
    grants: tuple[ReferenceGrant, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Labels of each namespace that has a route."""
    of_cluster: bool = False
    """It was read from an API server: a Service that is not in ``services`` does not exist, and
    references across namespaces need a grant. Otherwise Services are found by DNS."""
    unread: frozenset[str] = frozenset()
    """Kinds that may not be read, such as ``Secret``: that there is none of them means nothing."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to serve: no pool, no route, no Gateway."""
        return not (self.pools or self.routes or self.gateways)

    def endpoints_of(self, pool: ObjectName) -> tuple[Endpoint, ...]:
        return self.endpoints.get(pool, ())
