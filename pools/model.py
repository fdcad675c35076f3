"""What both servers speak about: pools, their endpoints, and how requests reach them.

Everything here is an immutable value. A source (``pools.files``, ``pools.kubernetes``) reads the
outside world and yields a whole :class:`World` for each consistent state; nobody downstream ever
sees an event, so nobody can miss one.

Names and fields follow the Kubernetes kinds (InferencePool v1, InferenceObjective,
InferenceModelRewrite, the legacy InferenceModel, HTTPRoute, Gateway), reduced to one normal form.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True, order=True)
class ObjectName:
    """A namespaced name, written ``namespace/name``. Of kinds without namespaces, just a name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @classmethod
    def parse(cls, text: str) -> ObjectName:
        """Read ``namespace/name``, or ``name`` in the default namespace."""
        namespace, slash, name = text.partition("/")
        if not slash:
            namespace, name = DEFAULT_NAMESPACE, text
        if not namespace or not name or "/" in name:
            raise ValueError(f"{text!r} is not of the form namespace/name")
        return cls(namespace, name)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an object was read from, so that whatever goes wrong with it can say so."""

    kind: str
    name: ObjectName
    source: str = ""
    """A file's path relative to the watched directory, or ``kubernetes``."""
    line: int | None = None
    """1-based line of the object in its file."""
    api_version: str = ""
    uid: str = ""
    """Of an object of an API server, for its events."""
    generation: int = 0
    """Counts the changes of an object's spec; 0 outside an API server. What is reported of the
    object is reported of this generation."""

    def __str__(self) -> str:
        place = f" ({self.source}{f':{self.line}' if self.line is not None else ''})"
        return f"{self.kind} {self.name}{place if self.source else ''}"


class Severity(enum.StrEnum):
    ERROR = "error"
    """Something the user asked for is not in effect."""
    WARNING = "warning"
    """In effect, but probably not what the user wanted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a user must mend. ``str()`` is the one-line form shown everywhere."""

    severity: Severity
    message: str
    """What is wrong and what to do about it, in one sentence each."""
    origin: Origin | None = None
    source: str = ""
    """The file, when no object could be read from it."""
    line: int | None = None
    """1-based line of the field at fault, where known."""
    field: str = ""
    """Path of the field at fault, such as ``spec.targetPorts[0].number``."""

    def __str__(self) -> str:
        source = self.source or (self.origin.source if self.origin else "")
        line = self.line if self.line is not None else (self.origin.line if self.origin else None)
        where = f"{source}:{line}" if source and line is not None else source
        what = f"{self.origin.kind} {self.origin.name}" if self.origin else ""
        head = " ".join(part for part in (where and f"{where}:", what, self.field) if part)
        return f"{head.removesuffix(':')}: {self.message}" if head else self.message


class FailureMode(enum.StrEnum):
    """What Envoy does while the endpoint picker does not answer."""

    FAIL_OPEN = "FailOpen"
    """Picks a pod by itself."""
    FAIL_CLOSE = "FailClose"
    """Answers with an error."""


class AppProtocol(enum.StrEnum):
    """How Envoy speaks to the pods of a pool."""

    HTTP = "http"
    H2C = "kubernetes.io/h2c"


class BodyMode(enum.StrEnum):
    """How request bodies reach the endpoint picker (Envoy's processing mode).

    ``FULL_DUPLEX_STREAMED`` is the endpoint picker protocol's mode; ``BUFFERED`` is the only one in
    which Envoy fails open at every stage of a request with a body.
    """

    FULL_DUPLEX_STREAMED = "FullDuplexStreamed"
    BUFFERED = "Buffered"
    STREAMED = "Streamed"
    NONE = "None"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One port of one model server. Data-parallel pods have several endpoints."""

    address: str
    """A literal IPv4 or IPv6 address; names are resolved before they get here."""
    port: int
    name: str
    """The pod's (or host's) name."""
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics_port: int | None = None
    """Where ``/metrics`` is served, if not on ``port``."""
    draining: bool = False
    """Requests in progress finish, but new ones go elsewhere."""

    @property
    def key(self) -> str:
        """``ip:port`` (``[ip]:port`` for IPv6), the form of the endpoint picker protocol."""
        return host_port(self.address, self.port)

    @property
    def metrics_address(self) -> str:
        return host_port(self.address, self.metrics_port or self.port)


def host_port(address: str, port: int) -> str:
    """Join an IP address and a port, with brackets around IPv6."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def is_ip(address: str) -> bool:
    """Whether ``address`` is a literal IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class PickerRef:
    """The endpoint picker that an InferencePool names (``endpointPickerRef``)."""

    name: str
    port: int | None = None
    """The Service's port. v1alpha2 pools may leave it out: 9002."""
    group: str = ""
    kind: str = "Service"


@dataclass(frozen=True, slots=True)
class InferencePool:
    """A set of model servers that can stand in for one another."""

    name: ObjectName
    target_ports: tuple[int, ...]
    selector: Mapping[str, str] = field(default_factory=dict)
    picker: PickerRef | None = None
    failure_mode: FailureMode = FailureMode.FAIL_CLOSE
    app_protocol: AppProtocol = AppProtocol.HTTP
    body_mode: BodyMode = BodyMode.FULL_DUPLEX_STREAMED
    """Annotation ``poolpilot.dev/request-body-mode``; without it, ``BUFFERED`` where the pool fails
    open (a full-duplex exchange can no longer be opened once a body chunk was sent)."""
    origin: Origin | None = None


class Criticality(enum.StrEnum):
    """The legacy InferenceModel's importance. The protocol's priorities map onto it: negative is
    sheddable, zero standard, positive critical."""

    CRITICAL = "Critical"
    STANDARD = "Standard"
    SHEDDABLE = "Sheddable"


@dataclass(frozen=True, slots=True)
class TargetModel:
    """One way that a requested model name may be served, with its share of the traffic."""

    name: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class InferenceModel:
    """Legacy: a model name that users ask for, and what serves it."""

    name: ObjectName
    pool: ObjectName
    model_name: str
    criticality: Criticality = Criticality.STANDARD
    targets: tuple[TargetModel, ...] = ()
    """Empty: ``model_name`` itself."""
    created: str = ""
    """RFC 3339 creation time where known: of two objects for one model name the older wins."""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class InferenceObjective:
    """A priority that requests can ask for by name (header ``x-gateway-inference-objective``)."""

    name: ObjectName
    pool: ObjectName
    priority: int = 0
    """Higher goes first; negative is sheddable."""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """Requests for one of ``models`` (empty: any) are served by one of ``targets``."""

    models: tuple[str, ...]
    targets: tuple[TargetModel, ...]


@dataclass(frozen=True, slots=True)
class InferenceModelRewrite:
    """Model name rewrites of a pool. An exact match wins over a generic one, then the older
    object, then the earlier rule."""

    name: ObjectName
    pool: ObjectName
    rules: tuple[RewriteRule, ...]
    created: str = ""
    origin: Origin | None = None


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
    """Types of filters that are valid and that we have not: the rule must not be served as if they
    were not there."""


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


class ListenerProtocol(enum.StrEnum):
    HTTP = "HTTP"
    HTTPS = "HTTPS"


@dataclass(frozen=True, slots=True)
class LabelRequirement:
    """One of a label selector's ``matchExpressions``."""

    key: str
    operator: str
    """``In``, ``NotIn``, ``Exists`` or ``DoesNotExist``."""
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
        raise ValueError(f"operator {self.operator!r} is not one of a label selector")


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All of its requirements must hold. Without any, everything is selected."""

    requirements: tuple[LabelRequirement, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.holds(labels) for requirement in self.requirements)


class NamespacesFrom(enum.StrEnum):
    ALL = "All"
    SAME = "Same"
    SELECTOR = "Selector"
    NONE = "None"


@dataclass(frozen=True, slots=True)
class AllowedRoutes:
    """Which HTTPRoutes may attach to a listener."""

    namespaces: NamespacesFrom = NamespacesFrom.SAME
    selector: LabelSelector = LabelSelector()
    """Of namespaces, with ``SELECTOR``."""
    http_routes: bool = True
    """Whether HTTPRoute is among the allowed kinds."""
    unknown_kinds: tuple[str, ...] = ()
    """Allowed kinds of routes that are none of ours."""


@dataclass(frozen=True, slots=True)
class CertificateRef:
    """The Secret with a listener's certificate."""

    name: ObjectName
    unknown_kind: str = ""
    """``group/kind`` of a reference to something other than a Secret."""


@dataclass(frozen=True, slots=True)
class ListenerProblem:
    """In the words of the Gateway API: a reason of the listener's ``Accepted`` condition."""

    reason: str
    """``UnsupportedProtocol``, ``UnsupportedValue`` or ``Invalid``."""
    message: str


@dataclass(frozen=True, slots=True)
class GatewayListener:
    name: str
    port: int
    protocol: ListenerProtocol = ListenerProtocol.HTTP
    hostname: str | None = None
    certificates: tuple[CertificateRef, ...] = ()
    """Of an HTTPS listener: Secrets, the first that fits the client's name is shown."""
    allowed: AllowedRoutes = AllowedRoutes()
    problem: ListenerProblem | None = None
    """Why it cannot be served, whatever else is there."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A set of listeners that one group of Envoys serves."""

    name: ObjectName
    listeners: tuple[GatewayListener, ...]
    origin: Origin | None = None
    class_name: str = ""


@dataclass(frozen=True, slots=True)
class GatewayClass:
    """Whose the Gateways of one class are."""

    name: ObjectName
    controller: str
    """Such as ``poolpilot.dev/gateway-controller``."""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class TlsCertificate:
    """A Secret of type ``kubernetes.io/tls``. Its parts are never printed."""

    name: ObjectName
    chain: bytes = field(repr=False)
    """PEM."""
    key: bytes = field(repr=False)
    """PEM."""
    problem: str = ""
    """Why it cannot be used; then chain and key are empty."""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service, and who answers there."""

    port: int
    name: str = ""
    app_protocol: str = ""
    """Such as ``kubernetes.io/h2c``."""
    addresses: tuple[tuple[str, int], ...] = ()
    """IP address and port of those that are ready, sorted."""


@dataclass(frozen=True, slots=True)
class Service:
    """An ordinary Service with what its EndpointSlices say."""

    name: ObjectName
    ports: tuple[ServicePort, ...] = ()
    external: bool = False
    """Of type ExternalName: nothing may be sent there."""
    origin: Origin | None = None

    def port(self, number: int | None) -> ServicePort | None:
        return next((port for port in self.ports if port.port == number), None)


@dataclass(frozen=True, slots=True)
class ReferenceGrant:
    """Objects ``to`` in its own namespace may be named by objects ``sources`` in others."""

    name: ObjectName
    sources: tuple[tuple[str, str, str], ...]
    """Group, kind and namespace."""
    targets: tuple[tuple[str, str, str | None], ...]
    """Group, kind and name; None: every name."""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class AbsentEndpoint:
    """A model server that was described or found, and why nothing is sent to it."""

    name: str
    """The pod's, or the host's DNS name."""
    reason: str
    """``not Ready since 12:03: containers with unready status: [vllm]``."""
    pool: ObjectName | None = None
    address: str = ""
    """Its IP address, where it has one."""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
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
    services: Mapping[ObjectName, Service] = field(default_factory=dict)
    grants: tuple[ReferenceGrant, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Labels of each namespace."""
    of_cluster: bool = False
    """It was read from an API server: a Service that is not in ``services`` does not exist, and
    references across namespaces need a grant. Otherwise Services are found by DNS."""

    def endpoints_of(self, pool: ObjectName) -> tuple[Endpoint, ...]:
        return self.endpoints.get(pool, ())
