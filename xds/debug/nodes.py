"""The state of the connected nodes as JSON."""

from __future__ import annotations

from datetime import UTC, datetime

from xds.debug.redact import redacted
from xds.debug.snapshots import type_name
from xds.status import (
    Delivery,
    Exchange,
    NodeStatus,
    StreamStatus,
    TypeStatus,
)


def node_json(node: NodeStatus, problem: str, *, full: bool = False) -> dict[str, object]:
    """One node, with what keeps it from being served; ``full`` adds the names it subscribed to,
    and its exchanges."""
    version = node.node.version
    return {
        "id": node.node.id,
        "cluster": node.node.cluster,
        "locality": node.node.locality,
        "metadata": redacted(node.node.metadata),
        "version": ".".join(map(str, version)) if version else None,
        "group": node.group,
        "problem": problem,
        "state": node.state.value,
        "streams": [_stream(stream, full) for stream in node.streams],
    }


def _stream(stream: StreamStatus, full: bool) -> dict[str, object]:
    shown: dict[str, object] = {
        "id": stream.id,
        "peer": stream.peer,
        "protocol": "delta" if stream.delta else "sotw",
        "service": "ads" if stream.type_url is None else type_name(stream.type_url),
        "opened_at": time_json(stream.opened_at),
        "identities": list(stream.identities),
        "wanted": stream.snapshot.version if stream.snapshot else None,
        "converged": stream.converged,
        "phase": stream.phase,
        "kept_clusters": list(stream.kept_clusters),
        "state": stream.state.value,
        "types": {type_name(one.type_url): _type(one, full) for one in stream.types},
    }
    if full:
        shown["log"] = [_exchange(one) for one in stream.log]
    return shown


def _type(one: TypeStatus, full: bool) -> dict[str, object]:
    shown: dict[str, object] = {
        "state": one.state.value,
        "wanted": one.wanted_version,
        "sent": _delivery(one.sent),
        "acked": _delivery(one.acked),
        "pending_nonce": one.pending_nonce,
        "wildcard": one.wildcard,
        "legacy_wildcard": one.legacy_wildcard,
        "subscribed": len(one.names),
        "has": len(one.has),
        "error": None,
        "rejected": [
            {
                "name": r.name,
                "version_info": r.version,
                "message": r.message,
                "at": time_json(r.at),
                "origin": r.origin,
            }
            for r in one.rejected
        ],
        "held": dict(one.held),
        "responses": one.responses,
        "acks": one.acks,
        "nacks": one.nacks,
        "stale_requests": one.stale_requests,
        "bytes_sent": one.bytes_sent,
    }
    if one.error is not None:
        shown["error"] = {
            "message": one.error.message,
            "at": time_json(one.error.at),
            "version_info": one.error.version,
            "culprits": list(one.error.culprits),
        }
    if full:
        shown["names"] = list(one.names)
        shown["resources"] = {
            name: {
                "wanted": wanted.version,
                "has": one.has[name].version if name in one.has else None,
                "origin": wanted.origin,
            }
            for name, wanted in one.wanted.items()
        }
    return shown


def _delivery(delivery: Delivery | None) -> dict[str, object] | None:
    if delivery is None:
        return None
    return {"version_info": delivery.version, "nonce": delivery.nonce, "at": time_json(delivery.at)}


def _exchange(one: Exchange) -> dict[str, object]:
    return {
        "at": time_json(one.at),
        "direction": one.direction,
        "type": type_name(one.type_url),
        "kind": one.kind,
        "nonce": one.nonce,
        "version_info": one.version,
        "names": list(one.names),
        "count": one.count,
        "removed": list(one.removed),
        "bytes": one.size,
        "latency_seconds": one.latency,
        "error": one.error,
    }


def time_json(epoch: float) -> str:
    """ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")
