"""Events for what a user must mend: each is told once an hour, however often it is found.

An Event's name is made of what it says, so that the API server itself refuses a second one: a
restart, or another replica that takes over, repeats nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pools.attachment import Condition
from pools.kubernetes.status.inputs import StatusInputs
from pools.kubernetes.status.target import KINDS
from pools.model import DEFAULT_NAMESPACE, ObjectName, Origin, Severity

REPEAT = 3600.0
"""Seconds after which what still holds is told again: the API server forgets Events after an hour.
"""
NOTE_LIMIT = 1024
"""Bytes of a note, by the API."""
BURST = 50
"""Events that may be written at once."""
PACE = 1.0
"""Seconds for each further one."""


@dataclass(frozen=True, slots=True)
class Grievance:
    """What is wrong with one object."""

    kind: str
    api_version: str
    name: ObjectName
    uid: str
    reason: str
    note: str

    @property
    def namespace(self) -> str:
        """Where its Event is put."""
        return self.name.namespace or DEFAULT_NAMESPACE

    @property
    def event_name(self) -> str:
        told = "\0".join((self.uid, self.reason, self.note))
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        return f"{self.name.name[:200].rstrip('.-')}.{digest}"

    def event(self, controller: str, instance: str, time: str) -> dict[str, Any]:
        """As ``events.k8s.io/v1``. ``time``: RFC 3339 with microseconds."""
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": self.event_name, "namespace": self.namespace},
            "eventTime": time,
            "type": "Warning",
            "reason": self.reason,
            "action": "Configure",
            "note": _cut(self.note),
            "reportingController": controller,
            "reportingInstance": instance[:128],
            "regarding": {
                "kind": self.kind,
                "apiVersion": self.api_version,
                "name": self.name.name,
                **({"namespace": self.name.namespace} if self.name.namespace else {}),
                "uid": self.uid,
            },
        }


def grievances(inputs: StatusInputs) -> tuple[Grievance, ...]:
    """All there are, each once. What refuses an attachment and is a problem of the source too is
    told in the words of the attachment, as in the object's status."""
    found: dict[Grievance, None] = dict.fromkeys(_refusals(inputs))
    told: dict[str, str] = {}
    for one in found:
        told[one.uid] = told.get(one.uid, "") + one.note
    for problem in inputs.problems:
        origin = problem.origin
        if origin is None or not origin.uid:
            continue
        if problem.field and problem.field in told.get(origin.uid, ""):
            continue
        reason = "Invalid" if problem.severity is Severity.ERROR else "Doubtful"
        note = f"{problem.field}: {problem.message}" if problem.field else problem.message
        found[_of(origin, reason, note)] = None
    return tuple(found)


def _refusals(inputs: StatusInputs) -> Iterator[Grievance]:
    attachments = inputs.attachments
    for gateway in inputs.gateways:
        if gateway.origin is not None and gateway.origin.uid:
            for listener in attachments.gateways[gateway.name].listeners:
                where = f"spec.listeners[{listener.listener.name}]"
                yield from _false(gateway.origin, listener.conditions, where)
    for attached in attachments.routes.values():
        if attached.route.origin is not None and attached.route.origin.uid:
            for parent in attached.parents:
                yield from _false(attached.route.origin, parent.conditions)
    for name, pool in inputs.pools.items():
        if attachments.pools[name].parents and pool.origin is not None and pool.origin.uid:
            invalid = attachments.pools[name].invalid
            if invalid:
                yield _of(pool.origin, "InvalidExtensionRef", invalid)


def _false(origin: Origin, conditions: Iterable[Condition], where: str = "") -> Iterator[Grievance]:
    """``Programmed`` and ``Conflicted`` say again what ``Accepted`` or ``ResolvedRefs`` says."""
    for one in conditions:
        broken = not one.status if one.type in ("Accepted", "ResolvedRefs") else one.status
        if broken and one.type in ("Accepted", "ResolvedRefs", "PartiallyInvalid"):
            yield _of(origin, one.reason, f"{where}: {one.message}" if where else one.message)


def _of(origin: Origin, reason: str, note: str) -> Grievance:
    version = origin.api_version or KINDS.get(origin.kind, ("", "v1"))[1]
    return Grievance(origin.kind, version, origin.name, origin.uid, reason, note)


class Telling:
    """What was told, and what may be told now: a burst, then one for each ``PACE`` seconds."""

    def __init__(self) -> None:
        self._told: dict[Grievance, float] = {}
        self._full_at = 0.0
        """When a whole burst may be told again."""

    def due(self, wanted: Iterable[Grievance], now: float) -> list[Grievance]:
        """Those of ``wanted`` to be told now, first come first told."""
        self._forget(now)
        new = [one for one in wanted if one not in self._told]
        free = BURST - max(0.0, self._full_at - now) / PACE
        return new[: max(0, int(free))]

    def told(self, one: Grievance, now: float) -> None:
        """It was, or the API server has it already."""
        self._told[one] = now
        self._full_at = max(self._full_at, now) + PACE

    def _forget(self, now: float) -> None:
        # In the order in which they were told.
        for one, when in list(self._told.items()):
            if now < when + REPEAT:
                break
            del self._told[one]

    def __len__(self) -> int:
        return len(self._told)


def events_path(namespace: str) -> str:
    return f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"


def _cut(note: str) -> str:
    encoded = note.encode()
    if len(encoded) <= NOTE_LIMIT:
        return note
    return encoded[: NOTE_LIMIT - 3].decode(errors="ignore") + "..."
