"""What an operator can set about the endpoint picker."""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from extproc.config.memory import memory_limit
from extproc.exchange.settings import ExchangeSettings
from extproc.picking.admission.settings import AdmissionSettings
from extproc.picking.director import ENDPOINTS_PER_PICK, IN_FLIGHT_EXPIRY
from extproc.picking.endpoint_health import HealthPolicy
from extproc.picking.scheduling.profiles import PROFILES
from extproc.picking.scraping import ScrapeSettings
from extproc.signals.active_checks import CheckSettings
from extproc.transport.h2 import Limits
from extproc.transport.listen import Address, overlap, parse_address
from extproc.transport.native import Upkeep
from extproc.transport.tls import TlsFiles
from pools.extras import install_command

GRACE = 10.0
"""Seconds that requests get to finish in, when the server stops."""
_AROUND_A_BODY = 1 << 20
"""Bytes of a message beside the body."""


class TransportKind(enum.StrEnum):
    """What carries the gRPC streams."""

    GRPCIO = "grpcio"
    NATIVE = "native"
    """Our own HTTP/2 server: the same exchanges at a fraction of the cost."""


@dataclass(frozen=True, slots=True)
class PickerConfig:
    """Addresses are ``host:port`` (port 0: any free one), ``[ipv6]:port``, ``:port`` for every
    interface, or ``unix:/path``. Raises ValueError for what cannot work."""

    address: str = "127.0.0.1:9002"
    """ext-proc, access log and health, for Envoy."""
    health_address: str | None = "127.0.0.1:9003"
    """Health alone, for probes; None: only on ``address``."""
    http_address: str | None = "127.0.0.1:9090"
    """Debug pages and metrics, which show the whole configuration; None: not served."""
    http_names: tuple[str, ...] = ()
    """Host names, beside localhost, under which browsers may ask for the debug pages."""
    transport: TransportKind = TransportKind.NATIVE
    limits: Limits = field(default_factory=Limits)
    """Of each connection to the native transport. ``max_message`` is raised where ``body_limit``
    asks for more: a buffered body comes in one message."""
    upkeep: Upkeep = field(default_factory=Upkeep)
    """How the native transport looks after connections."""
    tls: TlsFiles | None = None
    """For ``address``. Probes on ``health_address`` are always plain."""
    profile: str = "default"
    """How endpoints are chosen, in every pool, unless ``profiles`` says it."""
    profiles: Path | None = None
    """A file of profiles (docs/profiles.md), which is followed."""
    admission: AdmissionSettings | None = None
    """Lets requests wait while their pool is full, unless ``profiles`` says how; None: all are sent
    on at once."""
    exchange: ExchangeSettings = field(default_factory=ExchangeSettings)
    held_limit: int = 0
    """Bytes of all request bodies that are held at the same time; beyond it the largest is answered
    with 503. 0: a quarter of the memory that the process may use, but room for one body."""
    state: Path | None = None
    """Where what was learned is kept over a restart; None: nowhere."""
    kv_events_port: int | None = None
    """Where each pod publishes the events of its KV cache (vLLM over ZeroMQ); None: not used."""
    scrape: ScrapeSettings = field(default_factory=ScrapeSettings)
    health: HealthPolicy = field(default_factory=HealthPolicy)
    checks: CheckSettings = field(default_factory=CheckSettings)
    """Active health checks of endpoints; off unless an interval is given."""
    models_interval: float = 5.0
    """Seconds between two questions to one pod which models it serves; 0: never. Asked only where
    there are several pools, to find the pool of a request whose route names none."""
    endpoints_per_pick: int = ENDPOINTS_PER_PICK
    """The pick and its fallbacks, which Envoy's retries walk down."""
    in_flight_expiry: float = IN_FLIGHT_EXPIRY
    """Seconds after which a request whose end nobody reported is counted as over."""
    explain_header: bool = False
    """Whether a request with the header ``x-poolpilot-explain: true`` is told, in
    ``x-poolpilot-explanation``, why it went where it went. Shows addresses of pods to clients."""
    remembered_decisions: int = 1000
    """How many decisions can be read back."""
    trace_collector: str | None = None
    """Base URL of an OTLP/HTTP collector, such as ``http://otel-collector:4318``; None: no
    traces."""
    trace_share: float = 0.0
    """The share (0 to 1) that is traced of those requests whose trace nobody has begun."""
    request_log_share: float = 0.0
    """The share of requests (0 to 1) that get a log line when they end."""
    drain_delay: float = 0.0
    """Seconds between saying "not ready" and taking no more streams, when stopping. With several
    replicas, give it two of Envoy's health check intervals: until then Envoy still comes here."""

    def shown(self) -> object:
        """All of it for people, without passwords."""
        collector = self.trace_collector
        if collector is not None and "@" in collector:
            scheme, _, rest = collector.partition("://")
            collector = f"{scheme}://[redacted]@{rest.rpartition('@')[2]}"
        native = self.transport is TransportKind.NATIVE
        limits = self.transport_limits if native else self.limits
        return dataclasses.replace(
            self, trace_collector=collector, limits=limits, held_limit=self.bytes_held
        )

    @property
    def bytes_held(self) -> int:
        """The limit of all request bodies in force."""
        # A body is there once more while it is read or rewritten, and once more as answers.
        return self.held_limit or max(memory_limit() // 4, self.exchange.body_limit)

    @property
    def transport_limits(self) -> Limits:
        """The limits in force."""
        needed = self.exchange.body_limit + _AROUND_A_BODY
        if self.limits.max_message >= needed:
            return self.limits
        return dataclasses.replace(self.limits, max_message=needed)

    def __post_init__(self) -> None:
        if self.transport is not TransportKind.NATIVE and (self.limits, self.upkeep) != (
            Limits(),
            Upkeep(),
        ):
            raise ValueError("limits, upkeep: only the native transport has them")
        taken: dict[str, Address] = {}
        for name in ("address", "health_address", "http_address"):
            if (address := getattr(self, name)) is not None:
                try:
                    where = parse_address(address)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
                for other, there in taken.items():
                    if overlap(where, there):
                        raise ValueError(
                            f"{name}: {address} is also the {other}; give each one of its own"
                            if where == there
                            else f"{name}: {address} takes the port of {other}, {there}; give each"
                            " one of its own"
                        )
                taken[name] = where
        if self.profile not in PROFILES:
            known = ", ".join(sorted(PROFILES))
            raise ValueError(f"profile: there is no {self.profile!r}; choose one of {known}")
        if self.kv_events_port is not None and not 1 <= self.kv_events_port <= 65535:
            raise ValueError("kv_events_port: must be from 1 to 65535")
        if self.kv_events_port is not None and importlib.util.find_spec("zmq") is None:
            raise ValueError(f"kv_events_port: needs pyzmq: {install_command('kv-events')}")
        if self.held_limit and self.held_limit < self.exchange.body_limit:
            raise ValueError(
                f"held_limit: {self.held_limit} bytes have no room for one body of "
                f"{self.exchange.body_limit} (body_limit)"
            )
        if self.endpoints_per_pick < 1:
            raise ValueError("endpoints_per_pick: must be at least 1")
        if self.models_interval < 0:
            raise ValueError("models_interval: must not be negative")
        if self.in_flight_expiry <= 0:
            raise ValueError("in_flight_expiry: must be greater than 0 seconds")
        if self.remembered_decisions < 1:
            raise ValueError("remembered_decisions: must be at least 1")
        if not 0.0 <= self.request_log_share <= 1.0:
            raise ValueError("request_log_share: must be between 0 and 1")
        if self.trace_collector is not None and not self.trace_collector.startswith(
            ("http://", "https://")
        ):
            raise ValueError(
                f"trace_collector: {self.trace_collector!r} must begin with http:// or https://"
            )
        if not 0.0 <= self.trace_share <= 1.0:
            raise ValueError("trace_share: must be between 0 and 1")
        if self.drain_delay < 0:
            raise ValueError("drain_delay: must not be negative")
