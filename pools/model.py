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


class ListenerProtocol(enum.StrEnum):
    HTTP = "HTTP"
    HTTPS = "HTTPS"


@dataclass(frozen=True, slots=True)
class GatewayListener:
    name: str
    port: int
    protocol: ListenerProtocol = ListenerProtocol.HTTP
    hostname: str | None = None


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

    def endpoints_of(self, pool: ObjectName) -> tuple[Endpoint, ...]:
        return self.endpoints.get(pool, ())
