"""What the API server said last, object by object. Pure: reflections fill it, Worlds are read from
it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pools.assemble import assemble
from pools.catalog import LAST_GOOD
from pools.kubernetes.kinds import Item, Kind, Scope, Value
from pools.manifests import Key, Object, key_of
from pools.model import Gateway, GatewayClass, ObjectName, Problem, Severity, World
from pools.pods import Pod


class Cache:
    """Objects by kind and name.

    A version of an object that cannot be used leaves the last good one in effect, and is reported.
    ``controller`` is ours: Gateways whose GatewayClass names another one are somebody else's.
    """

    def __init__(self, kinds: Sequence[Kind], controller: str) -> None:
        self._order = {kind: place for place, kind in enumerate(kinds)}
        self._controller = controller
        self._items: dict[Scope, dict[ObjectName, Item]] = {}

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
        return items[item.name] != old

    def remove(self, scope: Scope, name: ObjectName) -> bool:
        """An object was deleted. Returns whether it was there."""
        return self._items.get(scope, {}).pop(name, None) is not None

    def drop(self, scope: Scope) -> bool:
        """The scope is not followed any more. Returns whether it had any object."""
        return bool(self._items.pop(scope, None))

    def items(self, scope: Scope) -> Mapping[ObjectName, Item]:
        return self._items.get(scope, {})

    def world(self, problems: Iterable[Problem] = ()) -> World:
        """The World of all objects, with problems of the source itself."""
        found = list(problems)
        objects: dict[Key, Object] = {}
        pods: list[Pod] = []
        for item in self._sorted():
            found += item.problems
            value: Value | None = item.value
            if isinstance(value, Pod):
                pods.append(value)
            elif value is not None and objects.setdefault(key_of(value), value) is not value:
                found.append(_in_two_groups(value))
        return assemble(self._ours(objects), None, found, pods=pods)

    def _sorted(self) -> Iterator[Item]:
        scopes = sorted(self._items, key=lambda s: (self._order[s[0]], s[1] or ""))
        for scope in scopes:
            items = self._items[scope]
            for name in sorted(items):
                yield items[name]

    def _ours(self, objects: dict[Key, Object]) -> Iterator[Object]:
        classes = {
            value.name.name
            for value in objects.values()
            if isinstance(value, GatewayClass) and value.controller == self._controller
        }
        for value in objects.values():
            if not isinstance(value, Gateway) or value.class_name in classes:
                yield value


def _after(old: Item | None, new: Item) -> Item:
    """``new``, with what is in effect of it."""
    if new.value is not None or old is None or old.value is None or old.uid != new.uid:
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
