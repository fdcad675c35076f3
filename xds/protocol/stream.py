"""One xDS stream: requests in, responses out, the newest snapshot always the goal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xds.protocol.ack_history import AckedSet, AckHistory
from xds.protocol.delta import DeltaWatch
from xds.protocol.message import DeltaRequest, Request, Response, SotwRequest
from xds.protocol.rollout import Rollout
from xds.protocol.sotw import SotwWatch
from xds.protocol.view import SnapshotView
from xds.protocol.watch import Kind, Received, Watch
from xds.resource import CLUSTER, ENDPOINT, LISTENER, SECRET, TYPES, Resource

_ORDER = {type_url: rank for rank, type_url in enumerate(TYPES)}


class ProtocolError(ValueError):
    """The client breaks the protocol or a limit: the stream must end, with these words."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    phase_timeout: float = 2.0
    """Seconds that a phase of a rollout waits for its ACKs."""
    max_names: int = 20_000
    """Names that one type of one stream may subscribe to."""
    max_types: int = 32


class Stream:
    """All the state of one stream. Aggregated where ``type_url`` is None."""

    def __init__(
        self,
        *,
        delta: bool,
        type_url: str | None = None,
        settings: StreamSettings | None = None,
    ) -> None:
        self.delta = delta
        self.type_url = type_url
        self.settings = settings or StreamSettings()
        self.watches: dict[str, Watch] = {}
        self.target: SnapshotView | None = None
        self.rollout = Rollout()
        self._node_id = ""
        self._ack_history = AckHistory()
        self._nonce = 0

    def join(self, node_id: str, ack_history: AckHistory) -> None:
        """Tell whose stream it is, and what its node and others like it have acknowledged."""
        self._node_id = node_id
        self._ack_history = ack_history

    def receive(self, request: Request, now: float) -> Received:
        """Take in a request. Raises ProtocolError where the stream must end."""
        type_url = self._type_of(request)
        watch = self.watches.get(type_url)
        if watch is None:
            if len(self.watches) >= self.settings.max_types:
                raise ProtocolError(f"more than {self.settings.max_types} types on one stream")
            watch = self._watch(type_url)
            if _says_it_was_here(request):
                self.rollout.reconnected(now)
        received = self._read(watch, request, now)
        if len(watch.subscription.names) > self.settings.max_names:
            raise ProtocolError(
                f"{len(watch.subscription.names)} names of {type_url} subscribed, "
                f"at most {self.settings.max_names} are allowed; use the wildcard '*'"
            )
        self._remember(watch, received)
        return received

    def offer(self, target: SnapshotView, now: float) -> None:
        """Make ``target`` what the client is meant to have in the end."""
        if self.target is not None and target.snapshot.version == self.target.snapshot.version:
            return
        self.target = target
        self.rollout.retarget(now, self.settings.phase_timeout)

    def lacks(self, received: Received) -> bool:
        """Whether a request asked for a name that the target does not have."""
        if self.target is None:
            return False
        watch, has = self.watches[received.type_url], self.target.of(received.type_url).resources
        return any(n not in has and not watch.subscription.is_namespace(n) for n in received.names)

    def poll(self, now: float) -> Iterator[Response]:
        """What to send now, in order. Each response counts as sent when it is taken."""
        if self.target is None:
            return
        if self.type_url is None:
            self.rollout.advance(self.target, self.watches, now, self.settings.phase_timeout)
        else:
            for type_url, watch in self.watches.items():
                watch.set_view(self.target.of(type_url))
        for type_url in sorted(self.watches, key=lambda t: _ORDER.get(t, len(_ORDER))):
            watch = self.watches[type_url]
            response = watch.next(str(self._nonce + 1), now)
            if response is not None:
                self._nonce += 1
                self._resend_dependants(response)
                yield response

    def deadline(self, now: float) -> float | None:
        """When to poll again although nothing happens."""
        if self.target is None:
            return None
        due = [watch.deadline() for watch in self.watches.values()]
        if self.type_url is None:
            due.append(self.rollout.deadline(now))
        return min((at for at in due if at is not None), default=None)

    @property
    def converged(self) -> bool:
        """Whether the client has acknowledged all of the target that it subscribed to."""
        if self.target is None or not self.watches:
            return False
        if self.type_url is None and (self.rollout.phase != "done" or self.rollout.held):
            return False
        return all(
            watch.settled and not watch.quarantine.rejected for watch in self.watches.values()
        )

    def _type_of(self, request: Request) -> str:
        if self.type_url is None:
            if not request.type_url:
                raise ProtocolError("a request on an aggregated stream must carry a type_url")
            return request.type_url
        if request.type_url not in ("", self.type_url):
            raise ProtocolError(f"this service speaks of {self.type_url}, not {request.type_url}")
        return self.type_url

    def _watch(self, type_url: str) -> Watch:
        kind = DeltaWatch if self.delta else SotwWatch
        watch = self.watches[type_url] = kind(type_url, self._acked_set, self._last_good)
        return watch

    def _acked_set(self, type_url: str, version: str) -> AckedSet | None:
        if self.target is None:
            return None
        view = self.target.of(type_url)
        current = {view.version: view.resources}
        return self._ack_history.acked_set(self._node_id, type_url, version, current)

    def _last_good(self, type_url: str, name: str) -> Resource | None:
        if self.target is None:
            return None
        return self._ack_history.last_good(type_url, name, self.target)

    def _remember(self, watch: Watch, received: Received) -> None:
        history, type_url = self._ack_history, received.type_url
        if received.kind is Kind.ACK:
            if self.target is not None:
                history.accept(received.accepted, self.target)
            if watch.full_state:
                history.acked(self._node_id, type_url, received.version, watch.have)
        elif received.kind is Kind.NACK and watch.full_state:
            history.nacked(self._node_id, type_url)

    def _read(self, watch: Watch, request: Request, now: float) -> Received:
        if isinstance(watch, DeltaWatch) and isinstance(request, DeltaRequest):
            return watch.receive(request, now)
        if isinstance(watch, SotwWatch) and isinstance(request, SotwRequest):
            return watch.receive(request, now)
        raise TypeError(f"{type(request).__name__} on a {'delta' if self.delta else 'SotW'} stream")

    def _resend_dependants(self, response: Response) -> None:
        """A cluster or listener that is replaced warms anew: it waits for its endpoints and
        secrets although these did not change, and in Delta it does not even ask."""
        if response.type_url not in (CLUSTER, LISTENER):
            return
        endpoints, secrets = self.watches.get(ENDPOINT), self.watches.get(SECRET)
        if endpoints is None and secrets is None:
            return
        for resource in response.resources:
            if resource.name not in response.changes:
                continue
            needs = resource.needs
            if response.type_url == CLUSTER and not needs:
                needs = ((ENDPOINT, resource.name),)
            for type_url, name in needs:
                if type_url == ENDPOINT and endpoints is not None:
                    endpoints.resend((name,))
                elif type_url == SECRET and secrets is not None:
                    secrets.resend((name,))


def _says_it_was_here(request: Request) -> bool:
    if isinstance(request, SotwRequest):
        return bool(request.version)
    return bool(request.initial_versions)
