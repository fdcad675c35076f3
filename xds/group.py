"""The nodes that get the same configuration: its history, and what they have accepted of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from xds.consistency import inconsistencies
from xds.protocol.memory import Memory
from xds.protocol.stream import Stream
from xds.protocol.view import Target
from xds.resource import Resource
from xds.snapshot import Snapshot
from xds.status import SnapshotStatus, TypeDifference

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Entry:
    """A snapshot in the history."""

    snapshot: Snapshot
    at: float
    cause: str
    differences: tuple[TypeDifference, ...]
    problems: tuple[str, ...]
    refused: bool
    acked: dict[str, float] = field(default_factory=dict)


def differences(old: Target | None, new: Target) -> tuple[TypeDifference, ...]:
    """What is new, changed and gone, by type."""
    found = []
    types = dict.fromkeys([*new.views, *(old.views if old is not None else ())])
    for type_url in types:
        before = (old or _NOTHING).of(type_url)
        difference = new.of(type_url).since(before)
        if difference.names:
            found.append(
                TypeDifference(
                    type_url,
                    tuple(sorted(n for n in difference.changed if n not in before.resources)),
                    tuple(sorted(n for n in difference.changed if n in before.resources)),
                    tuple(sorted(difference.removed)),
                )
            )
    return tuple(found)


_NOTHING = Target(Snapshot({}, ""))


class Group:
    def __init__(self, name: str, entries: int) -> None:
        self.name = name
        self.refusals = 0
        self._history: deque[Entry] = deque(maxlen=entries)
        self._targets: dict[str, tuple[Target, Entry]] = {}
        """By version, those in use now: nodes of one group may differ by what they can do."""
        self.memory = Memory()
        self._streams: dict[str, list[Stream]] = {}
        self._accepted: dict[tuple[str, str], Resource] = {}

    @property
    def nodes(self) -> int:
        """How many there are. A node may have several streams."""
        return len(self._streams)

    def join(self, node_id: str, stream: Stream) -> None:
        self._streams.setdefault(node_id, []).append(stream)

    def leave(self, node_id: str, stream: Stream) -> None:
        streams = self._streams[node_id]
        streams.remove(stream)
        if not streams:
            del self._streams[node_id]

    def accept(self, resources: Iterable[Resource], target: Target) -> None:
        """A node has accepted these; ``target`` is what its stream is to get in the end."""
        for resource in resources:
            if resource.name in target.of(resource.type_url).resources:
                self._accepted[resource.type_url, resource.name] = resource

    def last_good(self, type_url: str, name: str, target: Target) -> Resource | None:
        """The form of a resource that a node of this group accepted last, for a node that rejects
        the present form and has no other. None too where it would refer to what is gone."""
        good = self._accepted.get((type_url, name))
        if good is None or any(need not in target.of(kind).resources for kind, need in good.needs):
            return None
        return good

    def target(
        self, snapshot: Snapshot, previous: Target | None, cause: str, now: float
    ) -> tuple[Target, str | None]:
        """The snapshot as streams look at it, and, where it is new, ``sent`` or ``refused``.

        One with references into the void is refused where there is something better: then the
        target is ``previous``, or what the group has.
        """
        known = self._targets.get(snapshot.version)
        if known is not None:
            return known[0], None
        known = self._targets[snapshot.version] = self._record(snapshot, previous, cause, now)
        return known[0], "refused" if known[1].refused else "sent"

    def retain(self, versions: set[str]) -> None:
        """Forget the targets of all other snapshots."""
        self._targets = {v: known for v, known in self._targets.items() if v in versions}

    def converged(self, target: Target, node_id: str, now: float) -> float | None:
        """Note that a stream of this node has all of a target. Once all its streams have, returns
        the seconds it took, the first time."""
        for stream in self._streams.get(node_id, ()):
            theirs = stream.target
            if theirs is None or theirs.snapshot.version != target.snapshot.version:
                return None
            if not stream.converged:
                return None
        entry = next((e for e in reversed(self._history) if e.snapshot is target.snapshot), None)
        if entry is None or node_id in entry.acked:
            return None
        entry.acked[node_id] = now - entry.at
        return entry.acked[node_id]

    def history(self, epoch: float) -> tuple[SnapshotStatus, ...]:
        """Newest first. ``epoch`` turns the clock's time into seconds since the epoch."""
        return tuple(
            SnapshotStatus(
                e.snapshot,
                e.at + epoch,
                e.cause,
                e.differences,
                e.problems,
                e.refused,
                dict(e.acked),
            )
            for e in reversed(self._history)
        )

    def _record(
        self, snapshot: Snapshot, previous: Target | None, cause: str, now: float
    ) -> tuple[Target, Entry]:
        if previous is None and self._targets:
            previous = next(reversed(self._targets.values()))[0]
        target = Target(snapshot, previous)
        changes = differences(previous, target)
        found = inconsistencies(snapshot)
        fatal = [problem.text for problem in found if problem.fatal]
        refused = bool(fatal) and previous is not None
        entry = Entry(
            snapshot,
            now,
            snapshot.cause or cause,
            changes,
            tuple(problem.text for problem in found),
            refused,
        )
        self._history.append(entry)
        if fatal:
            self.refusals += 1
            log.error(
                "snapshot is inconsistent",
                group=self.name,
                version=snapshot.version,
                problems=fatal[:10],
                kept=previous.snapshot.version if previous is not None and refused else None,
            )
        if refused and previous is not None:
            return previous, entry
        for change in changes:
            for name in change.removed:
                self._accepted.pop((change.type_url, name), None)
        return target, entry
