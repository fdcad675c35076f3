"""Make before break: in which order one stream gets to see a new snapshot.

Routes are not warmed: a route to a cluster that is not there yet, or no more, is an error for a
user. So what is added goes first, and only when the client has acknowledged it do listeners and
routes change; only when these are acknowledged do clusters go. Every wait ends after a time-out,
because a client that never answers must not be kept from the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from xds.protocol.view import EMPTY, SnapshotView, View
from xds.protocol.watch import Watch
from xds.resource import CLUSTER, ENDPOINT, RUNTIME, SECRET, Resource

SUPPORT = (CLUSTER, ENDPOINT, SECRET)
"""What others refer to: added first, taken away last."""

_WAITED_FOR = (ENDPOINT, SECRET)
_LONGEST = 5
"""New snapshots renew a wait, but not beyond this many time-outs."""
_RECONNECT_WINDOW = 0.05
"""Seconds in which a client that comes back may be expected to ask for its clusters."""


class Phase(StrEnum):
    MAKE = "make"
    """New and changed clusters, endpoints and secrets; the old ones stay."""
    SWITCH = "switch"
    """Listeners, routes, and all that refers to clusters."""
    BREAK = "break"
    """The old clusters, endpoints and secrets go."""
    DONE = "done"


class Rollout:
    """The way of one aggregated stream to its target."""

    __slots__ = ("_began", "_deadline", "_reconnects_until", "held", "kept", "phase", "timed_out")

    def __init__(self) -> None:
        self.phase = Phase.DONE
        self.held: Mapping[tuple[str, str], str] = {}
        """(type URL, name) of what stays in its old form, since it would refer to this cluster,
        which the client rejected."""
        self.kept: frozenset[str] = frozenset()
        """Clusters no longer in the target that the client's routes still need."""
        self.timed_out = 0
        self._began = 0.0
        self._deadline = 0.0
        self._reconnects_until = 0.0

    def retarget(self, now: float, timeout: float) -> None:
        """The target has changed: begin anew, at the first phase."""
        if self.phase is Phase.DONE:
            self._began = now
            self._deadline = now + timeout
        else:
            self._deadline = min(now + timeout, self._began + _LONGEST * timeout)
        self.phase = Phase.MAKE

    def reconnected(self, now: float) -> None:
        """The client was here before: it will ask for its clusters soon, if it has any."""
        self._reconnects_until = now + _RECONNECT_WINDOW

    def advance(
        self, target: SnapshotView, watches: Mapping[str, Watch], now: float, timeout: float
    ) -> None:
        """Show each watch what it may see by now."""
        if self.phase is Phase.DONE and any(watch.view is None for watch in watches.values()):
            self.retarget(now, timeout)  # A type was subscribed to just now.
        if self.phase is Phase.MAKE:
            for type_url, watch in watches.items():
                if type_url in SUPPORT:
                    watch.set_view(target.of(type_url).overlay(watch.view or EMPTY))
                elif type_url == RUNTIME:
                    watch.set_view(target.of(type_url))
                else:
                    watch.upcoming = target.of(type_url)
            if not self._phase_over(self._make_acked(watches, now), now, timeout):
                return
            self.phase = Phase.SWITCH
        if self.phase is Phase.SWITCH:
            for type_url, watch in watches.items():
                if type_url in SUPPORT and watch.view is None:
                    watch.set_view(target.of(type_url))
            self._switch(target, watches)
            done = all(w.settled for t, w in watches.items() if t not in SUPPORT)
            if not self._phase_over(done, now, timeout):
                return
            self.phase = Phase.BREAK
        if self.phase is Phase.BREAK or self.kept or self.held:
            self._switch(target, watches)
            self._break(target, watches)
            self.phase = Phase.DONE

    def deadline(self, now: float) -> float | None:
        if self.phase is Phase.DONE:
            return None
        if now < self._reconnects_until:
            return min(self._reconnects_until, self._deadline)
        return self._deadline

    def _phase_over(self, done: bool, now: float, timeout: float) -> bool:
        if not done and now < self._deadline:
            return False
        if not done:
            self.timed_out += 1
        self._deadline = now + timeout
        return True

    def _make_acked(self, watches: Mapping[str, Watch], now: float) -> bool:
        clusters = watches.get(CLUSTER)
        if clusters is None:
            return now >= self._reconnects_until
        if not clusters.settled:
            return False
        for type_url in _WAITED_FOR:
            watch = watches.get(type_url)
            if watch is None or watch.view is None:
                continue
            for name in watch.subscription.names:
                missing = name in watch.view.resources and name not in watch.have
                if missing and not watch.rejects(name):
                    return False
        return True

    def _switch(self, target: SnapshotView, watches: Mapping[str, Watch]) -> None:
        clusters = watches.get(CLUSTER)
        untold = clusters is not None and clusters.stuck
        rejected = _rejected_clusters(watches)
        held: dict[tuple[str, str], str] = {}
        for type_url, watch in watches.items():
            if type_url in SUPPORT:
                continue
            watch.upcoming = EMPTY
            view = target.of(type_url)
            if rejected:
                view = self._holding(view, watch, rejected, held, untold=untold)
            if watch.view is None or view.since(watch.view).names:
                watch.set_view(view)
        self.held = held

    def _holding(
        self,
        view: View,
        watch: Watch,
        rejected: set[str],
        held: dict[tuple[str, str], str],
        *,
        untold: bool,
    ) -> View:
        """The view, but what would refer to a rejected cluster stays as the client has it.

        ``untold``: what that is, nobody knows yet; then nothing is said about it at all.
        """
        old: dict[str, Resource | None] = {}
        for name, resource in view.resources.items():
            had = watch.have.get(name)
            if had is None:
                if not untold or watch.full_state:
                    continue
            elif had.version == resource.version or not had.body:
                continue
            for need in resource.needs:
                new = had is None or need not in had.needs
                if new and need[0] == CLUSTER and need[1] in rejected:
                    old[name] = had
                    held[watch.type_url, name] = need[1]
        if not old:
            return view
        kept = {**view.resources, **old}
        return View({name: resource for name, resource in kept.items() if resource is not None})

    def _break(self, target: SnapshotView, watches: Mapping[str, Watch]) -> None:
        needed = set(_needs(_in_use(target, watches)))
        kept: set[str] = set()
        for type_url in SUPPORT:  # Clusters first: what they need is kept too.
            watch = watches.get(type_url)
            if watch is None:
                continue
            view = target.of(type_url)
            stale = {
                name: resource
                for name, resource in (watch.view or EMPTY).resources.items()
                if name not in view.resources and (type_url, name) in needed
            }
            if stale:
                view = View({**stale, **view.resources})
                needed.update(_needs(stale.values()))
                if type_url == CLUSTER:
                    kept.update(stale)
            if watch.view is None or view.since(watch.view).names:
                watch.set_view(view)
        self.kept = frozenset(kept)


def _rejected_clusters(watches: Mapping[str, Watch]) -> set[str]:
    """Clusters that the client does not have, and will not have."""
    clusters, endpoints = watches.get(CLUSTER), watches.get(ENDPOINT)
    if clusters is None:
        return set()
    rejected = {name for name in clusters.quarantine.rejected if name not in clusters.have}
    if clusters.stuck and clusters.view is not None:
        # Nobody knows which of them it has, but for those whose endpoints it takes.
        proven = endpoints.have if endpoints is not None else {}
        for name, cluster in clusters.view.resources.items():
            needed = [need for kind, need in cluster.needs if kind == ENDPOINT]
            if name not in clusters.have and not any(need in proven for need in needed):
                rejected.add(name)
    return rejected


def _in_use(target: SnapshotView, watches: Mapping[str, Watch]) -> Iterable[Resource]:
    """What the client has, or may have, that is not what the target says."""
    for type_url, watch in watches.items():
        if type_url in SUPPORT:
            continue
        wanted = target.of(type_url).resources
        pending = watch.pending.by_name.values() if watch.pending is not None else ()
        for resource in (*watch.have.values(), *pending):
            current = wanted.get(resource.name)
            if current is None or current.version != resource.version:
                yield resource


def _needs(resources: Iterable[Resource]) -> Iterable[tuple[str, str]]:
    return (need for resource in resources for need in resource.needs)
