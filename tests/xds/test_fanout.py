"""Who is to get what, and when: streams, nodes and groups without a network or a clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.xds.model import DeltaClient, content
from xds.fanout import Connection, Event, Fanout
from xds.protocol.stream import Stream
from xds.resource import CLUSTER, ROUTE
from xds.snapshot import Node, Snapshot

DEBOUNCE = 0.1


def snapshot(number: int) -> Snapshot:
    return Snapshot.of([content(CLUSTER, "a", number)], cause=f"cluster {number}")


def dangling() -> Snapshot:
    return Snapshot.of([content(ROUTE, "r", 1, (CLUSTER, "gone"))])


class Provider:
    """A library user's own: does what a test says, by the cluster that a node names."""

    def __init__(self) -> None:
        self.groups: dict[str, str] = {}
        """By node id; otherwise the group is the node's cluster."""
        self.make: dict[str, Callable[[], Snapshot]] = {}
        self.forbidden: set[str] = set()

    def group(self, node: Node) -> str:
        return self.groups.get(node.id, node.cluster)

    def snapshot(self, node: Node) -> Snapshot | None:
        if node.id in self.forbidden:
            raise PermissionError("not you")
        make = self.make.get(self.group(node))
        return make() if make is not None else None


class Scene:
    def __init__(self) -> None:
        self.provider = Provider()
        self.fanout = Fanout(self.provider, debounce=DEBOUNCE, history_entries=10)
        self.now = 100.0

    def provide(self, make: Callable[[], Snapshot], group: str = "g") -> None:
        self.provider.make[group] = make

    def connect(self, node: str, group: str = "g") -> Connection:
        return self.fanout.register(Stream(delta=True), Node(node, group), self.now)

    def refresh(self) -> dict[Connection, PermissionError]:
        denied = self.fanout.refresh(self.now)
        self.fanout.refreshed(self.now)
        return denied


def cause(connection: Connection) -> str:
    target = connection.stream.target
    return target.snapshot.cause if target is not None else "nothing"


def test_the_first_change_goes_out_at_once_and_a_burst_together_after_the_debounce_time():
    at = Scene()
    assert at.fanout.change("first", at.now) == 0.0
    assert at.fanout.change("second", at.now) is None, "it is awaited"
    at.refresh()
    at.now += 0.03
    assert at.fanout.change("third", at.now) == pytest.approx(DEBOUNCE - 0.03)
    at.now += DEBOUNCE
    at.refresh()
    at.now += 1.0
    assert at.fanout.change("long after", at.now) == 0.0


def test_a_node_waits_while_nothing_is_known_for_it_and_is_then_given_it():
    at = Scene()
    waiting = at.connect("n")
    assert waiting.stream.target is None
    at.provide(lambda: snapshot(1))
    at.refresh()
    assert cause(waiting) == "cluster 1"


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (dangling, "RouteConfiguration 'r' needs Cluster 'gone', which is missing"),
        (lambda: 1 / 0, "cannot be made: ZeroDivisionError: division by zero"),
    ],
    ids=["refers to what is missing", "fails"],
)
def test_what_a_provider_cannot_make_is_told_and_the_last_good_one_stays(
    broken: Callable[[], Snapshot], problem: str
):
    at = Scene()
    at.provide(lambda: snapshot(1))
    first = at.connect("first")
    assert at.fanout.take_events() == [Event("g")]
    at.provide(broken)
    at.refresh()
    at.refresh()
    assert cause(first) == "cluster 1"
    assert cause(at.connect("newcomer")) == "cluster 1", "what its group has"
    (group,) = at.fanout.groups
    assert group.problem == problem
    (event,) = at.fanout.take_events()
    assert event.problem == problem, "told once"
    assert [entry.cause for entry in group.history(0.0)] == ["cluster 1"]
    at.provide(lambda: snapshot(2))
    at.refresh()
    assert group.problem == ""
    assert cause(first) == "cluster 2"


def test_a_first_snapshot_that_cannot_be_made_lets_nodes_wait():
    at = Scene()
    at.provide(dangling)
    assert at.connect("n").stream.target is None
    (group,) = at.fanout.groups
    assert "which is missing" in group.problem


def test_a_provider_that_fails_for_one_group_still_serves_the_others():
    at = Scene()
    for group in ("ill", "well"):
        at.provide(lambda: snapshot(1), group)
    ill, well = at.connect("i", "ill"), at.connect("w", "well")
    at.provide(lambda: 1 / 0, "ill")
    at.provide(lambda: snapshot(2), "well")
    at.refresh()
    assert (cause(ill), cause(well)) == ("cluster 1", "cluster 2")


def test_whoever_may_have_nothing_leaves_no_trace():
    at = Scene()
    at.provide(lambda: snapshot(1))
    at.provider.forbidden.add("n")
    with pytest.raises(PermissionError):
        at.connect("n")
    assert [group.nodes for group in at.fanout.groups] == [0]


def test_whoever_may_have_nothing_any_more_is_named_and_the_others_get_the_newest():
    at = Scene()
    at.provide(lambda: snapshot(1))
    one, other = at.connect("one"), at.connect("other")
    at.provider.forbidden.add("one")
    at.provide(lambda: snapshot(2))
    assert list(at.refresh()) == [one]
    assert (cause(one), cause(other)) == ("cluster 1", "cluster 2")


def test_a_node_has_a_snapshot_when_all_its_streams_have_acknowledged_it():
    at = Scene()
    at.provide(lambda: snapshot(1))
    first, second = at.connect("n"), at.connect("n")
    at.now += 0.25
    for connection, took in ((first, None), (second, 0.25)):
        client = DeltaClient()
        client.subscribe(CLUSTER, wildcard=True)
        while client.outbox:
            connection.stream.receive(client.outbox.pop(0), at.now)
            for response in connection.stream.poll(at.now):
                client.receive(response)
        assert at.fanout.converged(connection, at.now) == took
    assert at.fanout.converged(second, at.now) is None, "told once"


def test_groups_that_nobody_is_in_any_more_do_not_pile_up():
    at = Scene()
    for i in range(300):
        at.fanout.unregister(at.connect("n", f"group-{i}"))
    assert len(list(at.fanout.groups)) <= 101


GROUPS = ("a", "b")


class AnyFleet(RuleBasedStateMachine):
    """Nodes come, go and change groups, while snapshots are made, broken and forbidden."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.connections: dict[Connection, str] = {}
        """And what each of them is to have."""
        self.good: dict[str, str] = {}
        """By group: the newest snapshot that could be made when it was last asked for."""
        self.broken: set[str] = set()
        self.number = 0

    @rule(group=st.sampled_from(GROUPS))
    def make(self, group: str) -> None:
        self.number += 1
        made = snapshot(self.number)
        self.scene.provide(lambda: made, group)
        self.broken.discard(group)

    @rule(group=st.sampled_from(GROUPS))
    def make_a_bad_one(self, group: str) -> None:
        self.scene.provide(dangling, group)
        self.broken.add(group)

    @rule(node=st.sampled_from("xyz"), group=st.sampled_from(GROUPS))
    def connect(self, node: str, group: str) -> None:
        self.scene.provider.groups.pop(node, None)
        self.refresh()
        connection = self.scene.connect(node, group)
        self.connections[connection] = self.expected(connection, "nothing")

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), group=st.sampled_from(GROUPS))
    def move(self, data: st.DataObject, group: str) -> None:
        connection = data.draw(st.sampled_from(list(self.connections)))
        self.scene.provider.groups[connection.node.id] = group
        self.refresh()

    @precondition(lambda self: self.connections)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(list(self.connections)))
        del self.connections[connection]
        self.scene.fanout.unregister(connection)

    @rule()
    def refresh(self) -> None:
        assert self.scene.refresh() == {}
        for connection, had in self.connections.items():
            self.connections[connection] = self.expected(connection, had)

    def expected(self, connection: Connection, had: str) -> str:
        group = self.scene.provider.group(connection.node)
        make = self.scene.provider.make.get(group)
        if make is None:
            return had
        if group not in self.broken:
            return make().cause
        if had != "nothing":
            return had
        return connection.group.newest.cause if connection.group.newest else "nothing"

    @invariant()
    def each_stream_has_what_its_node_is_to_have(self) -> None:
        for connection, wanted in self.connections.items():
            assert cause(connection) == wanted

    @invariant()
    def each_node_is_counted_where_it_belongs(self) -> None:
        counted = {group.name: group.nodes for group in self.scene.fanout.groups if group.nodes}
        nodes: dict[str, set[str]] = {}
        for connection in self.connections:
            nodes.setdefault(connection.group.name, set()).add(connection.node.id)
        assert counted == {name: len(ids) for name, ids in nodes.items()}


def test_whatever_happens_each_stream_has_the_newest_good_snapshot_of_its_group():
    run_state_machine_as_test(AnyFleet, settings=settings(max_examples=50))
