"""The rules of the xDS transport protocol, one by one."""

from __future__ import annotations

import pytest

from tests.xds.model import bad_content, content
from xds.protocol.ack_history import AckHistory
from xds.protocol.message import DeltaRequest, ErrorDetail, Response, SotwRequest
from xds.protocol.stream import ProtocolError, Stream, StreamSettings
from xds.protocol.subscription import Subscription
from xds.protocol.view import SnapshotView
from xds.protocol.watch import Kind
from xds.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST, Resource
from xds.snapshot import Snapshot

NACK = ErrorDetail(3, "no")


class Sotw:
    """A State-of-the-World stream and the hand that moves it."""

    def __init__(self, *resources: Resource, type_url: str | None = None, **options) -> None:
        self.stream = Stream(delta=False, type_url=type_url, **options)
        self.now = 100.0
        self.versions: dict[str, str] = {}
        self.nonces: dict[str, str] = {}
        if resources:
            self.publish(*resources)

    def publish(self, *resources: Resource) -> list[Response]:
        self.stream.offer(SnapshotView(Snapshot.of(resources), self.stream.target), self.now)
        return self.poll()

    def poll(self) -> list[Response]:
        sent = list(self.stream.poll(self.now))
        for response in sent:
            self.nonces[response.type_url] = response.nonce
        return sent

    def ask(self, type_url: str, *names: str, **fields) -> list[Response]:
        fields.setdefault("nonce", self.nonces.get(type_url, ""))
        fields.setdefault("version", self.versions.get(type_url, ""))
        self.stream.receive(SotwRequest(type_url, names, **fields), self.now)
        return self.poll()

    def ack(self, response: Response, *names: str) -> list[Response]:
        self.versions[response.type_url] = response.version
        return self.ask(response.type_url, *names, nonce=response.nonce)

    def nack(self, response: Response, *names: str, error: ErrorDetail = NACK) -> list[Response]:
        return self.ask(response.type_url, *names, nonce=response.nonce, error=error)


class Delta:
    def __init__(self, *resources: Resource, type_url: str | None = None, **options) -> None:
        self.stream = Stream(delta=True, type_url=type_url, **options)
        self.now = 100.0
        if resources:
            self.publish(*resources)

    def publish(self, *resources: Resource) -> list[Response]:
        self.stream.offer(SnapshotView(Snapshot.of(resources), self.stream.target), self.now)
        return self.poll()

    def poll(self) -> list[Response]:
        return list(self.stream.poll(self.now))

    def ask(self, type_url: str, *names: str, **fields) -> list[Response]:
        self.stream.receive(DeltaRequest(type_url, names, **fields), self.now)
        return self.poll()

    def ack(self, response: Response) -> list[Response]:
        return self.ask(response.type_url, nonce=response.nonce)

    def nack(self, response: Response, error: ErrorDetail = NACK) -> list[Response]:
        return self.ask(response.type_url, nonce=response.nonce, error=error)


def names(responses: list[Response]) -> list[list[str]]:
    return [[r.name for r in response.resources] for response in responses]


def one(responses: list[Response]) -> Response:
    assert len(responses) == 1, responses
    return responses[0]


A, B, C = (content(CLUSTER, name) for name in "abc")
EA, EB = (content(ENDPOINT, name) for name in "ab")


# Wildcards.


def test_naming_nothing_means_everything_until_something_was_named():
    subscription = Subscription(CLUSTER)
    subscription.replace([])
    assert subscription.wildcard
    assert subscription.legacy
    subscription.replace(["a"])
    assert (subscription.wildcard, subscription.names) == (False, {"a"})
    subscription.replace([])
    assert (subscription.wildcard, subscription.names) == (False, set())


def test_the_star_is_a_wildcard_that_may_stand_beside_names():
    subscription = Subscription(CLUSTER)
    subscription.replace(["*", "a"])
    assert subscription.wildcard
    assert not subscription.legacy
    assert subscription.names == {"a"}
    subscription.replace(["a"])
    assert not subscription.covers("b")


def test_in_delta_a_name_is_added_to_the_legacy_wildcard_and_giving_up_the_star_ends_it():
    subscription = Subscription(CLUSTER)
    subscription.update([], [], first=True)
    subscription.update(["a"], [], first=False)
    assert subscription.covers("b")
    subscription.update([], ["*"], first=False)
    assert subscription.covers("a")
    assert not subscription.covers("b")
    subscription.update([], ["a"], first=False)
    assert not subscription.covers("a")


def test_in_delta_a_client_that_named_something_first_has_no_legacy_wildcard():
    client = Delta(A, B)
    assert names(client.ask(CLUSTER, "a")) == [["a"]]


def test_giving_up_a_name_that_the_wildcard_covers_is_answered():
    client = Delta(A, B)
    client.ack(one(client.ask(CLUSTER, "*", "a", "gone")))
    answer = one(client.ask(CLUSTER, unsubscribe=("a", "gone")))
    assert names([answer]) == [["a"]]
    assert answer.removed == ("gone",)


def test_a_virtual_host_subscription_to_a_route_configuration_covers_its_hosts():
    host = content(VIRTUAL_HOST, "r/one.example")
    client = Delta(host, type_url=VIRTUAL_HOST)
    assert names(client.ask(VIRTUAL_HOST, "r")) == [["r/one.example"]]


def test_an_unknown_virtual_host_is_answered_by_its_bare_name():
    client = Delta(content(VIRTUAL_HOST, "r/one"), type_url=VIRTUAL_HOST)
    answer = one(client.ask(VIRTUAL_HOST, "r/two"))
    assert [(r.name, r.body) for r in answer.resources] == [("r/two", b"")]
    assert answer.removed == ()


# State of the World.


def test_the_first_wildcard_answer_of_clusters_comes_even_when_there_are_none():
    assert names(Sotw(content(LISTENER, "l")).ask(CLUSTER)) == [[]]


def test_nothing_is_said_before_there_is_a_snapshot():
    client = Sotw()
    assert client.ask(CLUSTER) == []
    assert names(client.publish(A)) == [["a"]]


def test_clusters_are_sent_as_a_whole_and_endpoints_only_where_they_changed():
    client = Sotw(A, B, EA, EB)
    client.ack(one(client.ask(CLUSTER)))
    client.ack(one(client.ask(ENDPOINT, "a", "b")), "a", "b")
    changed = client.publish(content(CLUSTER, "a", 2), B, EA, EB)
    assert names(changed)[0] == ["a", "b"]
    client.ack(changed[0])
    client.ack(changed[1], "a", "b")
    assert names(client.publish(content(CLUSTER, "a", 2), B, content(ENDPOINT, "a", 2), EB)) == [
        ["a"]
    ]


def test_an_ack_is_answered_with_silence():
    client = Sotw(A)
    assert client.ack(one(client.ask(CLUSTER))) == []


def test_a_stale_nonce_is_ignored_and_its_names_with_it():
    client = Sotw(A, B, EA, EB)
    client.ask(ENDPOINT, "a")
    assert client.ask(ENDPOINT, "a", "b", nonce="0") == []
    watch = client.stream.watches[ENDPOINT]
    assert watch.subscription.names == {"a"}
    assert watch.counters.stale == 1


def test_a_new_name_is_answered_with_that_name_only():
    client = Sotw(EA, EB)
    first = one(client.ask(ENDPOINT, "a"))
    assert names(client.ack(first, "a", "b")) == [["b"]]


def test_asking_once_more_for_the_same_names_is_answered_because_a_cluster_is_warming():
    client = Sotw(EA, EB)
    client.ack(one(client.ask(ENDPOINT, "a", "b")), "a", "b")
    assert names(client.ask(ENDPOINT, "b", "a")) == [["a", "b"]]


def test_a_client_that_asks_without_end_is_answered_once_a_second():
    client = Sotw(EA)
    client.ack(one(client.ask(ENDPOINT, "a")), "a")
    again = one(client.ask(ENDPOINT, "a"))
    client.ack(again, "a")
    assert client.ask(ENDPOINT, "a") == []
    assert client.stream.deadline(client.now) == pytest.approx(client.now + 1)
    client.now += 1
    assert names(client.poll()) == [["a"]]


def test_an_absent_name_is_sent_as_soon_as_it_appears():
    client = Sotw(EA)
    assert client.ask(ENDPOINT, "b") == []
    assert names(client.publish(EA, EB)) == [["b"]]


def test_naming_nothing_after_names_ends_the_subscription():
    client = Sotw(EA)
    client.ack(one(client.ask(ENDPOINT, "a")), "a")
    assert client.ask(ENDPOINT) == []
    assert client.publish(content(ENDPOINT, "a", 2)) == []


def test_only_error_detail_makes_a_nack_whatever_the_version_says():
    client = Sotw(EA, EB)
    answer = one(client.ask(ENDPOINT, "a"))
    request = SotwRequest(ENDPOINT, ("a",), "some other version", answer.nonce)
    assert client.stream.receive(request, client.now).kind is Kind.ACK


def test_what_was_rejected_is_not_sent_again_until_it_changes():
    client = Sotw(content(CLUSTER, "a"))
    client.ack(one(client.ask(CLUSTER)))
    bad = one(client.publish(bad_content(CLUSTER, "a")))
    assert client.nack(bad) == []
    client.now += 3600
    assert client.poll() == []
    assert client.publish(bad_content(CLUSTER, "a"), EA) == []
    assert names(client.publish(content(CLUSTER, "a", 2))) == [["a"]]


def test_a_first_request_may_carry_the_error_of_the_stream_before():
    client = Sotw(A)
    assert names(client.ask(CLUSTER, version="old", error=NACK, nonce="7")) == [["a"]]
    assert client.stream.watches[CLUSTER].error is None


def test_a_wildcard_client_that_has_everything_is_sent_nothing_when_it_comes_back():
    target = SnapshotView(Snapshot.of([A, B]))
    client = Sotw(A, B)
    assert client.ask(CLUSTER, version=target.of(CLUSTER).version) == []
    assert client.stream.watches[CLUSTER].settled
    assert names(client.publish(A)) == [["a"]]


def test_a_client_that_says_what_it_wants_when_it_comes_back_is_sent_it():
    """It may have wanted nothing in between, have thrown everything away, and still say the version
    of what it last accepted."""
    view = SnapshotView(Snapshot.of([A, B])).of(CLUSTER)
    version, history = view.version, AckHistory()
    history.acked("n", CLUSTER, version, view.resources)
    client = Sotw(content(CLUSTER, "a", 2), B)
    client.stream.join("n", history)
    assert names(client.ask(CLUSTER, "*", version=version)) == [["a", "b"]]


def test_a_client_that_comes_back_with_an_old_version_is_sent_the_new_one():
    client = Sotw(A, B)
    assert names(client.ask(CLUSTER, version="old")) == [["a", "b"]]


def test_endpoints_are_sent_again_to_a_client_that_comes_back():
    client = Sotw(EA)
    assert names(
        client.ask(ENDPOINT, "a", version=SnapshotView(Snapshot.of([EA])).of(ENDPOINT).version)
    ) == [["a"]]


def test_versions_are_the_same_on_every_replica_and_after_a_restart():
    first = one(Sotw(A, B).ask(CLUSTER))
    second = one(Sotw(content(CLUSTER, "b"), content(CLUSTER, "a")).ask(CLUSTER))
    assert first.version == second.version


def test_a_deleted_cluster_is_left_out_of_the_next_answer():
    client = Sotw(A, B)
    client.ack(one(client.ask(CLUSTER)))
    assert names(client.publish(A)) == [["a"]]


def test_at_most_one_answer_is_on_its_way_and_then_the_newest_state_follows():
    client = Sotw(EA)
    first = one(client.ask(ENDPOINT, "a"))
    assert client.publish(content(ENDPOINT, "a", 2)) == []
    assert client.publish(content(ENDPOINT, "a", 3)) == []
    newest = one(client.ack(first, "a"))
    assert newest.resources[0].body == b"a 3"


def test_one_type_that_is_never_acknowledged_does_not_hold_up_another():
    client = Sotw(A, EA, content(LISTENER, "l"), content(ROUTE, "r"))
    client.ask(CLUSTER)
    assert names(client.ask(ENDPOINT, "a")) == [["a"]]
    assert client.ask(LISTENER) == []
    client.now += 2.01
    assert names(client.poll()) == [["l"]]


# Delta.


def test_delta_sends_what_changed_and_tells_what_is_gone():
    client = Delta(A, B)
    client.ack(one(client.ask(CLUSTER)))
    made = one(client.publish(content(CLUSTER, "a", 2), B, C))
    assert names([made]) == [["a", "c"]]
    client.ack(made)
    gone = one(client.publish(B, C))
    assert (names([gone]), gone.removed) == ([[]], ("a",))


def test_delta_answers_the_first_wildcard_request_even_when_there_is_nothing():
    answer = one(Delta(EA).ask(CLUSTER))
    assert (answer.resources, answer.removed) == ((), ())


def test_delta_sends_a_name_that_is_asked_for_again_since_the_client_may_have_forgotten():
    client = Delta(EA)
    client.ack(one(client.ask(ENDPOINT, "a")))
    assert names(client.ask(ENDPOINT, "a")) == [["a"]]


def test_delta_tells_at_once_that_a_name_does_not_exist_and_sends_it_when_it_does():
    client = Delta(EA)
    answer = one(client.ask(ENDPOINT, "b"))
    assert answer.removed == ("b",)
    client.ack(answer)
    assert names(client.publish(EA, EB)) == [["b"]]


def test_delta_counts_a_change_of_subscription_even_under_a_stale_nonce():
    client = Delta(EA, EB)
    client.ack(one(client.ask(ENDPOINT, "a")))
    assert names(client.ask(ENDPOINT, "b", nonce="0")) == [["b"]]


def test_delta_stays_silent_when_a_name_is_given_up():
    client = Delta(EA)
    client.ack(one(client.ask(ENDPOINT, "a")))
    assert client.ask(ENDPOINT, unsubscribe=("a", "never heard of")) == []
    assert client.publish(content(ENDPOINT, "a", 2)) == []


def test_delta_client_that_comes_back_gets_the_difference_and_loses_what_is_gone():
    client = Delta(A, content(CLUSTER, "b", 2))
    answer = one(client.ask(CLUSTER, initial_versions={"a": A.version, "b": B.version, "x": "1"}))
    assert (names([answer]), answer.removed) == ([["b"]], ("x",))


def test_delta_client_that_comes_back_gets_named_resources_again_although_it_says_it_has_them():
    client = Delta(EA)
    assert names(client.ask(ENDPOINT, "a", initial_versions={"a": EA.version})) == [["a"]]


def test_delta_nack_takes_back_what_its_nonce_carried():
    client = Delta(A)
    client.ack(one(client.ask(CLUSTER)))
    mixed = one(client.publish(A, B, bad_content(CLUSTER, "bad")))
    retry = one(client.nack(mixed, ErrorDetail(3, "Error adding/updating cluster(s) bad: no")))
    assert names([retry]) == [["b"]]
    client.ack(retry)
    gone = one(client.publish(A, B))
    assert gone.removed == ("bad",)


def test_delta_nack_takes_back_even_what_the_client_may_have_taken():
    client = Delta(A)
    client.ack(one(client.ask(CLUSTER)))
    one_more = content(CLUSTER, "a", 2)
    mixed = one(client.publish(one_more, bad_content(CLUSTER, "bad")))
    client.stream.receive(DeltaRequest(CLUSTER, nonce=mixed.nonce, error=NACK), client.now)
    # The client may have "a 2" by now; what is wanted is "a 1" again.
    assert names(client.publish(A))[0] == ["a"]


# A changed cluster warms until it is told its endpoints.


@pytest.mark.parametrize("kind", [Sotw, Delta])
def test_unchanged_endpoints_follow_a_changed_cluster(kind):
    client = kind(A, B, EA, EB)
    client.ack(one(client.ask(CLUSTER)))
    first = one(client.ask(ENDPOINT, "a", "b"))
    client.ack(first, "a", "b") if kind is Sotw else client.ack(first)
    clusters, endpoints = client.publish(content(CLUSTER, "a", 2), B, EA, EB)
    assert clusters.type_url == CLUSTER
    assert names([endpoints]) == [["a"]]


# Limits and mistakes.


def test_a_request_of_an_aggregated_stream_must_say_its_type():
    with pytest.raises(ProtocolError, match="type_url"):
        Sotw(A).ask("")


def test_a_stream_of_one_type_refuses_another():
    with pytest.raises(ProtocolError, match="Cluster"):
        Sotw(A, type_url=CLUSTER).ask(LISTENER)


def test_a_stream_of_one_type_needs_no_type():
    assert names(Sotw(A, type_url=CLUSTER).ask("")) == [["a"]]


def test_too_many_names_end_the_stream_and_say_what_is_allowed():
    client = Sotw(EA, settings=StreamSettings(max_names=3))
    with pytest.raises(ProtocolError, match="at most 3"):
        client.ask(ENDPOINT, "a", "b", "c", "d")


def test_too_many_types_end_the_stream():
    client = Sotw(EA, settings=StreamSettings(max_types=2))
    client.ask("type.googleapis.com/one")
    client.ask("type.googleapis.com/two")
    with pytest.raises(ProtocolError, match="2 types"):
        client.ask("type.googleapis.com/three")


def test_what_a_crossing_request_gave_up_comes_again_when_it_is_asked_for_again():
    a, b = content(ENDPOINT, "a"), content(ENDPOINT, "b")
    client = Sotw(a, b, type_url=ENDPOINT)
    (both,) = client.ask(ENDPOINT, "a", "b")
    client.ack(both, "a", "b")
    (changed,) = client.publish(content(ENDPOINT, "a", 2), b)
    # Sent before that arrived: b is not wanted, and the client drops it.
    assert client.ask(ENDPOINT, "a", nonce=both.nonce) == []
    (again,) = client.ack(changed, "a", "b")
    assert [resource.name for resource in again.resources] == ["b"]


def _comes_back_to_a_cluster_that_it_rejects() -> Sotw:
    """Nobody knows what it has, and it cannot be told the whole: it is left as it is."""
    client = Sotw(content(CLUSTER, "a"), bad_content(CLUSTER, "b"), type_url=CLUSTER)
    client.versions[CLUSTER] = "from before a restart"
    sent = client.ask(CLUSTER, "a", "b")
    for _ in range(10):
        if not sent:
            return client
        sent = client.nack(sent[0], "a", "b")
        client.now += 60
    raise AssertionError("it is told again and again")


def test_a_client_that_cannot_be_told_more_has_nobody_wait_for_the_time_to_tell_it():
    client = _comes_back_to_a_cluster_that_it_rejects()
    client.ask(CLUSTER, "a", "b")
    client.ask(CLUSTER, "a", "b")
    assert client.stream.deadline(client.now) is None


def test_a_client_is_told_again_once_it_does_not_ask_for_the_bad_one_any_more():
    client = _comes_back_to_a_cluster_that_it_rejects()
    (told,) = client.ask(CLUSTER, "a")
    assert [resource.name for resource in told.resources] == ["a"]


def test_a_client_that_asks_again_before_there_is_anything_has_nobody_wait():
    client = Sotw(type_url=ENDPOINT)
    client.ask(ENDPOINT, "a")
    client.ask(ENDPOINT, "a")
    assert client.stream.deadline(client.now) is None
