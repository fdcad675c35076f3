"""HTTPRoutes: which requests go where, and what is done to them."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from pools.model.objects import ObjectName, Origin

HTTP_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What the name of a header or method may be (RFC 9110 5.6.2), as a whole."""
REDIRECTS = (301, 302, 303, 307, 308)
"""Statuses that a redirect may have."""


class PathMatchType(enum.StrEnum):
    EXACT = "Exact"
    PREFIX = "PathPrefix"
    """Matches whole path elements: ``/v1`` matches ``/v1`` and ``/v1/x``, not ``/v1x``."""
    REGEX = "RegularExpression"


class ValueMatchType(enum.StrEnum):
    EXACT = "Exact"
    REGEX = "RegularExpression"


@dataclass(frozen=True, slots=True)
class PathMatch:
    type: PathMatchType = PathMatchType.PREFIX
    value: str = "/"


@dataclass(frozen=True, slots=True)
class ValueMatch:
    """A match on one header or query parameter."""

    name: str
    value: str
    type: ValueMatchType = ValueMatchType.EXACT


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """All of these must match."""

    path: PathMatch = PathMatch()
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()
    method: str | None = None


@dataclass(frozen=True, slots=True)
class HeaderChanges:
    """What happens to the headers of a request or response. Names are lower-case."""

    set: tuple[tuple[str, str], ...] = ()
    """Name and value; replaces what is there."""
    add: tuple[tuple[str, str], ...] = ()
    """Appended to what is there."""
    remove: tuple[str, ...] = ()


class PathChangeType(enum.StrEnum):
    FULL = "ReplaceFullPath"
    PREFIX = "ReplacePrefixMatch"
    """Replaces what the rule's PathPrefix matched."""


@dataclass(frozen=True, slots=True)
class PathChange:
    type: PathChangeType
    value: str


@dataclass(frozen=True, slots=True)
class UrlRewrite:
    """What the backend is asked for instead."""

    hostname: str | None = None
    path: PathChange | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """The client is sent elsewhere. What is None stays as it was in the request."""

    scheme: str | None = None
    hostname: str | None = None
    port: int | None = None
    path: PathChange | None = None
    status: int = 302


@dataclass(frozen=True, slots=True)
class Filters:
    """What a rule (or one of its backends) does to requests and responses."""

    request_headers: HeaderChanges = HeaderChanges()
    response_headers: HeaderChanges = HeaderChanges()
    rewrite: UrlRewrite | None = None
    redirect: Redirect | None = None
    unsupported: tuple[str, ...] = ()
    """Types of filters (or another setting, such as ``sessionPersistence``) that are valid and that
    we have not: the rule must not be served as if they were not there."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and after which answers, a request is tried again."""

    attempts: int | None = None
    """Further tries; None: as many as the operator set."""
    codes: tuple[int, ...] = ()
    """Statuses of a backend after which to try again, besides those that always are."""
    backoff: float | None = None
    """Seconds before the next try, at least."""


class BackendKind(enum.StrEnum):
    INFERENCE_POOL = "InferencePool"
    SERVICE = "Service"


@dataclass(frozen=True, slots=True)
class RouteBackend:
    """Where a rule sends requests. The port is ignored for an InferencePool, as the API says."""

    name: ObjectName
    kind: BackendKind = BackendKind.INFERENCE_POOL
    weight: int = 1
    port: int | None = None
    filters: Filters = Filters()
    """For its share of the requests alone. Only header changes."""
    unknown_kind: str = ""
    """``group/kind`` of a reference to something that is no backend here; then ``kind`` says
    nothing."""


@dataclass(frozen=True, slots=True)
class RouteRule:
    matches: tuple[RouteMatch, ...] = (RouteMatch(),)
    """One of these must match."""
    backends: tuple[RouteBackend, ...] = ()
    request_timeout: float | None = None
    """Seconds for the whole request; 0 or None is no limit."""
    backend_timeout: float | None = None
    """Seconds for each try; 0 or None is no limit."""
    line: int | None = None
    filters: Filters = Filters()
    retry: Retry | None = None


@dataclass(frozen=True, slots=True)
class ParentRef:
    """The Gateway (and listener) that a route attaches to."""

    gateway: ObjectName
    section: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class HTTPRoute:
    name: ObjectName
    hostnames: tuple[str, ...] = ()
    """Empty: any."""
    parents: tuple[ParentRef, ...] = ()
    """Empty: every gateway (allowed only without Kubernetes)."""
    rules: tuple[RouteRule, ...] = ()
    created: str = ""
    origin: Origin | None = None
    by_model: bool = False
    """Annotation ``poolpilot.dev/route-by-model: "true"``: of a rule's pools, that which serves the
    request's model gets it; weights then only count for what names no pool."""
    of_others: bool = False
    """It names parents, and none is a Gateway: it belongs to a service mesh. No World has it."""
