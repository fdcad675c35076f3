"""Whatever happens in whatever order, a client ends with exactly what it subscribed to."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.xds.model import (
    DeltaClient,
    ModelClient,
    SotwClient,
    bad_content,
    content,
    is_bad,
)
from xds.protocol.ack_history import AckHistory
from xds.protocol.message import Response
from xds.protocol.sotw import FULL_STATE
from xds.protocol.stream import Stream
from xds.protocol.view import SnapshotView
from xds.protocol.watch import Kind
from xds.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource
from xds.snapshot import Snapshot

NAMES = ("a", "b", "cc", "dd")
TYPES = (CLUSTER, ENDPOINT)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(TYPES),
        st.sampled_from(NAMES[:3]),
        st.sampled_from(("good 1", "good 2", "good 3", "bad", "gone")),
    ),
    min_size=1,
    max_size=4,
)


SETTINGS = settings(max_examples=150, stateful_step_count=25)


class AnyClient(RuleBasedStateMachine):
    """Random subscriptions, changes, delays, crossings, rejections and reconnects."""

    delta = False
    aggregated = True

    @initialize(takes=st.booleans(), names=st.booleans(), start=CHANGES, wild=st.booleans())
    def begin(
        self, takes: bool, names: bool, start: list[tuple[str, str, str]], wild: bool
    ) -> None:
        """The client has something from the start: most runs would be about nothing otherwise."""
        kind = DeltaClient if self.delta else SotwClient
        self.client: ModelClient = kind(takes_good_part=takes, names_culprit=names)
        self.content: dict[tuple[str, str], Resource] = {}
        self.history = AckHistory()
        self.now = 0.0
        self.number = 0
        self.forgot = False
        self.kept: set[tuple[str, str]] = set()
        self.to_client: list[Response] = []
        self.target: SnapshotView | None = None
        self.unanswered: Counter[str] = Counter()
        self.open()
        self.change([(kind, name, "good 1") for kind in TYPES for name in NAMES[:2]])
        self.change(start)
        for kind in TYPES:
            self.subscribe(kind, set() if wild else {"a", "b"}, wild)
        self.settle()

    def open(self) -> None:
        self.stream = Stream(delta=self.delta)
        self.stream.join("node", self.history)
        self.to_client.clear()
        self.unanswered.clear()
        if self.target is not None:
            self.stream.offer(self.target, self.now)

    @rule(
        kind=st.sampled_from(TYPES),
        names=st.sets(st.sampled_from(NAMES[:3])),
        wild=st.booleans(),
    )
    def subscribe(self, kind: str, names: set[str], wild: bool) -> None:
        if not names and not wild and self.client.of(kind).first:
            return
        self.client.subscribe(kind, names, wildcard=wild)
        self.kept = {(k, n) for k, n in self.kept if k != kind or wild or n in names}

    @rule(changes=CHANGES)
    def change(self, changes: list[tuple[str, str, str]]) -> None:
        self.author(changes)
        self.publish()

    def author(self, changes: list[tuple[str, str, str]]) -> None:
        for kind, name, what in changes:
            if what == "gone":
                self.content.pop((kind, name), None)
            elif what == "bad":
                self.number += 1
                self.content[kind, name] = bad_content(kind, name, self.number)
            else:
                self.content[kind, name] = content(kind, name, int(what[-1]))

    @rule(kind=st.sampled_from(TYPES), bad=st.sampled_from(("a", "b")))
    def change_and_back_while_the_rejection_is_on_its_way(self, kind: str, bad: str) -> None:
        self.settle()
        before = dict(self.content)
        self.change([(kind, n, "bad" if n == bad else "good 3") for n in ("a", "b")])
        self.poll()
        while self.to_client:
            self.deliver_response()
        self.content = before
        self.publish()

    @rule()
    def peers_accept_what_is_good(self) -> None:
        assert self.target is not None
        good = [one for one in self.content.values() if not is_bad(one)]
        self.history.accept(good, self.target)

    def publish(self) -> None:
        self.kept &= self.content.keys()
        self.target = SnapshotView(Snapshot.of(self.content.values()), self.target)
        self.stream.offer(self.target, self.now)

    @precondition(lambda self: self.client.outbox)
    @rule()
    def deliver_request(self) -> None:
        request = self.client.outbox.pop(0)
        received = self.stream.receive(request, self.now)
        if received.kind in (Kind.ACK, Kind.NACK):
            self.unanswered[received.type_url] -= 1
        if received.kind is Kind.ACK and received.type_url in FULL_STATE:
            watch = self.stream.watches[received.type_url]
            has = {(received.type_url, name) for name in watch.have}
            # Of what the client said it has, what it was never told to drop since.
            self.kept.update(has & self.content.keys())
        self.poll()

    @rule()
    def everything_arrives(self) -> None:
        self.settle()

    @rule()
    def poll(self) -> None:
        for response in self.stream.poll(self.now):
            self.unanswered[response.type_url] += 1
            self.to_client.append(response)

    @precondition(lambda self: self.to_client)
    @rule()
    def deliver_response(self) -> None:
        self.client.receive(self.to_client.pop(0))

    @rule(seconds=st.sampled_from((0.001, 0.5, 3.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(meanwhile=CHANGES)
    def reconnect(self, meanwhile: list[tuple[str, str, str]]) -> None:
        self.author(meanwhile)
        self.kept &= self.content.keys()
        self.target = SnapshotView(Snapshot.of(self.content.values()), self.target)
        self.open()
        self.client.reconnect()

    @rule(meanwhile=CHANGES)
    def server_restarts(self, meanwhile: list[tuple[str, str, str]]) -> None:
        self.history = AckHistory()
        self.forgot = True
        self.reconnect(meanwhile)

    @invariant()
    def at_most_one_response_of_a_type_is_unanswered(self) -> None:
        if hasattr(self, "unanswered"):
            assert all(count <= 1 for count in self.unanswered.values()), self.unanswered

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        self.publish()
        self.settle()
        self.check()

    def settle(self) -> None:
        """Let everything arrive, until nobody has anything to say."""
        for _ in range(2000):
            while self.client.outbox:
                self.deliver_request()
            self.poll()
            if self.to_client:
                self.deliver_response()
            elif not self.client.outbox:
                deadline = self.stream.deadline(self.now)
                if deadline is None:
                    return
                self.now = max(self.now, deadline) + 0.001
        raise AssertionError("client and server never stop talking")

    def check(self) -> None:
        assert self.target is not None
        for kind, state in self.client.types.items():
            wanted = {n: r for n, r in self.target.of(kind).resources.items() if state.wants(n)}
            full = kind in FULL_STATE and not self.delta
            # Nobody knows what a client has from before a restart: then it loses nothing, even if
            # that means that the neighbours of a bad resource wait.
            cautious = full and self.forgot and any(is_bad(r) for r in wanted.values())
            for name, resource in wanted.items():
                got = state.resources.get(name)
                if cautious and not is_bad(resource):
                    continue
                if not is_bad(resource):
                    assert got is not None, f"{kind} {name} never came"
                    assert got.version == resource.version, f"{kind} {name} is old"
                elif got is not None:
                    assert not is_bad(got)
                elif full:
                    assert (kind, name) not in self.kept, f"last good {name} was deleted"
            if (self.delta or full) and not cautious:
                extra = state.resources.keys() - wanted.keys()
                assert not extra, f"{kind} {extra} should be gone"


class DeltaAnyClient(AnyClient):
    delta = True


@pytest.mark.parametrize("machine", [AnyClient, DeltaAnyClient], ids=["sotw", "delta"])
def test_a_client_ends_with_exactly_what_it_subscribed_to(
    machine: type[RuleBasedStateMachine],
) -> None:
    run_state_machine_as_test(machine, settings=SETTINGS)


class EnvoyLike(RuleBasedStateMachine):
    """A client that asks for what its listeners and clusters need, and warms its clusters."""

    delta = False

    @initialize()
    def begin(self) -> None:
        self.client: ModelClient = DeltaClient() if self.delta else SotwClient()
        self.stream = Stream(delta=self.delta)
        self.to_client: list[Response] = []
        self.warming: set[str] = set()
        self.now = 0.0
        self.number = 0
        self.timeouts: dict[str, int] = {}
        self.routed = {"a"}
        self.publish()
        self.client.subscribe(CLUSTER, wildcard=True)
        self.client.subscribe(LISTENER, wildcard=True)

    @rule(
        routed=st.sets(st.sampled_from(NAMES), min_size=1),
        retimed=st.sets(st.sampled_from(NAMES)),
        moved=st.sets(st.sampled_from(NAMES)),
    )
    def change(self, routed: set[str], retimed: set[str], moved: set[str]) -> None:
        self.number += 1
        self.timeouts.update(dict.fromkeys(retimed, self.number))
        self.timeouts.update({f"{name} endpoints": self.number for name in moved})
        self.routed = routed
        self.publish()

    def publish(self) -> None:
        number = self.timeouts.get
        needs = tuple((CLUSTER, name) for name in sorted(self.routed))
        which = sum(2 ** NAMES.index(name) for name in self.routed)
        self.target = SnapshotView(
            Snapshot.of(
                [
                    content(LISTENER, "l", 1, (ROUTE, "r")),
                    content(ROUTE, "r", which, *needs),
                    *(content(CLUSTER, n, number(n, 0), (ENDPOINT, n)) for n in self.routed),
                    *(content(ENDPOINT, n, number(f"{n} endpoints", 0)) for n in self.routed),
                ]
            )
        )
        self.stream.offer(self.target, self.now)
        self.poll()

    def poll(self) -> None:
        self.to_client.extend(self.stream.poll(self.now))

    @precondition(lambda self: self.client.outbox)
    @rule()
    def deliver_request(self) -> None:
        self.stream.receive(self.client.outbox.pop(0), self.now)
        self.poll()

    @precondition(lambda self: self.to_client)
    @rule()
    def deliver_response(self) -> None:
        response = self.to_client.pop(0)
        before = dict(self.client.of(CLUSTER).resources)
        self.client.receive(response)
        clusters = self.client.of(CLUSTER).resources
        if response.type_url == CLUSTER:
            self.warming &= clusters.keys()
            for name, cluster in clusters.items():
                if name not in before or before[name].version != cluster.version:
                    self.warming.add(name)
            if sorted(clusters) != self.client.of(ENDPOINT).names:
                self.client.subscribe(ENDPOINT, clusters)
        elif response.type_url == ENDPOINT:
            self.warming -= {resource.name for resource in response.resources}
        elif response.type_url == LISTENER and self.client.of(ROUTE).names != ["r"]:
            self.client.subscribe(ROUTE, ["r"])

    @invariant()
    def no_route_leads_to_a_cluster_that_is_not_there(self) -> None:
        if not hasattr(self, "client"):
            return
        route = self.client.of(ROUTE).resources.get("r")
        for _kind, name in route.needs if route is not None else ():
            assert name in self.client.of(CLUSTER).resources, f"no cluster {name} for the route"

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        for _ in range(1000):
            if self.client.outbox:
                self.deliver_request()
            elif self.to_client:
                self.deliver_response()
            else:
                break
        assert not self.warming, f"these wait for endpoints for ever: {self.warming}"
        for kind in (CLUSTER, LISTENER, ROUTE):
            got = {n: r.version for n, r in self.client.of(kind).resources.items()}
            assert got == {n: r.version for n, r in self.target.of(kind).resources.items()}
        for name, resource in self.target.of(ENDPOINT).resources.items():
            assert self.client.of(ENDPOINT).resources[name].version == resource.version
        assert self.stream.converged


class DeltaEnvoyLike(EnvoyLike):
    delta = True


@pytest.mark.parametrize("machine", [EnvoyLike, DeltaEnvoyLike], ids=["sotw", "delta"])
def test_no_route_ever_leads_to_a_missing_cluster_and_no_cluster_warms_for_ever(
    machine: type[RuleBasedStateMachine],
) -> None:
    run_state_machine_as_test(machine, settings=SETTINGS)


def test_what_a_wildcard_covered_is_sent_again_when_it_was_given_up_and_asked_for_at_once() -> None:
    """The request that gives it up crosses with a response, so that nobody takes it in."""
    state = AnyClient()
    state.begin(takes=False, names=False, start=[(CLUSTER, "a", "good 1")], wild=False)
    state.subscribe(ENDPOINT, set(), wild=True)
    state.subscribe(ENDPOINT, set(), wild=False)
    state.subscribe(ENDPOINT, set(), wild=True)
    state.teardown()
