"""Pods as the API server tells them, reduced to what decides about endpoints."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pools.model import ObjectName, Origin, Pod, Problem
from pools.pods import ACTIVE_PORTS_ANNOTATIONS


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class _Condition(msgspec.Struct, rename="camel"):
    type: str
    status: str
    reason: str | None = None
    message: str | None = None
    last_transition_time: str | None = None


class _Waiting(msgspec.Struct):
    reason: str | None = None


class _Terminated(msgspec.Struct, rename="camel"):
    reason: str | None = None
    exit_code: int = 0


class _State(msgspec.Struct):
    waiting: _Waiting | None = None
    terminated: _Terminated | None = None


class _Container(msgspec.Struct, rename="camel"):
    name: str
    state: _State | None = None
    last_state: _State | None = None


class _Status(msgspec.Struct, rename="camel"):
    conditions: list[_Condition] | None = None
    init_container_statuses: list[_Container] | None = None
    container_statuses: list[_Container] | None = None
    pod_ip: str | None = msgspec.field(name="podIP", default=None)


class _Pod(msgspec.Struct):
    metadata: _Metadata
    status: _Status | None = None


_decoder = msgspec.json.Decoder(_Pod)


def read_pod(raw: bytes, source: str) -> tuple[Pod, tuple[Problem, ...]]:
    """Raises msgspec.MsgspecError if that is no Pod."""
    pod = _decoder.decode(raw)
    metadata, status = pod.metadata, pod.status or _Status()
    annotations = metadata.annotations or {}
    key = next((key for key in ACTIVE_PORTS_ANNOTATIONS if key in annotations), "")
    name = ObjectName(metadata.namespace, metadata.name)
    value = Pod(
        name,
        status.pod_ip or "",
        metadata.labels or {},
        "is being deleted" if metadata.deletion_timestamp else _unready(status),
        annotations.get(key),
        key,
        Origin("Pod", name, source, api_version="v1", uid=metadata.uid),
    )
    return value, ()


def _unready(status: _Status) -> str:
    """Why a pod is not Ready, as far as its status tells; empty if it is."""
    conditions = {condition.type: condition for condition in status.conditions or ()}
    ready = conditions.get("Ready")
    if ready is not None and ready.status == "True":
        return ""
    scheduled = conditions.get("PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        what, because = "not scheduled", scheduled
    elif ready is None:
        return "; ".join(("not Ready: it has not started yet", *_containers(status)))
    else:
        what, because = "not Ready", ready
    since = f" since {because.last_transition_time}" if because.last_transition_time else ""
    why = because.message or because.reason or ""
    head = f"{what}{since}: {why}" if why else f"{what}{since}"
    return "; ".join((head, *_containers(status)))


def _containers(status: _Status) -> Iterator[str]:
    """What keeps containers from running."""
    for container in (*(status.init_container_statuses or ()), *(status.container_statuses or ())):
        state = container.state or _State()
        if state.waiting is not None and state.waiting.reason not in (None, "PodInitializing"):
            last = container.last_state.terminated if container.last_state else None
            yield f"{container.name} waits: {state.waiting.reason}{_ended(last)}"
        elif state.terminated is not None and state.terminated.exit_code:
            yield f"{container.name} ended{_ended(state.terminated)}"


def _ended(last: _Terminated | None) -> str:
    if last is None:
        return ""
    return f" (exit code {last.exit_code}{f', {last.reason}' if last.reason else ''})"
