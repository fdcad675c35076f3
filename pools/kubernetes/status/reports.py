"""What is reported of one object, and how it is put into the object's status.

Each report has ``patch``: the parts of the status to be written, from the whole object as the API
server has it now; None if it says so already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pools.attachment import Condition
from pools.kubernetes.status.document import (
    PARENTS_LIMIT,
    Json,
    conditions,
    items,
    mapping,
    same,
)
from pools.model import ObjectName, ParentRef
from pools.well_known import GATEWAY_GROUP

DEFAULT_PARENT = {"kind": "Status", "name": "default"}
"""What the API server itself puts into the status of a pool that no controller has seen yet."""


@dataclass(frozen=True, slots=True)
class Ours:
    """What is known by: this is ours."""

    controller: str
    classes: frozenset[str]
    gateways: frozenset[ObjectName]
    """Those that are, and those that were since this process began."""


class Report(Protocol):
    @property
    def uid(self) -> str: ...

    def patch(self, current: Json, ours: Ours, now: str) -> Json | None: ...


@dataclass(frozen=True, slots=True)
class ClassReport:
    uid: str
    generation: int
    conditions: tuple[Condition, ...]
    features: tuple[str, ...]
    """Sorted."""

    def patch(self, current: Json, ours: Ours, now: str) -> Json | None:
        status = mapping(current.get("status"))
        return _changes(
            status,
            {
                "conditions": conditions(
                    status.get("conditions"),
                    self.conditions,
                    self.generation,
                    now,
                    keep_others=True,
                ),
                "supportedFeatures": [{"name": name} for name in self.features],
            },
        )


@dataclass(frozen=True, slots=True)
class ListenerReport:
    name: str
    routes: int
    supported: bool
    """Whether HTTPRoutes may be attached to it."""
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class GatewayReport:
    uid: str
    generation: int
    conditions: tuple[Condition, ...]
    listeners: tuple[ListenerReport, ...] | None = None
    """None: what was said of them stays."""
    addresses: tuple[tuple[str, str], ...] = ()
    """Type and value. None of them: what was said of them stays."""

    def patch(self, current: Json, ours: Ours, now: str) -> Json | None:
        if mapping(current.get("spec")).get("gatewayClassName") not in ours.classes:
            return None  # It was given to somebody else just now.
        status = mapping(current.get("status"))
        wanted: Json = {
            "conditions": conditions(
                status.get("conditions"), self.conditions, self.generation, now, keep_others=True
            )
        }
        if self.listeners is not None:
            before = _by_name(status.get("listeners"))
            wanted["listeners"] = [
                self._listener(one, before.get(one.name, {}), now) for one in self.listeners
            ]
        if self.addresses:
            wanted["addresses"] = [{"type": kind, "value": value} for kind, value in self.addresses]
        return _changes(status, wanted)

    def _listener(self, listener: ListenerReport, before: Mapping[str, Any], now: str) -> Json:
        kinds = [{"group": GATEWAY_GROUP, "kind": "HTTPRoute"}] if listener.supported else []
        return {
            "name": listener.name,
            "supportedKinds": kinds,
            "attachedRoutes": listener.routes,
            "conditions": conditions(
                before.get("conditions"), listener.conditions, self.generation, now
            ),
        }


@dataclass(frozen=True, slots=True)
class RouteReport:
    """Of no parents: the route names no Gateway of ours (any more)."""

    uid: str
    generation: int
    parents: tuple[tuple[ParentRef, tuple[Condition, ...]], ...] = ()

    def patch(self, current: Json, ours: Ours, now: str) -> Json | None:
        namespace = mapping(current.get("metadata")).get("namespace", "")
        status = mapping(current.get("status"))
        entries = items(status.get("parents"))
        others = [one for one in entries if not self._is_ours(one, ours)]
        before = {
            _parent_key(namespace, mapping(one.get("parentRef"))): one
            for one in entries
            if self._is_ours(one, ours)
        }
        mine = []
        for parent, wanted in self.parents[: max(PARENTS_LIMIT - len(others), 0)]:
            ref = _parent_ref(parent)
            old = before.get(_parent_key(namespace, ref), {})
            mine.append(
                {
                    "parentRef": ref,
                    "controllerName": ours.controller,
                    "conditions": conditions(old.get("conditions"), wanted, self.generation, now),
                }
            )
        return _changes(status, {"parents": [*others, *mine]}, empty=("parents",))

    @staticmethod
    def _is_ours(entry: object, ours: Ours) -> bool:
        return mapping(entry).get("controllerName") == ours.controller


@dataclass(frozen=True, slots=True)
class RefusedRouteReport:
    """The route's newest version cannot be read, so what it names is taken as it is written."""

    uid: str
    generation: int
    condition: Condition

    def patch(self, current: Json, ours: Ours, now: str) -> Json | None:
        namespace = mapping(current.get("metadata")).get("namespace", "")
        named = items(mapping(current.get("spec")).get("parentRefs"))
        parents: dict[ParentRef, tuple[Condition, ...]] = {}
        for one in named:
            parent = _loose_parent(namespace, mapping(one))
            if parent is not None and parent.gateway in ours.gateways:
                parents[parent] = (self.condition,)
        report = RouteReport(self.uid, self.generation, tuple(parents.items()))
        return report.patch(current, ours, now)


@dataclass(frozen=True, slots=True)
class PoolReport:
    uid: str
    generation: int
    field: str
    """``parents``, or ``parent`` in v1alpha2."""
    parents: tuple[tuple[ObjectName, tuple[Condition, ...]], ...] = ()
    """By Gateway."""

    def patch(self, current: Json, ours: Ours, now: str) -> Json | None:
        namespace = mapping(current.get("metadata")).get("namespace", "")
        status = mapping(current.get("status"))
        entries = items(status.get(self.field))
        others = [one for one in entries if not self._is_ours(one, namespace, ours)]
        if self.parents:
            others = [one for one in others if mapping(one).get("parentRef") != DEFAULT_PARENT]
        before = {
            _gateway(namespace, mapping(one.get("parentRef"))): one
            for one in entries
            if self._is_ours(one, namespace, ours)
        }
        mine = []
        for gateway, wanted in self.parents[: max(PARENTS_LIMIT - len(others), 0)]:
            old = before.get(gateway, {})
            mine.append(self._entry(gateway, wanted, old, ours, now))
        return _changes(status, {self.field: [*others, *mine]}, empty=(self.field,))

    def _entry(
        self,
        gateway: ObjectName,
        wanted: Iterable[Condition],
        old: Mapping[str, Any],
        ours: Ours,
        now: str,
    ) -> Json:
        made: Json = {
            "parentRef": {
                "group": GATEWAY_GROUP,
                "kind": "Gateway",
                "namespace": gateway.namespace,
                "name": gateway.name,
            },
            "controllerName": ours.controller,
            "conditions": conditions(old.get("conditions"), wanted, self.generation, now),
        }
        if old:
            # Older definitions of the kind lack some of these, and the API server drops them.
            ref = mapping(old.get("parentRef"))
            made["parentRef"] = {k: v for k, v in made["parentRef"].items() if k in ref}
            if "controllerName" not in old:
                del made["controllerName"]
        return made

    @staticmethod
    def _is_ours(entry: object, namespace: str, ours: Ours) -> bool:
        """Entries may lack the controller's name (in v1alpha2 they always do); but a Gateway has
        one controller only."""
        controller = mapping(entry).get("controllerName")
        if controller:
            return bool(controller == ours.controller)
        return _gateway(namespace, mapping(mapping(entry).get("parentRef"))) in ours.gateways


def _changes(status: Mapping[str, Any], wanted: Json, empty: tuple[str, ...] = ()) -> Json | None:
    """What of ``wanted`` is not so yet. A list of ``empty`` that is not there is an empty one."""
    changes = {
        key: value
        for key, value in wanted.items()
        if not same(status.get(key, [] if key in empty else None), value)
    }
    return changes or None


def _by_name(entries: object) -> dict[str, Mapping[str, Any]]:
    return {str(one["name"]): one for one in items(entries) if "name" in mapping(one)}


def _parent_ref(parent: ParentRef) -> Json:
    ref: Json = {
        "group": GATEWAY_GROUP,
        "kind": "Gateway",
        "namespace": parent.gateway.namespace,
        "name": parent.gateway.name,
    }
    if parent.section is not None:
        ref["sectionName"] = parent.section
    if parent.port is not None:
        ref["port"] = parent.port
    return ref


def _parent_key(namespace: str, ref: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return (
        str(ref.get("namespace") or namespace),
        str(ref.get("name")),
        str(ref.get("sectionName")),
        str(ref.get("port")),
    )


def _gateway(namespace: str, ref: Mapping[str, Any]) -> ObjectName | None:
    if ref.get("kind", "Gateway") != "Gateway" or ref.get("group", GATEWAY_GROUP) != GATEWAY_GROUP:
        return None
    return ObjectName(str(ref.get("namespace") or namespace), str(ref.get("name")))


def _loose_parent(namespace: str, ref: Mapping[str, Any]) -> ParentRef | None:
    gateway = _gateway(namespace, ref)
    section, port = ref.get("sectionName"), ref.get("port")
    if gateway is None:
        return None
    return ParentRef(
        gateway,
        section if isinstance(section, str) else None,
        port if isinstance(port, int) else None,
    )
