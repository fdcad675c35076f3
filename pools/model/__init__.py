"""What both servers speak about: pools, their endpoints, and how requests reach them.

Everything here is an immutable value. A source (``pools.files``, ``pools.kubernetes``) reads the
outside world and yields a whole :class:`World` for each consistent state; nobody downstream ever
sees an event, so nobody can miss one.

Names and fields follow the Kubernetes kinds (InferencePool v1, InferenceObjective,
InferenceModelRewrite, the legacy InferenceModel, HTTPRoute, Gateway), reduced to one normal form.
"""

from __future__ import annotations

from pools.model.cluster import (
    EndpointSlice,
    Namespace,
    Pod,
    ReferenceGrant,
    Service,
    ServicePort,
    TlsCertificate,
)
from pools.model.endpoints import Host, PoolEndpoints
from pools.model.gateway import (
    AllowedRoutes,
    CertificateRef,
    Gateway,
    GatewayClass,
    GatewayListener,
    ListenerProblem,
    ListenerProtocol,
    NamespacesFrom,
)
from pools.model.inference import (
    AbsentEndpoint,
    AppProtocol,
    BodyMode,
    Criticality,
    Endpoint,
    FailureMode,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    InferencePool,
    PickerRef,
    RewriteRule,
    TargetModel,
)
from pools.model.labels import LabelOperator, LabelRequirement, LabelSelector
from pools.model.objects import DEFAULT_NAMESPACE, ObjectName, Origin, Problem, Severity, seniority
from pools.model.route import (
    HTTP_TOKEN,
    REDIRECTS,
    BackendKind,
    Filters,
    HeaderChanges,
    HTTPRoute,
    ParentRef,
    PathChange,
    PathChangeType,
    PathMatch,
    PathMatchType,
    Redirect,
    Retry,
    RouteBackend,
    RouteMatch,
    RouteRule,
    UrlRewrite,
    ValueMatch,
    ValueMatchType,
)
from pools.model.world import World

__all__ = [
    "DEFAULT_NAMESPACE",
    "HTTP_TOKEN",
    "REDIRECTS",
    "AbsentEndpoint",
    "AllowedRoutes",
    "AppProtocol",
    "BackendKind",
    "BodyMode",
    "CertificateRef",
    "Criticality",
    "Endpoint",
    "EndpointSlice",
    "FailureMode",
    "Filters",
    "Gateway",
    "GatewayClass",
    "GatewayListener",
    "HTTPRoute",
    "HeaderChanges",
    "Host",
    "InferenceModel",
    "InferenceModelRewrite",
    "InferenceObjective",
    "InferencePool",
    "LabelOperator",
    "LabelRequirement",
    "LabelSelector",
    "ListenerProblem",
    "ListenerProtocol",
    "Namespace",
    "NamespacesFrom",
    "ObjectName",
    "Origin",
    "ParentRef",
    "PathChange",
    "PathChangeType",
    "PathMatch",
    "PathMatchType",
    "PickerRef",
    "Pod",
    "PoolEndpoints",
    "Problem",
    "Redirect",
    "ReferenceGrant",
    "Retry",
    "RewriteRule",
    "RouteBackend",
    "RouteMatch",
    "RouteRule",
    "Service",
    "ServicePort",
    "Severity",
    "TargetModel",
    "TlsCertificate",
    "UrlRewrite",
    "ValueMatch",
    "ValueMatchType",
    "World",
    "seniority",
]
