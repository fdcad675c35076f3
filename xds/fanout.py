"""Which stream is to get which snapshot: nodes, their groups, and when a change goes out.

Pure: no clock, socket, task or log. Who serves the streams passes the time in, wakes the streams,
and reports the events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from xds.group import Group
from xds.protocol.stream import Stream
from xds.publish import Published, publish
from xds.snapshot import Node, Snapshot, SnapshotProvider

_EMPTY_GROUPS = 100
"""Groups without nodes are remembered up to this many groups."""


@dataclass(slots=True, eq=False)
class Connection:
    """A stream whose node is known."""

    stream: Stream
    node: Node
    group: Group


@dataclass(frozen=True, slots=True)
class Event:
    """A snapshot that is new to a group, or that could not be had."""

    group: str
    problem: str = ""
    """Why the group keeps what it has; empty: it gets the new one."""
    error: Exception | None = None


class Fanout:
    """Gives each stream what the provider has for its node."""

    def __init__(
        self, provider: SnapshotProvider, *, debounce: float, history_entries: int
    ) -> None:
        """``debounce``: the first change of a burst goes out at once, the rest together after this
        many seconds."""
        self.changes = 0
        """Counts up with everything that makes the status another one."""
        self._provider = provider
        self._debounce = debounce
        self._history_entries = history_entries
        self._connections: dict[Connection, None] = {}
        self._groups: dict[str, Group] = {}
        self.cause = "start"
        """Why snapshots change, where they do not say so themselves."""
        self._due: float | None = None
        self._refreshed_at = float("-inf")
        self._events: list[Event] = []

    @property
    def groups(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def register(self, stream: Stream, node: Node, now: float) -> Connection:
        """A stream has said whose it is: it gets what there is for its node. Raises PermissionError
        where that is nothing, ever."""
        connection = Connection(stream, node, self._join(stream, node))
        self._connections[connection] = None
        try:
            self.resync(connection, now)
        except PermissionError:
            self.unregister(connection)
            raise
        return connection

    def unregister(self, connection: Connection) -> None:
        """The stream is at its end."""
        del self._connections[connection]
        self._leave(connection)

    def resync(self, connection: Connection, now: float) -> None:
        """Give a stream the newest there is at once: its client asks for what it was not to get so
        far, and must not be told that this does not exist while it waits out the debounce time.
        Raises PermissionError where its node may have nothing any more."""
        published = self._offer(connection, now)
        if published.problem:
            self._report_problem(connection.group, published)

    def converged(self, connection: Connection, now: float) -> float | None:
        """Note how far a stream is. Once its node has all of a snapshot, returns the seconds it
        took, the first time."""
        target = connection.stream.target
        if target is None or not connection.stream.converged:
            return None
        took = connection.group.converged(target, connection.node.id, now)
        if took is not None:
            self.changes += 1
        return took

    def change(self, cause: str, now: float) -> float | None:
        """What the provider has is another now. Returns the seconds until ``refresh`` is due; None
        where it is awaited already."""
        self.cause = cause
        if self._due is not None:
            return None
        self._due = max(now, self._refreshed_at + self._debounce)
        return self._due - now

    def refresh(self, now: float) -> dict[Connection, PermissionError]:
        """Give every stream the newest; returns those whose nodes may have nothing any more."""
        self._due = None
        versions: dict[Group, set[str]] = {}
        problems: dict[Group, Published] = {}
        forbidden: dict[Connection, PermissionError] = {}
        for connection in tuple(self._connections):
            try:
                published = self._offer(connection, now)
            except PermissionError as error:
                forbidden[connection] = error
                continue
            if published.problem:
                problems.setdefault(connection.group, published)
            version = published.snapshot.version if published.snapshot is not None else ""
            versions.setdefault(connection.group, set()).add(version)
        for group, in_use in versions.items():
            group.retain(in_use)
            self._report_problem(group, problems.get(group, Published()))
        self.changes += 1
        return forbidden

    def refreshed(self, now: float) -> None:
        """The streams have been woken: the debounce time begins."""
        self._refreshed_at = now

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def _offer(self, connection: Connection, now: float) -> Published:
        stream = connection.stream
        has = stream.target.snapshot if stream.target is not None else None
        published = publish(Published(has), lambda: self._newest(connection))
        group = connection.group
        if published.problem:
            if stream.target is not None:
                # It may be another group's, whose node has moved here: not for others to get.
                return published
            published = replace(published, snapshot=group.newest)
        if published.snapshot is not None:
            target, new = group.target(published.snapshot, stream.target, self.cause, now)
            if new:
                self._events.append(Event(group.name))
            stream.offer(target, now)
        return published

    def _newest(self, connection: Connection) -> Snapshot | None:
        """What its node is to get. The provider may have learnt where the node belongs."""
        node = connection.node
        if self._provider.group(node) != connection.group.name:
            self._leave(connection)
            connection.group = self._join(connection.stream, node)
        return self._provider.snapshot(node)

    def _join(self, stream: Stream, node: Node) -> Group:
        name = self._provider.group(node)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(name, self._history_entries)
        group.join(node.id, stream)
        self.changes += 1
        return group

    def _leave(self, connection: Connection) -> None:
        group = connection.group
        group.leave(connection.node.id, connection.stream)
        if not group.nodes and len(self._groups) > _EMPTY_GROUPS:
            del self._groups[group.name]
        self.changes += 1

    def _report_problem(self, group: Group, published: Published) -> None:
        if published.problem != group.problem:
            group.problem = published.problem
            self.changes += 1
            if published.problem:
                self._events.append(Event(group.name, published.problem, published.error))
