"""One type on one stream: what the client wants, what it has, and what it must be told next.

State-of-the-World and Delta differ in how a request is read and in how a response is put together
(:mod:`xds.protocol.sotw`, :mod:`xds.protocol.delta`); what to send is decided here, for both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from xds.protocol.ack_history import AckedSet
from xds.protocol.message import ErrorDetail, Response
from xds.protocol.quarantine import Quarantine, normalize_error
from xds.protocol.subscription import NOTHING, Change, Subscription
from xds.protocol.view import EMPTY, View
from xds.resource import SECRET, Resource

AckedSetOf = Callable[[str, str], AckedSet | None]
"""(type URL, version) to what this client has that says it has accepted this version of the whole
set; None where nobody knows."""

LastGood = Callable[[str, str], Resource | None]
"""(type URL, name) to the form of a resource that others like this client have accepted."""


class Kind(StrEnum):
    """What a request turned out to be."""

    SUBSCRIBE = "subscribe"
    ACK = "ack"
    NACK = "nack"
    STALE = "stale"
    """SotW: it answers a response that is no longer the last; ignored."""
    REPEAT = "repeat"
    """SotW: asks again for what it has, because a cluster is warming."""


@dataclass(frozen=True, slots=True)
class Received:
    """What became of one request."""

    kind: Kind
    type_url: str
    nonce: str = ""
    version: str = ""
    """Of the response that is answered."""
    names: tuple[str, ...] = ()
    """Newly asked for."""
    latency: float | None = None
    """Seconds from sending the response to this answer."""
    error: str = ""
    """The client's words, without salt."""
    culprits: tuple[str, ...] = ()
    """Names known to be rejected by this NACK; empty while they are still looked for."""
    accepted: tuple[Resource, ...] = ()
    """What the client has since this ACK and had not before."""


@dataclass(slots=True)
class Pending:
    """A response that the client has not answered yet."""

    response: Response
    sent_at: float
    by_name: dict[str, Resource]


@dataclass(slots=True)
class Counters:
    sent: int = 0
    acked: int = 0
    nacked: int = 0
    stale: int = 0
    bytes_sent: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """A response and when it was answered, for people."""

    version: str
    nonce: str
    at: float


@dataclass(frozen=True, slots=True)
class LastError:
    message: str
    code: int
    version: str
    nonce: str
    at: float
    culprits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What the client does not have yet."""

    upserts: Mapping[str, Resource] = field(default_factory=dict)
    removals: frozenset[str] = frozenset()
    """Names that the client has, or asked for, and that do not exist."""

    def __bool__(self) -> bool:
        return bool(self.upserts or self.removals)


class Watch(ABC):
    """State of one type on one stream."""

    full_state = False
    """Each response carries everything, and what is missing in it is deleted."""

    def __init__(self, type_url: str, acked_set: AckedSetOf, last_good: LastGood) -> None:
        self.type_url = type_url
        self.subscription = Subscription(type_url)
        self.view: View | None = None
        """What the client is meant to have; None: nothing may be said yet."""
        self.upcoming = EMPTY
        """What it will be meant to have once the rollout gets there: of a name that is in here the
        client is not told that it does not exist."""
        self.have: dict[str, Resource] = {}
        """What the client has acknowledged (in Delta also what it claimed at the start: then
        without a body)."""
        self.pending: Pending | None = None
        self.quarantine = Quarantine()
        self.started = False
        self.last_nonce = ""
        self.sent: Answered | None = None
        self.acked: Answered | None = None
        self.error: LastError | None = None
        self.counters = Counters()
        self.not_before = 0.0
        self._acked_set = acked_set
        self._last_good = last_good
        self._dirty: set[str] = set()
        self._forced: set[str] = set()
        self._uncertain: set[str] = set()
        self._response_due = False
        self._held: View | None = None
        """A view that cannot be sent to this client without deleting what it may have."""

    # What the server side wants.

    def set_view(self, view: View) -> None:
        """Make ``view`` what the client is meant to have."""
        old = self.view if self.view is not None else EMPTY
        first = self.view is None
        self.view = view
        if first:
            self._dirty.update(name for name in self.have if self.subscription.covers(name))
        if view is not old:
            names = view.since(old).names
            if self.subscription.wildcard:
                self._dirty |= names
            else:
                self._dirty.update(name for name in names if self.subscription.covers(name))

    def resend(self, names: Iterable[str]) -> None:
        """Send these once more even if nothing changed: a cluster or listener that was replaced
        waits for them anew."""
        for name in names:
            if self.subscription.covers(name) and name in (self.view or EMPTY).resources:
                self._forced.add(name)
                self._dirty.add(name)

    def next(self, nonce: str, now: float) -> Response | None:
        """The response to send now, if any; afterwards it is pending."""
        if self._must_wait or now < self.not_before:
            return None
        self._apply_due(now)
        work = self._work()
        if not work and not self._response_due:
            return None
        versions = {name: resource.version for name, resource in work.upserts.items()}
        batch = self.quarantine.next_batch(versions)
        if self.type_url == SECRET:
            batch = self._one_at_a_time(batch, work.upserts)
        upserts = {name: work.upserts[name] for name in sorted(batch)}
        if not upserts and not work.removals and not self._response_due:
            return None
        response = self._compose(nonce, upserts, work.removals)
        if response is None:
            # Not in parts, then: all at once, the rejected too, since the client may take the rest
            # of it; unless just this is what it has rejected.
            response = self._compose(nonce, {**self._wanted(), **work.upserts}, work.removals)
            rejected = self.error.version if self.error is not None else None
            if response is None or response.version == rejected:
                self._held = self.view
                return None
        self._response_due = False
        self._forced -= response.changes.keys()
        self._dirty -= response.changes.keys()
        self.pending = Pending(response, now, {r.name: r for r in response.resources})
        self.last_nonce = nonce
        self.sent = Answered(response.version, nonce, now)
        self.counters.sent += 1
        return response

    def _one_at_a_time(
        self, batch: frozenset[str], upserts: Mapping[str, Resource]
    ) -> frozenset[str]:
        """Envoy acknowledges a secret that it rejected when it gets the same again, and does not
        use it. So nobody could find out afterwards which of several it was: each goes alone until
        this client, or a peer, has accepted it."""
        trusted = []
        for name in batch:
            version = upserts[name].version
            good = self.have.get(name)
            if good is None or good.version != version:
                good = self._last_good(self.type_url, name)
            if good is not None and good.version == version:
                trusted.append(name)
        return frozenset(trusted or sorted(batch)[:1])

    @property
    def settled(self) -> bool:
        """Whether the client has, or has rejected, all that it is meant to have."""
        return self.pending is None and self.view is not None and not self._has_work()

    @property
    def stuck(self) -> bool:
        """Whether the client cannot be told what it is meant to have: nobody knows what it has, and
        it rejects the whole."""
        return self._held is not None and self._held is self.view

    def rejects(self, name: str) -> bool:
        """Whether the present content of this name was rejected."""
        wanted = (self.view or EMPTY).resources.get(name)
        return self.quarantine.rejects(name, wanted.version if wanted else None)

    def deadline(self) -> float | None:
        """When to look again although nothing happens. Not before something could be sent then: who
        waits for this would look again and again."""
        due = None if self._must_wait else self._due()
        return due if due is None else max(due, self.not_before)

    def _due(self) -> float | None:
        """When something that was put off is to be sent."""
        return self.not_before if self.not_before and self._has_work() else None

    @property
    def _must_wait(self) -> bool:
        """Nothing can be sent, whatever the time."""
        return self.pending is not None or self.view is None or not self.started or self.stuck

    # What the client says.

    def _acknowledge(self, now: float) -> Received:
        assert self.pending is not None
        pending, self.pending = self.pending, None
        response = pending.response
        for name, version in response.changes.items():
            if version is None or not self.subscription.covers(name):
                self.have.pop(name, None)
            else:
                self.have[name] = pending.by_name[name]
        self._uncertain -= response.changes.keys()
        self._dirty |= response.changes.keys()
        self.quarantine.acked(response.changes)
        self.not_before = 0.0
        self.acked = Answered(response.version, response.nonce, now)
        if not self.quarantine.searching and not self.quarantine.rejected:
            self.error = None
        self.counters.acked += 1
        return Received(
            Kind.ACK,
            self.type_url,
            response.nonce,
            response.version,
            latency=now - pending.sent_at,
            accepted=tuple(
                pending.by_name[name] for name, v in response.changes.items() if v is not None
            ),
        )

    def _reject(self, error: ErrorDetail, now: float) -> Received:
        """A NACK: nobody knows how much of the response was applied, so none of it counts."""
        assert self.pending is not None
        pending, self.pending = self.pending, None
        response = pending.response
        words = normalize_error(error.message)
        self._uncertain |= response.changes.keys()
        self._dirty |= response.changes.keys()
        culprits = tuple(sorted(self.quarantine.nacked(response.changes, words, now)))
        backoff = self.quarantine.backoff()
        self.not_before = now + backoff if backoff else 0.0
        self.error = LastError(words, error.code, response.version, response.nonce, now, culprits)
        self.counters.nacked += 1
        return Received(
            Kind.NACK,
            self.type_url,
            response.nonce,
            response.version,
            latency=now - pending.sent_at,
            error=words,
            culprits=culprits,
        )

    def _subscribed(self, change: Change) -> None:
        """Take in a change of subscription."""
        if change != NOTHING:
            self._held = None  # What was bad may not be asked for any more.
        self._ask(change.added)
        for name in change.dropped:
            self._forget(name)
        if change.wildcard_added:
            self._response_due = True
            self._dirty.update((self.view or EMPTY).resources, self.have)
        if change.wildcard_dropped:
            for name in [name for name in self.have if not self.subscription.covers(name)]:
                self._forget(name)

    def _ask(self, names: Iterable[str]) -> None:
        """The client wants these told, whatever it is believed to have."""
        for name in names:
            if self.subscription.is_namespace(name):
                self._response_due = True
                inside = (n for n in (self.view or EMPTY).resources if n.startswith(f"{name}/"))
                self._ask(inside)
                continue
            self._forced.add(name)
            self._dirty.add(name)
            self.quarantine.rejected.pop(name, None)

    def _forget(self, name: str) -> None:
        self.have.pop(name, None)
        self._forced.discard(name)
        self._dirty.discard(name)
        self._uncertain.discard(name)

    # What to send.

    def _work(self) -> Work:
        """What is outstanding. Names about which nothing need be said are dropped on the way."""
        resources = (self.view or EMPTY).resources
        upserts: dict[str, Resource] = {}
        removals: set[str] = set()
        done: list[str] = []
        for name in self._dirty:
            if not self.subscription.covers(name):
                done.append(name)
                continue
            wanted = resources.get(name)
            known = self.have.get(name)
            asked = name in self._forced or name in self._uncertain
            if wanted is None:
                if (known is None and not asked) or self.quarantine.rejects(name, None):
                    done.append(name)
                elif known is None and name in self.upcoming.resources:
                    continue  # Soon: it stays to be told.
                elif self._reports_absence(known is not None or name in self._uncertain):
                    removals.add(name)
                else:
                    self.have.pop(name, None)
                    done.append(name)
            elif self.quarantine.rejects(name, wanted.version):
                good = self._last_good(self.type_url, name) if known is None else None
                if good is None or self.quarantine.rejects_fallback(name, good.version):
                    done.append(name)
                else:
                    upserts[name] = good
            elif not asked and known is not None and known.version == wanted.version:
                done.append(name)
            else:
                upserts[name] = wanted
        for name in done:
            self._dirty.discard(name)
            self._forced.discard(name)
        return Work(upserts, frozenset(removals))

    def _wanted(self) -> dict[str, Resource]:
        """All that the client is meant to have."""
        resources = (self.view or EMPTY).resources
        return {n: r for n, r in resources.items() if self.subscription.covers(n)}

    def _has_work(self) -> bool:
        return bool(self._dirty) and not self.stuck and bool(self._work())

    @abstractmethod
    def _apply_due(self, now: float) -> None:
        """Take up what was put off until now."""

    @abstractmethod
    def _reports_absence(self, known: bool) -> bool:
        """Whether the client is told that a name does not exist; ``known``: it may have it."""

    @abstractmethod
    def _compose(
        self, nonce: str, upserts: Mapping[str, Resource], removals: frozenset[str]
    ) -> Response | None:
        """Put a response together. None: it cannot be said without doing harm."""
