"""New clusters before the routes to them, old ones after."""

from __future__ import annotations

from tests.xds.model import bad_content, content
from tests.xds.test_protocol_rules import Delta, Sotw, names, one
from xds.protocol.message import ErrorDetail, Response
from xds.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST, Resource


def config(*clusters: str, route: str | None = None, bad: str = "") -> list[Resource]:
    """One route, to ``route`` or the first of the clusters."""
    leads_to = route or clusters[0]
    make = {name: bad_content if name == bad else content for name in clusters}
    return [
        *(make[name](CLUSTER, name, 1, (ENDPOINT, name)) for name in clusters),
        *(content(ENDPOINT, name) for name in clusters),
        content(LISTENER, "l", 1, (ROUTE, "r")),
        content(ROUTE, "r", ord(leads_to[0]), (CLUSTER, leads_to)),
    ]


def started(*resources: Resource) -> Delta:
    """A client that has acknowledged everything."""
    client = Delta(*resources)
    client.ack(one(client.ask(CLUSTER)))
    clusters = [r.name for r in resources if r.type_url == CLUSTER]
    client.ack(one(client.ask(ENDPOINT, *clusters)))
    client.ack(one(client.ask(LISTENER)))
    client.ack(one(client.ask(ROUTE, "r")))
    assert client.stream.converged
    return client


def types(responses: list[Response]) -> list[str]:
    return [response.type_url for response in responses]


def test_a_swap_makes_then_switches_then_breaks():
    client = started(*config("a"))
    made = one(client.publish(*config("b")))
    assert (made.type_url, names([made]), made.removed) == (CLUSTER, [["b"]], ())
    endpoints = one(client.ask(ENDPOINT, "b"))
    assert client.ack(made) == []
    switched = one(client.ack(endpoints))
    assert (switched.type_url, names([switched])) == (ROUTE, [["r"]])
    broken = one(client.ack(switched)[:1])
    assert (broken.type_url, broken.removed) == (CLUSTER, ("a",))


def test_endpoints_that_change_alone_go_out_at_once():
    client = started(*config("a"))
    moved = [r for r in config("a") if r.type_url != ENDPOINT]
    assert types(client.publish(*moved, content(ENDPOINT, "a", 2))) == [ENDPOINT]


def test_endpoints_go_out_while_a_rollout_waits():
    client = started(*config("a"))
    client.publish(*config("b"))
    moved = [r for r in config("b") if r.type_url != ENDPOINT]
    sent = client.publish(*moved, content(ENDPOINT, "b"), content(ENDPOINT, "a", 2))
    assert types(sent) == [ENDPOINT]


def test_a_wait_ends_after_its_time_even_if_the_client_never_answers():
    client = started(*config("a"))
    one(client.publish(*config("b")))
    assert client.poll() == []
    deadline = client.stream.deadline(client.now)
    assert deadline == client.now + 2.0
    client.now = deadline
    assert types(client.poll()) == [ROUTE]
    assert client.stream.rollout.timed_out == 1


def test_types_that_nobody_subscribed_to_are_not_waited_for():
    client = Delta(*config("a"))
    listener = one(client.ask(LISTENER))
    assert names([listener]) == [["l"]]


def test_a_new_snapshot_takes_the_place_of_the_one_on_its_way():
    client = started(*config("a"))
    made = one(client.publish(*config("b")))
    assert client.publish(*config("c")) == []
    again = one(client.ack(made))
    assert (again.type_url, names([again])) == (CLUSTER, [["c"]])
    endpoints = one(client.ask(ENDPOINT, "c"))
    client.ack(endpoints)
    switched = one(client.ack(again))
    assert switched.resources[0].needs == ((CLUSTER, "c"),)
    assert set(client.ack(switched)[0].removed) == {"a", "b"}


def test_snapshots_without_end_cannot_put_a_phase_off_without_end():
    client = started(*config("a"))
    client.publish(*config("b"))
    for step in range(30):
        client.now += 0.5
        sent = client.publish(*config("b"), content(CLUSTER, "z", step))
        if ROUTE in types(sent):
            break
    else:
        raise AssertionError("the route never changed")
    assert step * 0.5 <= 10.5


def test_old_clusters_stay_while_the_client_rejects_the_route_away_from_them():
    client = started(*config("a"))
    made = one(client.publish(*config("b")))
    client.ack(one(client.ask(ENDPOINT, "b")))
    switched = one(client.ack(made))
    assert client.nack(switched) == []
    assert client.stream.rollout.kept == {"a"}
    better = [r for r in config("b") if r.type_url != ROUTE]
    fixed = one(client.publish(*better, content(ROUTE, "r", 9, (CLUSTER, "b"))))
    assert fixed.type_url == ROUTE
    assert client.ack(fixed)[0].removed == ("a",)


def test_a_route_does_not_move_to_a_cluster_that_the_client_rejects():
    client = started(*config("a"))
    made = one(client.publish(*config("b", bad="b")))
    sent = client.nack(made, ErrorDetail(3, "bad cluster"))
    assert sent == []
    assert client.stream.rollout.held == {(ROUTE, "r"): "b"}
    assert not client.stream.converged
    assert client.stream.watches[CLUSTER].have.keys() == {"a"}


def test_a_client_that_comes_back_is_given_a_moment_to_ask_for_its_clusters():
    client = Delta(*config("b"))
    assert client.ask(LISTENER, initial_versions={"l": "old"}) == []
    assert client.stream.deadline(client.now) < client.now + 0.1
    assert types(client.ask(CLUSTER, initial_versions={"a": "old"})) == [CLUSTER]
    client.now += 2.01
    assert types(client.poll()) == [LISTENER]


def test_a_state_of_the_world_swap_keeps_the_old_cluster_until_the_route_has_moved():
    client = Sotw(*config("a"))
    client.ack(one(client.ask(CLUSTER)))
    client.ack(one(client.ask(ENDPOINT, "a")), "a")
    client.ack(one(client.ask(LISTENER)))
    client.ack(one(client.ask(ROUTE, "r")), "r")
    made = one(client.publish(*config("b")))
    assert sorted(names([made])[0]) == ["a", "b"]
    client.ack(one(client.ask(ENDPOINT, "a", "b")), "a", "b")
    switched = one(client.ack(made))
    assert switched.type_url == ROUTE
    assert names(client.ack(switched, "r")) == [["b"]]


def test_no_route_moves_to_a_cluster_that_a_returning_client_may_not_have():
    """Its set is unknown and cannot be told, for there is a bad one in it: only the clusters whose
    endpoints it takes are there for sure."""
    target = [*config("a", "b", route="b"), bad_content(CLUSTER, "bad")]
    client = Sotw(*target)
    client.versions = {CLUSTER: "before the restart", ROUTE: "before the restart"}
    whole = one(client.ask(CLUSTER))
    client.ack(one(client.ask(ENDPOINT, "a")), "a")
    assert client.ask(ROUTE, "r") == []
    assert client.nack(whole, error=ErrorDetail(3, "cluster(s) bad: no")) == []
    client.now += 10
    assert client.poll() == []
    assert client.stream.rollout.held == {(ROUTE, "r"): "b"}
    sent = client.ask(ENDPOINT, "a", "b")
    assert types(client.ack(one(sent), "a", "b")) == [ROUTE]


def awaiting_clusters(client: Delta) -> Response:
    """A snapshot with a new cluster and a virtual host that leads to it is on its way."""
    client.ack(one(client.ask(VIRTUAL_HOST)))
    made = one(client.publish(*config("a", "b"), content(VIRTUAL_HOST, "r/b", 1, (CLUSTER, "b"))))
    assert made.type_url == CLUSTER
    return made


def test_a_name_whose_turn_comes_later_in_the_rollout_is_not_said_not_to_exist():
    client = started(*config("a"))
    made = awaiting_clusters(client)
    assert client.ask(VIRTUAL_HOST, "r/b") == []
    endpoints = one(client.ask(ENDPOINT, "b"))
    assert client.ack(made) == []
    (host,) = one(client.ack(endpoints)).resources
    assert (host.name, host.body != b"") == ("r/b", True)


def test_a_name_that_no_snapshot_has_is_answered_while_a_rollout_waits():
    client = started(*config("a"))
    awaiting_clusters(client)
    (host,) = one(client.ask(VIRTUAL_HOST, "r/none")).resources
    assert (host.name, host.body) == ("r/none", b"")


def test_a_name_that_the_next_snapshot_takes_back_is_said_not_to_exist():
    client = started(*config("a"))
    awaiting_clusters(client)
    assert client.ask(VIRTUAL_HOST, "r/b") == []
    (host,) = one(client.publish(*config("a"))).resources
    assert (host.name, host.body) == ("r/b", b"")
