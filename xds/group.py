"""The nodes that get the same configuration: its history, and what they have accepted of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from xds.consistency import unreferenced
from xds.protocol.ack_history import AckHistory
from xds.protocol.stream import Stream
from xds.protocol.view import SnapshotView
from xds.snapshot import Snapshot
from xds.status import SnapshotStatus, TypeDifference


@dataclass(slots=True)
class HistoryEntry:
    """A snapshot in the history."""

    snapshot: Snapshot
    at: float
    cause: str
    differences: tuple[TypeDifference, ...]
    problems: tuple[str, ...]
    acked: dict[str, float] = field(default_factory=dict)


def differences(old: SnapshotView | None, new: SnapshotView) -> tuple[TypeDifference, ...]:
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


_NOTHING = SnapshotView(Snapshot({}, ""))


class Group:
    def __init__(self, name: str, history_entries: int) -> None:
        self.name = name
        self.problem = ""
        """Why its nodes do not get the newest state; empty: they do."""
        self.ack_history = AckHistory()
        self._history: deque[HistoryEntry] = deque(maxlen=history_entries)
        self._targets: dict[str, SnapshotView] = {}
        """By version, those in use now: nodes of one group may differ by what they can do."""
        self._streams: dict[str, list[Stream]] = {}

    @property
    def nodes(self) -> int:
        """How many there are. A node may have several streams."""
        return len(self._streams)

    @property
    def newest(self) -> Snapshot | None:
        """What was published last, of that which is in use."""
        return next(reversed(self._targets.values())).snapshot if self._targets else None

    def join(self, node_id: str, stream: Stream) -> None:
        self._streams.setdefault(node_id, []).append(stream)
        stream.join(node_id, self.ack_history)

    def leave(self, node_id: str, stream: Stream) -> None:
        streams = self._streams[node_id]
        streams.remove(stream)
        if not streams:
            del self._streams[node_id]

    def target(
        self, snapshot: Snapshot, previous: SnapshotView | None, cause: str, now: float
    ) -> tuple[SnapshotView, bool]:
        """The snapshot as streams look at it, and whether it is new to this group. ``previous`` is
        what the stream had that is to get it."""
        known = self._targets.get(snapshot.version)
        if known is not None:
            return known, False
        if previous is None and self._targets:
            previous = next(reversed(self._targets.values()))
        target = self._targets[snapshot.version] = SnapshotView(snapshot, previous)
        changes = differences(previous, target)
        problems = tuple(unreferenced(snapshot.resources))
        self._history.append(
            HistoryEntry(snapshot, now, snapshot.cause or cause, changes, problems)
        )
        for change in changes:
            self.ack_history.forget(change.type_url, change.removed)
        return target, True

    def retain(self, versions: set[str]) -> None:
        """Forget the targets of all other snapshots."""
        self._targets = {v: target for v, target in self._targets.items() if v in versions}

    def converged(self, target: SnapshotView, node_id: str, now: float) -> float | None:
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
                e.snapshot, e.at + epoch, e.cause, e.differences, e.problems, dict(e.acked)
            )
            for e in reversed(self._history)
        )
