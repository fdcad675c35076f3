"""Snapshots for groups of nodes, for programs that make their own resources."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from xds.resource import Resource
from xds.snapshot import Node, Snapshot


class GroupedSnapshots:
    """A provider in which each group of nodes has the snapshot that was published for it last.

    Nodes of a group for which nothing was published yet wait. ``assign`` may raise
    PermissionError for a node that is to get nothing.
    """

    def __init__(self, assign: Callable[[Node], str]) -> None:
        self._assign = assign
        self._snapshots: dict[str, Snapshot] = {}
        self._listeners: list[Callable[[str], None]] = []

    def listen(self, changed: Callable[[str], None]) -> None:
        """Call this with the cause of each change: the ``refresh`` of a server."""
        self._listeners.append(changed)

    def publish(
        self, group: str, content: Snapshot | Iterable[Resource], cause: str = ""
    ) -> Snapshot:
        """Make this what the group gets. Raises ValueError where a resource refers to one that is
        missing, or where two have one name; then the group keeps what it has."""
        try:
            snapshot = (
                content if isinstance(content, Snapshot) else Snapshot.of(content, cause=cause)
            )
        except ValueError as error:
            raise type(error)(f"snapshot for group {group!r}: {error}") from error
        current = self._snapshots.get(group)
        if current is not None and current.version == snapshot.version:
            return current
        self._snapshots[group] = snapshot
        for changed in self._listeners:
            changed(cause or snapshot.cause or f"published for {group}")
        return snapshot

    def withdraw(self, group: str) -> None:
        """Forget a group: nodes that come wait; those that are there keep what they have."""
        self._snapshots.pop(group, None)

    def group(self, node: Node) -> str:
        return self._assign(node)

    def snapshot(self, node: Node) -> Snapshot | None:
        return self._snapshots.get(self._assign(node))
