"""What the server knows of its nodes, as values. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from xds.resource import Resource
from xds.snapshot import Node, Snapshot


class State(StrEnum):
    """Worst first."""

    ERROR = "ERROR"
    """The node has rejected something that it is still meant to have."""
    STALE = "STALE"
    """Sent, or to be sent, and not acknowledged yet."""
    NOT_SENT = "NOT_SENT"
    """Subscribed to, and nothing to tell so far."""
    SYNCED = "SYNCED"


_SEVERITY = {state: rank for rank, state in enumerate(State)}


def severity(state: State) -> int:
    """For sorting: 0 is the worst."""
    return _SEVERITY[state]


def worst(states: Iterable[State]) -> State:
    return min(states, key=severity, default=State.NOT_SENT)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One message on a stream."""

    at: float
    direction: str
    """``sent`` or ``received``."""
    type_url: str
    kind: str
    """``response``, or what the request was: subscribe, ack, nack, stale, repeat."""
    nonce: str = ""
    version: str = ""
    names: tuple[str, ...] = ()
    """The first of the names; ``count`` says how many there were."""
    count: int = 0
    removed: tuple[str, ...] = ()
    size: int = 0
    """Bytes."""
    latency: float | None = None
    """Seconds from the response to this answer."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A response that was sent, or acknowledged."""

    version: str
    nonce: str
    at: float


@dataclass(frozen=True, slots=True)
class ErrorStatus:
    """The last NACK."""

    message: str
    code: int
    version: str
    nonce: str
    at: float
    culprits: tuple[str, ...]
    """Resources known to be at fault; empty while they are still looked for."""


@dataclass(frozen=True, slots=True)
class RejectedResource:
    """Content that the node will not have. It is not sent again until it changes."""

    name: str
    version: str | None
    """None: it is the removal that was rejected."""
    message: str
    at: float
    origin: str = ""


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One type on one stream."""

    type_url: str
    state: State
    names: tuple[str, ...]
    wildcard: bool
    legacy_wildcard: bool
    wanted_version: str
    """Of the set that the node is meant to have now."""
    sent: Delivery | None
    acked: Delivery | None
    pending_nonce: str
    """Of the response without an answer, or empty."""
    error: ErrorStatus | None
    rejected: tuple[RejectedResource, ...]
    held: Mapping[str, str]
    """Resources kept in their old form: the new one needs this cluster, which was rejected."""
    responses: int
    acks: int
    nacks: int
    stale_requests: int
    bytes_sent: int
    wanted: Mapping[str, Resource] = field(repr=False)
    """What the node is meant to have, as far as it subscribed to it."""
    has: Mapping[str, Resource] = field(repr=False)
    """What it has acknowledged; bodies are empty for what it already had when it connected."""


@dataclass(frozen=True, slots=True)
class StreamStatus:
    id: int
    node: Node
    group: str
    peer: str
    identities: tuple[str, ...]
    """Names in the client's certificate."""
    delta: bool
    type_url: str | None
    """None: aggregated (ADS)."""
    opened_at: float
    snapshot: Snapshot | None
    """The target; None while nothing is known for this node."""
    converged: bool
    phase: str
    """Of the rollout: make, switch, break, done."""
    kept_clusters: tuple[str, ...]
    """No longer in the target, but the node's routes still need them."""
    state: State
    types: tuple[TypeStatus, ...]
    log: tuple[Exchange, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """All streams of one node id."""

    node: Node
    group: str
    state: State
    streams: tuple[StreamStatus, ...]


@dataclass(frozen=True, slots=True)
class TypeDifference:
    type_url: str
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotStatus:
    """A snapshot in the history of a group."""

    snapshot: Snapshot
    at: float
    cause: str
    differences: tuple[TypeDifference, ...]
    """Against what the group had before."""
    problems: tuple[str, ...]
    """What is odd about it, though harmless."""
    acked: Mapping[str, float]
    """Node id to the seconds it took until the node had acknowledged all of it."""


@dataclass(frozen=True, slots=True)
class GroupStatus:
    name: str
    nodes: int
    problem: str
    """Why its nodes keep what they have, although there is something newer; or empty."""
    history: tuple[SnapshotStatus, ...]
    """Newest first."""


@dataclass(frozen=True, slots=True)
class XdsStatus:
    identifier: str
    started_at: float
    nodes: tuple[NodeStatus, ...]
    """Worst first."""
    groups: tuple[GroupStatus, ...]
    refused_streams: int
    """Ended by a limit, a broken request or a lack of permission."""
