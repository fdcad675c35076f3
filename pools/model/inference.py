"""Pools, their endpoints, and the models that they serve: the kinds of the inference extension."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from pools.addresses import host_port
from pools.model.objects import ObjectName, Origin


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
