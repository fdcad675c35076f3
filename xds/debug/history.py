"""What changed from one configuration of a group to the next, why, and who has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xds.debug.nodes import time_json
from xds.debug.snapshots import content, type_name
from xds.debug.text import unified_diff
from xds.resource import Resource
from xds.snapshot import Snapshot
from xds.status import GroupStatus, NodeStatus, SnapshotStatus

Json = dict[str, object]


def group_json(group: GroupStatus, nodes: Iterable[NodeStatus]) -> Json:
    """The configurations of a group, newest first."""
    of_group = [node for node in nodes if node.group == group.name]
    return {
        "group": group.name,
        "nodes": group.nodes,
        "history": [entry_json(entry, of_group) for entry in group.history],
    }


def entry_json(entry: SnapshotStatus, nodes: Iterable[NodeStatus]) -> Json:
    waiting = sorted(
        node.node.id
        for node in nodes
        if node.node.id not in entry.acked
        and any(s.snapshot is entry.snapshot for s in node.streams)
    )
    return {
        "id": entry_id(entry),
        "version": entry.snapshot.version,
        "at": time_json(entry.at),
        "cause": entry.cause,
        "changes": {
            type_name(d.type_url): {
                "added": list(d.added),
                "changed": list(d.changed),
                "removed": list(d.removed),
            }
            for d in entry.differences
        },
        "notes": list(entry.snapshot.notes),
        "problems": list(entry.problems),
        "acked_after_seconds": dict(sorted(entry.acked.items(), key=lambda pair: pair[1])),
        "waiting_for": waiting,
        "convergence": _convergence(entry, len(waiting)),
    }


def entry_id(entry: SnapshotStatus) -> str:
    """Tells apart entries of one version: a configuration may come back."""
    return f"{entry.snapshot.version}-{int(entry.at * 1000):x}"


def find_entry(group: GroupStatus, wanted: str) -> int | None:
    """Where in the history an entry is, by id or, the newest, by version."""
    for i, entry in enumerate(group.history):
        if wanted in (entry_id(entry), entry.snapshot.version):
            return i
    return None


def _convergence(entry: SnapshotStatus, waiting: int) -> Json:
    """Seconds until so many of the nodes that were to have it had it. None: they do not yet."""
    times = sorted(entry.acked.values())
    concerned = len(times) + waiting

    def after(share: float) -> float | None:
        needed = -int(-share * concerned // 1)
        return times[needed - 1] if 0 < needed <= len(times) else None

    return {
        "nodes": concerned,
        "acked": len(times),
        "p50_seconds": after(0.5),
        "p95_seconds": after(0.95),
        "all_seconds": after(1.0),
    }


def changes_json(history: Sequence[SnapshotStatus], index: int) -> list[Json]:
    """A unified diff for each resource that an entry changed. Takes milliseconds per resource."""
    entry = history[index]
    before = _predecessor(history, index)
    changes = []
    for difference in entry.differences:
        new = entry.snapshot.of_type(difference.type_url)
        old = before.of_type(difference.type_url) if before is not None else {}
        for change in ("added", "changed", "removed"):
            changes += [
                _change(difference.type_url, name, change, old.get(name), new.get(name))
                for name in getattr(difference, change)
            ]
    return changes


def _change(
    type_url: str, name: str, change: str, old: Resource | None, new: Resource | None
) -> Json:
    short = type_name(type_url)
    shown = new or old
    return {
        "type": short,
        "name": name,
        "change": change,
        "origin": shown.origin if shown else "",
        "from": old.version if old else None,
        "to": new.version if new else None,
        # The form before may belong to an entry that was forgotten since.
        "complete": change == "added" or old is not None,
        "diff": unified_diff(
            content(old) if old else None,
            content(new) if new else None,
            f"{short}/{name} {old.version if old else '(none)'}",
            f"{short}/{name} {new.version if new else '(none)'}",
        )
        if change == "added" or old is not None
        else "",
    }


def _predecessor(history: Sequence[SnapshotStatus], index: int) -> Snapshot | None:
    """What the group had before: nodes of different abilities take turns in a history, so it is
    the last one from which the recorded differences lead here."""
    entry = history[index]
    for older in history[index + 1 :]:
        if _leads_to(older.snapshot, entry):
            return older.snapshot
    return None


def _leads_to(old: Snapshot, entry: SnapshotStatus) -> bool:
    new = entry.snapshot
    recorded = {d.type_url: d for d in entry.differences}
    for type_url in old.resources.keys() | new.resources.keys():
        was, now = old.of_type(type_url), new.of_type(type_url)
        changed = {n for n in was.keys() & now.keys() if was[n].version != now[n].version}
        difference = recorded.get(type_url)
        if (
            changed != set(difference.changed if difference else ())
            or now.keys() - was.keys() != set(difference.added if difference else ())
            or was.keys() - now.keys() != set(difference.removed if difference else ())
        ):
            return False
    return True
