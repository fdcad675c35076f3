"""What Prometheus learns from the xDS server. No label takes values from outside."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from xds.resource import TYPES

_SHORT = {type_url: type_url.rpartition(".")[2] for type_url in TYPES}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)


def short_type(type_url: str) -> str:
    """``Cluster`` for the type URL of clusters; ``other`` for a type this server does not know."""
    return _SHORT.get(type_url, "other")


class XdsMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"poolpilot_xds_{name}", text, labels, registry=registry)

        self.streams = Gauge(
            "poolpilot_xds_streams", "Open xDS streams.", ("protocol",), registry=registry
        )
        self.pushes = counter("pushes", "Responses sent.", "type")
        self.push_bytes = counter("push_bytes", "Bytes of responses sent.", "type")
        self.acks = counter("acks", "Responses acknowledged.", "type")
        self.nacks = counter("nacks", "Responses rejected by clients.", "type")
        self.stale_requests = counter(
            "stale_requests",
            "Requests that answered a response that was not the last.",
            "type",
        )
        self.push_to_ack = Histogram(
            "poolpilot_xds_push_to_ack_seconds",
            "From sending a response to its ACK.",
            ("type",),
            registry=registry,
            buckets=_SECONDS,
        )
        self.convergence = Histogram(
            "poolpilot_xds_convergence_seconds",
            "From a new snapshot until a node has acknowledged all of it.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.snapshots = counter("snapshots", "Snapshots seen, by what became of them.", "result")
        self.rollout_timeouts = counter(
            "rollout_timeouts", "Phases of a rollout that went on without the client's ACK."
        )
        self.refused_streams = counter(
            "refused_streams", "Streams ended by the server because of the client.", "reason"
        )
        self.rejected = Gauge(
            "poolpilot_xds_rejected_resources",
            "Resources that a connected node rejects and so does not have, summed over streams.",
            ("type",),
            registry=registry,
        )
