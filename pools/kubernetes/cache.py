"""What the API server said last, object by object. Pure: reflections fill it, Worlds are read from
it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pools.assemble import assemble
from pools.catalog import LAST_GOOD
from pools.kubernetes.kinds import Item, Kind, Scope, Value
from pools.kubernetes.ownership import Ownership
from pools.manifests import Key, Object, is_usable, key_of
from pools.model import (
    Gateway,
    HTTPRoute,
    InferencePool,
    ObjectName,
    Pod,
    Problem,
    Severity,
    World,
)
from pools.references import References


class Cache:
    """Objects by kind and name.

    A version of an object that cannot be used leaves the last good one in effect, and is reported.
    ``controller`` is ours: Gateways whose GatewayClass names another one are somebody else's.

    Of Services, Secrets and the like a cluster has many, and few matter. What the last World did
    not refer to is kept, but its changes change nothing: what would make it matter is a change of a
    route or a Gateway.

    ``local_hosts``: as ``assemble`` has it.
    """

    def __init__(
        self, kinds: Sequence[Kind], controller: str, *, local_hosts: bool = False
    ) -> None:
        self._order = {kind: place for place, kind in enumerate(kinds)}
        self._controller = controller
        self._local_hosts = local_hosts
        self._items: dict[Scope, dict[ObjectName, Item]] = {}
        self._named: References | None = None
        """What the last World referred to."""

    def replace(self, scope: Scope, items: Iterable[Item]) -> bool:
        """These are all objects of the scope. Returns whether that changes anything."""
        before = self._items.get(scope)
        old = before or {}
        self._items[scope] = {item.name: _after(old.get(item.name), item) for item in items}
        return before is None or self._items[scope] != before

    def put(self, scope: Scope, item: Item) -> bool:
        """An object is new or has changed. Returns whether that changes anything."""
        items = self._items.setdefault(scope, {})
        old = items.get(item.name)
        items[item.name] = _after(old, item)
        return items[item.name] != old and (self._concerns(item) or self._concerns(old))

    def remove(self, scope: Scope, name: ObjectName) -> bool:
        """An object was deleted. Returns whether that changes anything."""
        return self._concerns(self._items.get(scope, {}).pop(name, None))

    def drop(self, scope: Scope) -> bool:
        """The scope is not followed any more. Returns whether it had any object."""
        return bool(self._items.pop(scope, None))

    def items(self, scope: Scope) -> Mapping[ObjectName, Item]:
        return self._items.get(scope, {})

    def _concerns(self, item: Item | None) -> bool:
        if item is None:
            return False
        return self._named is None or item.value is None or self._named.concern(item.value)

    def world(
        self,
        problems: Iterable[Problem] = (),
        *,
        now: float | None = None,
        unread: frozenset[str] = frozenset(),
    ) -> World:
        """The World of all objects, with problems of the source itself. ``now`` and ``unread`` are
        those of ``assemble``."""
        found = list(problems)
        items = list(self._sorted(optional=False))
        ownership = Ownership.among(items, self._controller)
        ours = [item for item in items if ownership.covers(item)]
        values = [item.value for item in ours]
        references = self._named = References.of(
            [value for value in values if isinstance(value, InferencePool)],
            [value for value in values if isinstance(value, HTTPRoute)],
            [value for value in values if isinstance(value, Gateway)],
        )
        ours += self._sorted(optional=True)
        objects: dict[Key, Object] = {}
        pods: list[Pod] = []
        for item in ours:
            found += item.problems
            value: Value | None = item.value
            if isinstance(value, Pod):
                pods.append(value)
            elif value is not None and objects.setdefault(key_of(value), value) is not value:
                found.append(_in_two_groups(value))
        of_others = [
            item.value
            for item in items
            if isinstance(item.value, HTTPRoute) and not ownership.covers(item)
        ]
        return assemble(
            [*objects.values(), *of_others],
            None,
            found,
            pods=pods,
            references=references,
            now=now,
            of_others=frozenset(route.name for route in of_others),
            of_cluster=True,
            unread=unread,
            local_hosts=self._local_hosts,
        )

    def _sorted(self, *, optional: bool) -> Iterator[Item]:
        """Those of the kinds that a World cannot do without, or of the others if they matter."""
        scopes = sorted(self._items, key=lambda s: (self._order[s[0]], s[1] or ""))
        for scope in scopes:
            if scope[0].optional is optional:
                items = self._items[scope].values()
                chosen = [item for item in items if not optional or self._concerns(item)]
                yield from sorted(chosen, key=lambda item: item.name)


def _after(old: Item | None, new: Item) -> Item:
    """``new``, with what is in effect of it."""
    if new.value is not None and is_usable(new.value):
        return new
    if old is None or old.value is None or not is_usable(old.value) or old.uid != new.uid:
        return new
    problems = tuple(
        dataclasses.replace(problem, message=problem.message + LAST_GOOD)
        if problem.severity is Severity.ERROR
        else problem
        for problem in new.problems
    )
    return dataclasses.replace(new, value=old.value, problems=problems)


def _in_two_groups(value: Object) -> Problem:
    return Problem(
        Severity.WARNING,
        "exists in two API groups; that of the newer group counts: delete the other one",
        value.origin,
    )
