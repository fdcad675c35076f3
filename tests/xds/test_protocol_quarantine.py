"""One bad resource must not keep its neighbours out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.xds.model import DeltaClient, ModelClient, SotwClient, bad_content, content, is_bad
from xds.protocol.ack_history import AckHistory
from xds.protocol.message import ErrorDetail, Response, SotwRequest
from xds.protocol.quarantine import (
    NACKS_WITHOUT_BACKOFF,
    Quarantine,
    names_in_error,
    normalize_error,
)
from xds.protocol.stream import Stream
from xds.protocol.view import SnapshotView
from xds.resource import CLUSTER, SECRET, Resource
from xds.snapshot import Snapshot


class AcknowledgesAgain(ModelClient):
    """As Envoy with secrets: what it cannot use it rejects, and acknowledges if it comes again."""

    @staticmethod
    def over(kind: type[ModelClient]) -> type[ModelClient]:
        return type("AcknowledgesAgain", (AcknowledgesAgain, kind), {})

    def receive(self, response: Response) -> None:
        seen = self.__dict__.setdefault("seen", set())
        told = tuple(r for r in response.resources if not is_bad(r) or r.version not in seen)
        seen.update(r.version for r in response.resources if is_bad(r))
        super().receive(replace(response, resources=told))


class Conversation:
    """A wildcard client of clusters and its stream, without a network between."""

    def __init__(
        self,
        *,
        delta: bool,
        takes: bool = False,
        names: bool = False,
        good: Iterable[Resource] = (),
        type_url: str = CLUSTER,
    ) -> None:
        """``good``: what peers of this client have accepted."""
        history = AckHistory()
        history.accept(good, SnapshotView(Snapshot.of(good)))
        kind = DeltaClient if delta else SotwClient
        if type_url == SECRET:
            kind = AcknowledgesAgain.over(kind)
        self.client: ModelClient = kind(takes_good_part=takes, names_culprit=names)
        self.type_url = type_url
        self.stream = Stream(delta=delta, type_url=type_url)
        self.stream.join("peer", history)
        self.target: SnapshotView | None = None
        self.now = 0.0
        self.sent: list[Response] = []
        self.client.subscribe(type_url, wildcard=True)

    def publish(self, *resources: Resource) -> None:
        self.target = SnapshotView(Snapshot.of(resources), self.target)
        self.stream.offer(self.target, self.now)
        for _ in range(500):
            while self.client.outbox:
                self.stream.receive(self.client.outbox.pop(0), self.now)
            responses = list(self.stream.poll(self.now))
            self.sent.extend(responses)
            for response in responses:
                self.client.receive(response)
            if not responses and not self.client.outbox:
                return
        raise AssertionError("no end of it")

    @property
    def has(self) -> dict[str, str]:
        return {n: r.body.decode() for n, r in self.client.of(self.type_url).resources.items()}

    @property
    def rejected(self) -> set[str]:
        return set(self.stream.watches[self.type_url].quarantine.rejected)


@pytest.fixture(params=["sotw", "delta"])
def delta(request) -> bool:
    return request.param == "delta"


@pytest.mark.parametrize("takes", [False, True], ids=["rejects all", "takes the good part"])
@pytest.mark.parametrize("names", [False, True], ids=["names no culprit", "names it"])
def test_the_good_ones_arrive_and_the_bad_ones_are_known(delta, takes, names):
    talk = Conversation(delta=delta, takes=takes, names=names)
    good = [content(CLUSTER, f"good-{i}") for i in range(20)]
    bad = [bad_content(CLUSTER, f"bad-{i}") for i in range(3)]
    talk.publish(*good, *bad)
    assert talk.has.keys() == {r.name for r in good}
    assert talk.rejected == {r.name for r in bad}


def test_a_bad_secret_is_known_although_it_is_acknowledged_when_it_comes_again(delta):
    """Three that nobody has accepted yet go one by one, and then together."""
    talk = Conversation(delta=delta, type_url=SECRET)
    talk.publish(content(SECRET, "a"), bad_content(SECRET, "b"), content(SECRET, "c"))
    assert talk.has.keys() == {"a", "c"}
    assert talk.rejected == {"b"}
    assert len(talk.sent) == 3


def test_secrets_that_a_peer_has_accepted_go_together(delta):
    a, b, c = (content(SECRET, name) for name in "abc")
    talk = Conversation(delta=delta, type_url=SECRET, good=[a, b, content(SECRET, "c", 2)])
    talk.publish(a, b, c)
    assert [[r.name for r in one.resources] for one in talk.sent] == [["a", "b"], ["c"]]


def test_one_culprit_that_is_named_costs_one_more_response(delta):
    talk = Conversation(delta=delta, names=True)
    talk.publish(*(content(CLUSTER, f"good-{i}") for i in range(100)), bad_content(CLUSTER, "bad"))
    assert len(talk.sent) == 2


def test_one_culprit_among_a_thousand_is_found_by_halving(delta):
    talk = Conversation(delta=delta)
    talk.publish(*(content(CLUSTER, f"{i:04}") for i in range(1000)), bad_content(CLUSTER, "0500x"))
    assert talk.rejected == {"0500x"}
    assert len(talk.has) == 1000
    assert len(talk.sent) < 30


def test_the_last_good_content_of_a_rejected_resource_stays(delta):
    talk = Conversation(delta=delta)
    talk.publish(content(CLUSTER, "a", 1), content(CLUSTER, "b", 1))
    talk.publish(bad_content(CLUSTER, "a", 2), content(CLUSTER, "b", 2))
    assert talk.has == {"a": "a 1", "b": "b 2"}
    talk.publish(bad_content(CLUSTER, "a", 2), content(CLUSTER, "b", 3))
    assert talk.has == {"a": "a 1", "b": "b 3"}
    talk.publish(content(CLUSTER, "a", 3), content(CLUSTER, "b", 3))
    assert talk.has == {"a": "a 3", "b": "b 3"}
    assert talk.rejected == set()
    assert talk.stream.watches[CLUSTER].error is None


def test_a_new_client_gets_the_form_that_its_peers_have_in_place_of_one_that_it_rejects(delta):
    talk = Conversation(delta=delta, good=[content(CLUSTER, "a", 1)])
    talk.publish(bad_content(CLUSTER, "a", 2), content(CLUSTER, "b"))
    assert talk.has == {"a": "a 1", "b": "b 1"}
    assert talk.rejected == {"a"}, "it is still told that the newest form is bad"
    sent = len(talk.sent)
    talk.publish(bad_content(CLUSTER, "a", 2), content(CLUSTER, "b", 2))
    assert len(talk.sent) == sent + 1
    talk.publish(content(CLUSTER, "a", 3), content(CLUSTER, "b", 2))
    assert talk.has == {"a": "a 3", "b": "b 2"}
    assert talk.rejected == set()
    talk.publish(content(CLUSTER, "b", 2))
    assert talk.has == {"b": "b 2"}


@pytest.mark.parametrize("names", [False, True], ids=["names no culprit", "names it"])
def test_a_client_that_rejects_the_form_of_its_peers_too_is_left_without(delta, names):
    talk = Conversation(delta=delta, names=names, good=[bad_content(CLUSTER, "a", 1)])
    talk.publish(bad_content(CLUSTER, "a", 2), content(CLUSTER, "b"), content(CLUSTER, "c"))
    assert talk.has == {"b": "b 1", "c": "c 1"}
    assert talk.rejected == {"a"}
    assert len(talk.sent) <= 8
    talk.publish(content(CLUSTER, "a", 3), content(CLUSTER, "b"))
    assert talk.has == {"a": "a 3", "b": "b 1"}


def test_a_change_elsewhere_does_not_bring_the_rejected_content_back(delta):
    talk = Conversation(delta=delta)
    talk.publish(content(CLUSTER, "a"), bad_content(CLUSTER, "bad"))
    talk.sent.clear()
    talk.publish(content(CLUSTER, "a", 2), bad_content(CLUSTER, "bad"))
    assert [r for response in talk.sent for r in response.resources if is_bad(r)] == []


def test_words_that_name_a_neighbour_too_do_not_condemn_it():
    quarantine = Quarantine()
    sent = {"l1": "1", "l2": "1", "l3": "1"}
    quarantine.nacked(sent, "l2 has the same address as l1", 0.0)
    assert quarantine.next_batch(sent) == {"l3"}
    quarantine.acked({"l3": "1"})
    left = {"l1": "1", "l2": "1"}
    alone = quarantine.next_batch(left)
    assert len(alone) == 1
    assert not quarantine.rejected


def test_words_that_only_seem_to_name_somebody_are_found_out():
    quarantine = Quarantine()
    sent = {"a": "1", "x": "1", "y": "1"}
    words = "a duration must be positive"
    assert quarantine.nacked(sent, words, 0.0) == {"a"}
    rest = quarantine.next_batch({"x": "1", "y": "1"})
    assert rest == {"x", "y"}
    quarantine.nacked({"x": "1", "y": "1"}, words, 0.0)
    assert "a" not in quarantine.rejected


def test_a_name_is_found_only_as_a_whole_word():
    assert names_in_error("cluster(s) pool-a: bad", {"pool", "pool-a", "a"}) == {"pool-a"}
    assert names_in_error("cluster pool.", {"pool"}) == {"pool"}
    assert names_in_error("cluster pool.x", {"pool"}) == frozenset()


def test_salt_is_taken_out_of_the_words():
    assert normalize_error("Expected: goo.gle/debugstr   \nseconds: -1") == "Expected: seconds: -1"
    assert normalize_error("x goo.gle/debugonly y") == normalize_error("x  goo.gle/debugproto  y")


def test_a_client_that_rejects_everything_for_ever_is_asked_ever_more_rarely():
    quarantine = Quarantine()
    for _ in range(NACKS_WITHOUT_BACKOFF):
        quarantine.nacked({"a": "1"}, "no", 0.0)
    assert quarantine.backoff() == 0.0
    pauses = []
    for _ in range(30):
        quarantine.nacked({"a": "1"}, "no", 0.0)
        pauses.append(quarantine.backoff())
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30.0
    quarantine.acked({"a": "1"})
    assert quarantine.backoff() == 0.0


def test_what_a_returning_client_may_have_is_not_deleted_to_get_around_a_bad_resource():
    target = SnapshotView(Snapshot.of([bad_content(CLUSTER, "a"), content(CLUSTER, "b")]))
    stream = Stream(delta=False, type_url=CLUSTER)
    stream.offer(target, 0.0)
    # After a restart of the server nobody knows what "before the restart" stands for.
    stream.receive(SotwRequest(CLUSTER, version="before the restart"), 0.0)
    (response,) = stream.poll(0.0)
    words = ErrorDetail(3, "cluster(s) a: no")
    stream.receive(SotwRequest(CLUSTER, nonce=response.nonce, error=words), 0.0)
    assert list(stream.poll(0.0)) == []
    stream.offer(SnapshotView(Snapshot.of([content(CLUSTER, "a", 2), content(CLUSTER, "b")])), 1.0)
    (repaired,) = stream.poll(1.0)
    assert {r.name for r in repaired.resources} == {"a", "b"}


class Returning(Conversation):
    """A State-of-the-World client that comes back to a server which knows nothing of before."""

    def __init__(self, *had: Resource, takes: bool) -> None:
        super().__init__(delta=False, takes=takes, names=True)
        self.client.of(CLUSTER).resources = {resource.name: resource for resource in had}
        self.client.of(CLUSTER).version = "before the restart"
        self.client.reconnect()


def test_good_changes_reach_a_returning_client_that_takes_the_good_part_beside_a_bad_resource():
    talk = Returning(content(CLUSTER, "a"), content(CLUSTER, "b"), takes=True)
    talk.publish(bad_content(CLUSTER, "a", 2), content(CLUSTER, "b"))
    talk.publish(bad_content(CLUSTER, "a", 2), content(CLUSTER, "b", 2), content(CLUSTER, "c"))
    assert talk.has == {"b": "b 2", "c": "c 1", "a": "a 1"}
    assert len(talk.sent) == 2, "the whole once for each change, since nothing less may be said"


def test_a_returning_client_that_rejects_the_whole_loses_nothing_and_is_not_asked_for_ever():
    talk = Returning(content(CLUSTER, "a"), content(CLUSTER, "b"), takes=False)
    for number in range(2, 12):
        talk.publish(bad_content(CLUSTER, "a", 2), content(CLUSTER, "b", number))
    assert talk.has == {"a": "a 1", "b": "b 1"}
    assert len(talk.sent) == 10, "once for each change"
    talk.publish(content(CLUSTER, "a", 3), content(CLUSTER, "b", 20))
    assert talk.has == {"a": "a 3", "b": "b 20"}
    assert talk.rejected == set()
