"""State-of-the-World: each request lists all names, a response may be the whole truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from xds.protocol.message import Response, SotwRequest
from xds.protocol.subscription import WILDCARD
from xds.protocol.view import EMPTY, set_version
from xds.protocol.watch import AckedSetOf, Answered, Kind, LastGood, Received, Watch
from xds.resource import CLUSTER, LISTENER, SCOPED_ROUTE, Resource

FULL_STATE = frozenset({LISTENER, CLUSTER, SCOPED_ROUTE})
"""Types of which a client deletes what a response does not contain."""

_REPEAT_INTERVAL = 1.0
"""Seconds between answers to a client that keeps asking for what it was just given."""


class SotwWatch(Watch):
    def __init__(self, type_url: str, acked_set: AckedSetOf, last_good: LastGood) -> None:
        super().__init__(type_url, acked_set, last_good)
        self.full_state = type_url in FULL_STATE
        self._claimed = ""
        self._exact = True
        self._given_up: set[str] = set()
        """Names that a request left out which crossed with a response: its client may have thrown
        them away, also where the next request names them again."""
        self._repeated_at = float("-inf")
        self._repeat_at: float | None = None

    def receive(self, request: SotwRequest, now: float) -> Received:
        if not self.started:
            # A nonce or an error here belongs to an earlier stream.
            self.started = True
            self._claimed = request.version
            self._exact = not request.version
            return self._subscribe(request)
        if request.nonce != self.last_nonce:
            self.counters.stale += 1
            self._given_up |= self._left_out(frozenset(request.names))
            return Received(Kind.STALE, self.type_url, request.nonce, request.version)
        if self.pending is not None and request.nonce:
            if request.error is not None:
                received = self._reject(request.error, now)
            else:
                received = self._acknowledge(now)
            return replace(received, names=self._subscribe(request).names)
        before = (set(self.subscription.names), self.subscription.wildcard)
        received = self._subscribe(request)
        if before == (self.subscription.names, self.subscription.wildcard):
            if request.error is None and not self.subscription.wildcard:
                self._repeat_at = max(now, self._repeated_at + _REPEAT_INTERVAL)
            return Received(Kind.REPEAT, self.type_url, request.nonce, request.version)
        return received

    def _left_out(self, names: frozenset[str]) -> set[str]:
        """What the subscription has and a request for ``names`` has not."""
        subscription = self.subscription
        had = set(subscription.names)
        if subscription.wildcard and WILDCARD not in names and (names or not subscription.legacy):
            had |= self.have.keys()
            if self.pending is not None:
                had |= self.pending.by_name.keys()
        return had - names

    def _due(self) -> float | None:
        return min((at for at in (super()._due(), self._repeat_at) if at is not None), default=None)

    def _subscribe(self, request: SotwRequest) -> Received:
        change = self.subscription.replace(request.names)
        self._subscribed(change)
        if self._given_up:
            self._ask([name for name in self._given_up if self.subscription.covers(name)])
            self._given_up.clear()
        if self.full_state and change.added:
            # Absence from a full answer is how these types say "does not exist".
            self._response_due = True
        return Received(
            Kind.SUBSCRIBE, self.type_url, request.nonce, names=tuple(sorted(change.added))
        )

    def _apply_due(self, now: float) -> None:
        self._restore_claimed(now)
        if self._repeat_at is not None and now >= self._repeat_at:
            self._repeat_at = None
            self._repeated_at = now
            self.resend(tuple(self.subscription.names))

    def _reports_absence(self, known: bool) -> bool:
        return self.full_state and known

    def _compose(
        self, nonce: str, upserts: Mapping[str, Resource], removals: frozenset[str]
    ) -> Response | None:
        if not self.full_state:
            return Response(
                self.type_url,
                nonce,
                (self.view or EMPTY).version,
                tuple(upserts.values()),
                changes={name: resource.version for name, resource in upserts.items()},
            )
        resources = self._everything(upserts)
        if resources is None:
            return None
        view = self.view or EMPTY
        whole = len(resources) == len(view.resources) and all(
            resource.version == view.resources[resource.name].version for resource in resources
        )
        changes: dict[str, str | None] = {name: r.version for name, r in upserts.items()}
        changes.update(dict.fromkeys(removals))
        version = view.version if whole else set_version(resources)
        return Response(self.type_url, nonce, version, resources, changes=changes)

    def _restore_claimed(self, now: float) -> None:
        """A client that comes back tells which set it has accepted. If that is known, only what
        changed since need be sent, and nothing at all if nothing did."""
        claimed, self._claimed = self._claimed, ""
        if not claimed or not self.full_state:
            return
        acked = self._acked_set(self.type_url, claimed)
        if acked is None:
            return
        self.have = {n: r for n, r in acked.resources.items() if self.subscription.covers(n)}
        # Who says what it wants may have wanted something else before, and thrown away what it had
        # then: the version that it claims does not tell.
        certain = acked.certain and self.subscription.legacy
        if not certain:
            self._uncertain |= self.have.keys()
        self._dirty |= self.have.keys()
        self._exact = True
        self.acked = Answered(claimed, "", now)
        if certain:
            self._response_due = False

    def _everything(self, upserts: Mapping[str, Resource]) -> tuple[Resource, ...] | None:
        """The whole set, with ``upserts`` in their new form and the rest as the client has it.

        What is held back (it was rejected, or is under suspicion) stays as it was accepted last,
        and is left out where it never was. None where the client may have content from before
        this stream which leaving it out would delete.
        """
        everything = []
        for name in self._wanted():
            kept = upserts.get(name, self.have.get(name))
            if kept is not None:
                everything.append(kept)
            elif not self._exact:
                return None
        return tuple(everything)

    def _acknowledge(self, now: float) -> Received:
        pending = self.pending
        received = super()._acknowledge(now)
        if self.full_state and pending is not None:
            self.have = {
                name: resource
                for name, resource in pending.by_name.items()
                if self.subscription.covers(name)
            }
            self._exact = True
        return received
