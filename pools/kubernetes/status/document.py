"""Statuses as JSON: what is ours in them is set, what is not stays as it is.

A status may hold anything, also what its kind does not allow: nothing here fails on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pools.attachment import Condition

Json = dict[str, Any]

MESSAGE_LIMIT = 32768
"""Characters, by the API."""
PARENTS_LIMIT = 32
"""Entries of ``status.parents``, by the API."""


def mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def conditions(
    current: object,
    wanted: Iterable[Condition],
    generation: int,
    now: str,
    *,
    keep_others: bool = False,
) -> list[Json]:
    """A list of conditions; one keeps its time as long as its status does.

    ``keep_others``: those of types that are not wanted were written by somebody else, and stay.
    """
    before = {
        one["type"]: one
        for one in items(current)
        if isinstance(one, dict) and isinstance(one.get("type"), str)
    }
    made = [_condition(before.get(one.type, {}), one, generation, now) for one in wanted]
    if keep_others:
        types = {one["type"] for one in made}
        made += [one for kind, one in before.items() if kind not in types]
    return made


def _condition(before: Json, wanted: Condition, generation: int, now: str) -> Json:
    status = "True" if wanted.status else "False"
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": wanted.type,
        "status": status,
        "reason": wanted.reason,
        "message": wanted.message[:MESSAGE_LIMIT],
        "observedGeneration": generation,
        "lastTransitionTime": since or now,
    }


def same(one: object, other: object) -> bool:
    """Whether two parts of a status say the same, in whatever order their conditions are."""
    return _normal(one) == _normal(other)


def _normal(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: sorted(map(_normal, inner), key=str)
            if key == "conditions" and isinstance(inner, list)
            else _normal(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_normal(one) for one in value]
    return value
