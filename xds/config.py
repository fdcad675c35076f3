"""How the xDS server listens, whom it lets in, and what it refuses."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path

GRACE = 5.0
"""Seconds that streams get to end in, when the server stops."""


@dataclass(frozen=True, slots=True)
class Authorisation:
    """Which nodes a client with this certificate may be. Patterns are shell patterns (``*``)."""

    identity: str
    """Matched against each subject alternative name and the common name of the certificate."""
    nodes: tuple[str, ...] = ("*",)
    """Node ids that it may claim."""


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """PEM files. They are read again when they change, without a restart."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Clients must show a certificate of this authority."""
    authorised: tuple[Authorisation, ...] = ()
    """Empty: every client whose certificate is valid may be any node. Needs ``client_ca``."""

    def __post_init__(self) -> None:
        if self.authorised and self.client_ca is None:
            raise ValueError(
                "TLS: clients cannot be authorised by certificate without client_ca; set client_ca"
            )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask for; beyond it, it gets a clear error and the others are unharmed."""

    streams: int = 5_000
    streams_per_peer: int = 500
    """A peer is an IP address. An Envoy has one stream with ADS, otherwise one for each
    subscription, and each cluster's endpoints are one."""
    names: int = 20_000
    """Names subscribed to, of one type on one stream."""
    message_bytes: int = 4 * 1024 * 1024
    """Largest request. A Delta client that comes back tells each resource it has."""
    first_request_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class XdsServerConfig:
    host: str = "127.0.0.1"
    port: int = 18000
    """0: any free port, told by ``XdsServer.port``."""
    identifier: str = field(default_factory=lambda: f"poolpilot/{platform.node()}")
    """Told to clients in each response (``control_plane.identifier`` in Envoy's stats)."""
    tls: TlsConfig | None = None
    limits: Limits = Limits()
    keepalive_seconds: float = 30.0
    keepalive_timeout_seconds: float = 10.0
    max_connection_age_seconds: float | None = None
    """After this, connections are closed so that clients spread over replicas anew."""
    debounce_seconds: float = 0.01
    """The first change of a burst goes out at once, the rest together after this."""
    phase_timeout_seconds: float = 2.0
    """How long a phase of a rollout waits for a client's ACKs. Envoy warms for 15 s at most."""
    log_entries: int = 50
    """Exchanges remembered for each stream."""
    history_entries: int = 50
    """Snapshots remembered for each group of nodes."""
