"""What an operator may choose about the configuration that Envoy gets."""

from __future__ import annotations

from dataclasses import dataclass, field

from pools.addresses import is_ip, split_host_port
from pools.attachment import OWN_PICKERS

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SocketAddress:
    host: str
    """A literal IP address or a DNS name."""
    port: int

    @classmethod
    def parse(cls, text: str) -> SocketAddress:
        """Read ``host:port`` or ``[ipv6]:port``. Raises ValueError."""
        host, port = split_host_port(text)
        if not host:
            raise ValueError(f"{text!r} is not of the form host:port")
        if not port:
            raise ValueError(f"{text!r}: ports go from 1 to 65535")
        return cls(host, port)


@dataclass(frozen=True, slots=True)
class Pipe:
    """A Unix domain socket, written ``unix:/path``."""

    path: str


TargetAddress = SocketAddress | Pipe


def parse_target(text: str) -> TargetAddress:
    """Read ``host:port``, ``[ipv6]:port`` or ``unix:/path``."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise ValueError(f"{text!r}: a path must follow unix:")
        return Pipe(path)
    return SocketAddress.parse(text)


@dataclass(frozen=True, slots=True)
class PickerTls:
    """How Envoy verifies the endpoint picker, and what it shows to it. All is PEM text, which is
    sent to Envoys: they need no files."""

    ca: str
    """Who signed the picker's certificate."""
    certificate: str | None = None
    """The chain that Envoy shows."""
    key: str | None = field(default=None, repr=False)
    name: str | None = None
    """DNS name that the certificate must have and that is asked for (SNI). None: the host names of
    the targets; where they are IP addresses or Unix sockets, only who signed it counts."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate needs its key, and a key its certificate")
        if any("PRIVATE KEY" in text for text in (self.ca, self.certificate or "")):
            # Certificates are shown on debug pages.
            raise ValueError("endpoint picker: a private key stands among certificates")
        if self.name is not None and (not self.name or is_ip(self.name)):
            raise ValueError(f"endpoint picker: {self.name!r} is not a DNS name")


@dataclass(frozen=True, slots=True)
class ExtProcSettings:
    """Where the endpoint picker is, and how long Envoy has patience with it."""

    targets: tuple[TargetAddress, ...] = (SocketAddress("127.0.0.1", 9002),)
    """All replicas of the picker: the first healthy one makes all picks, the others stand by. DNS
    names are resolved again and again, and each is to lead to one replica; Unix sockets and names
    do not go together."""
    message_timeout: float = 10.0
    """Seconds per message. Does not apply to full-duplex bodies, where the picker itself keeps the
    deadline."""
    health_port: int | None = None
    """Where the picker answers gRPC health checks, if not on its own port."""
    health_interval: float = 1.0
    health_timeout: float = 1.0
    """Half a second flaps when the CPU is busy."""
    settable_headers: tuple[str, ...] = (
        "x-(?:request-id|(?:data-parallel|gateway|poolpilot|prefiller)-[!-~]*)",
        "content-(?:length|type)",
        "trace(?:parent|state)",
        "retry-after",
    )
    """Regular expressions of the headers that the picker may set, on requests and on the answers it
    gives itself; others are dropped.
    Together they must stay small: an Envoy whose bootstrap does not raise RE2's limit (ours does)
    rejects a program of more than 100 instructions, so they have no groups that capture, and no
    dot, which stands for all of Unicode."""
    hidden_headers: tuple[str, ...] = (
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-api-key",
        "api-key",
    )
    """Request headers that the picker never sees."""
    tls: PickerTls | None = None
    """None: plain text. Health checks use it too, so what answers on ``health_port`` must."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("the endpoint picker needs at least one address")
        pipes = sum(isinstance(target, Pipe) for target in self.targets)
        if pipes and self.resolved_by_dns:
            raise ValueError("endpoint picker: use either Unix sockets or DNS names, not both")
        if pipes and self.health_port is not None:
            raise ValueError("endpoint picker: a Unix socket has no separate health port")
        named = sum(map(_is_named, self.targets))
        if self.tls is not None and self.tls.name is None and 0 < named < len(self.targets):
            raise ValueError(
                "endpoint picker: with TLS, use either IP addresses or DNS names, or say which name"
                " its certificate has"
            )

    @property
    def resolved_by_dns(self) -> bool:
        return any(map(_is_named, self.targets))


def _is_named(target: TargetAddress) -> bool:
    return isinstance(target, SocketAddress) and not is_ip(target.host)


@dataclass(frozen=True, slots=True)
class TranslateSettings:
    listen_address: str = "0.0.0.0"
    """Where listeners bind. ``::`` takes IPv4 as well."""
    listen_port: int = 8081
    """Of the listener that exists when no Gateway is described. 0: any free one, which Envoy's
    admin interface tells."""
    reuse_port: bool = True
    """SO_REUSEPORT: spreads connections over Envoy's threads, but lets a second process listen on
    the same port without an error. Off for one Envoy on a workstation."""
    ext_proc: ExtProcSettings = field(default_factory=ExtProcSettings)
    access_log: bool = True
    """One line of JSON per request on Envoy's standard output."""
    completion_log: bool = True
    """Tell the picker how each picked request ended (gRPC access log)."""
    completion_interval: float = 0.05
    """Seconds for which Envoy may hold those entries back."""
    token_usage: bool = True
    """Read token counts from responses into the access log."""
    trace_collector: SocketAddress | None = None
    """OTLP/HTTP collector to which Envoy sends a span of each traced request; None: no traces."""
    trace_share: float = 1.0
    """The share (0 to 1) that is traced of those requests whose client has not begun a trace."""
    stream_idle_timeout: float = 600.0
    """Seconds without a byte in either direction before a request is given up. Bounds the time to
    the first token, and an endpoint picker that hangs."""
    connect_timeout: float = 1.0
    """Seconds until a pod that does not accept connections is passed over."""
    pod_idle_timeout: float = 4.0
    """Seconds for which an idle connection to a pod is kept. Less than the pod's own limit (vLLM
    and uvicorn: 5), or Envoy reuses a connection that the pod is closing."""
    body_limit: int = 32 * MEBIBYTE
    """Bytes of a request body that are kept for retries, and the limit of buffered bodies."""
    retries: int = 3
    """Further endpoints that are tried when one does not answer."""
    trusted_proxies: int = 0
    """Proxies in front of Envoy whose X-Forwarded-For is believed."""
    cluster_domain: str = "cluster.local"
    """DNS domain in which the Services of HTTPRoutes are looked up."""
    own_pickers: frozenset[str] = OWN_PICKERS
    """Services that pools name in order to be served by our picker: ``name`` in any namespace, or
    ``namespace/name``. Other Services are pickers of their own."""

    def __post_init__(self) -> None:
        if not is_ip(self.listen_address):
            raise ValueError(f"listen_address {self.listen_address!r} is not an IP address")
        if not 0.0 <= self.trace_share <= 1.0:
            raise ValueError(f"trace_share {self.trace_share}: must be between 0 and 1")
        if not 0 <= self.listen_port <= 65535:
            raise ValueError(f"listen_port {self.listen_port}: ports go up to 65535")
