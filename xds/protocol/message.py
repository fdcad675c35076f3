"""What a client says and what it is told, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from xds.resource import Resource
from xds.snapshot import Node


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """The reason for a NACK, in the client's words."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class SotwRequest:
    """A DiscoveryRequest (State-of-the-World)."""

    type_url: str
    names: tuple[str, ...] = ()
    version: str = ""
    nonce: str = ""
    error: ErrorDetail | None = None
    node: Node | None = None


@dataclass(frozen=True, slots=True)
class DeltaRequest:
    """A DeltaDiscoveryRequest."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: ErrorDetail | None = None
    node: Node | None = None


Request = SotwRequest | DeltaRequest


@dataclass(frozen=True, slots=True)
class Response:
    """One response to send. ``version`` is SotW's version_info, Delta's system_version_info."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()
    """Delta only."""
    changes: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    """What the client did not have before: name to new version, None for a removal. In SotW the
    full set is sent although little of it is new."""
