"""Delta (incremental xDS): requests change a subscription, responses carry what changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from xds.protocol.message import DeltaRequest, Response
from xds.protocol.view import EMPTY
from xds.protocol.watch import Kind, Received, Watch
from xds.resource import VIRTUAL_HOST, Resource


class DeltaWatch(Watch):
    def receive(self, request: DeltaRequest, now: float) -> Received:
        first = not self.started
        self.started = True
        received = Received(Kind.SUBSCRIBE, self.type_url, request.nonce)
        if self.pending is not None and request.nonce == self.pending.response.nonce:
            if request.error is not None:
                received = self._reject(request.error, now)
            else:
                received = self._acknowledge(now)
        elif request.nonce:
            self.counters.stale += 1
            received = Received(Kind.STALE, self.type_url, request.nonce)
        # Changes of subscription count whatever the nonce: nonces only match answers here.
        change = self.subscription.update(request.subscribe, request.unsubscribe, first)
        if first:
            for name, version in request.initial_versions.items():
                if self.subscription.covers(name):
                    self.have[name] = Resource(self.type_url, name, b"", version)
        self._subscribed(change)
        self._ask(change.uncovered)
        return replace(received, names=tuple(sorted(change.added))) if change.added else received

    def _apply_due(self, now: float) -> None:
        """Nothing is ever put off."""

    def _reports_absence(self, known: bool) -> bool:
        return True

    def _compose(
        self, nonce: str, upserts: Mapping[str, Resource], removals: frozenset[str]
    ) -> Response | None:
        changes: dict[str, str | None] = {name: r.version for name, r in upserts.items()}
        changes.update(dict.fromkeys(removals))
        resources = tuple(upserts.values())
        removed = tuple(sorted(removals))
        if self.type_url == VIRTUAL_HOST:
            # A host that does not exist and was asked for is answered with its bare name.
            bare = [name for name in removed if name not in self.have]
            resources += tuple(Resource(self.type_url, name, b"") for name in bare)
            removed = tuple(name for name in removed if name in self.have)
        return Response(
            self.type_url, nonce, (self.view or EMPTY).version, resources, removed, changes
        )
