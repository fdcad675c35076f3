"""Pods as endpoints: which of them serve a pool, on which ports, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator

from pools.model import (
    AbsentEndpoint,
    Endpoint,
    InferencePool,
    Pod,
    Problem,
    Severity,
)

ACTIVE_PORTS_ANNOTATIONS = (
    "inference.networking.k8s.io/active-ports",
    "llm-d.ai/active-ports",
)
"""The target ports that are live on a pod, separated by commas; without it, all of them. The first
of these that a pod has counts (model server protocol)."""


def selects(pool: InferencePool, pod: Pod) -> bool:
    """Whether a pod is one of the pool's: same namespace, all labels, and a selector at all."""
    return (
        bool(pool.selector)
        and pool.name.namespace == pod.name.namespace
        and all(pod.labels.get(key) == value for key, value in pool.selector.items())
    )


def endpoints_of_pod(pod: Pod, pool: InferencePool) -> tuple[Endpoint, ...] | AbsentEndpoint:
    """The endpoints that a pod is in one of its pools, one for each active port, or why none.

    Where a pool has several ports, an endpoint is named after the port's place in the pool
    (``<pod>-rank-<i>``), whichever of them are active.
    """
    reason = pod.unready or ("" if pod.address else "has no IP address yet")
    endpoints: tuple[Endpoint, ...] = ()
    if not reason:
        active = _active(pod)
        several = len(pool.target_ports) > 1
        endpoints = tuple(
            Endpoint(
                pod.address,
                port,
                f"{pod.name.name}-rank-{rank}" if several else pod.name.name,
                pod.labels,
            )
            for rank, port in enumerate(pool.target_ports)
            if active is None or port in active
        )
        if not endpoints:
            ports = ", ".join(map(str, pool.target_ports))
            reason = f"its annotation {pod.active_ports_key} names none of the pool's ports {ports}"
    if reason:
        return AbsentEndpoint(pod.name.name, reason, pool.name, pod.address, pod.origin)
    return endpoints


def problems_of_pod(pod: Pod) -> Iterator[Problem]:
    """What its owner must mend, whether or not it serves."""
    if pod.active_ports is None:
        return
    for part in pod.active_ports.split(","):
        if part.strip() and _port(part) is None:
            yield Problem(
                Severity.WARNING,
                "must be port numbers separated by commas;"
                f" {part.strip()[:60]!r} is none and was ignored",
                pod.origin,
                field=f"metadata.annotations[{pod.active_ports_key}]",
            )


def _active(pod: Pod) -> frozenset[int] | None:
    if pod.active_ports is None:
        return None
    ports = (_port(part) for part in pod.active_ports.split(","))
    return frozenset(port for port in ports if port is not None)


def _port(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else None
