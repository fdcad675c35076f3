"""The server at its edge: real gRPC, real sockets, clients good and bad."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from tests.xds.envoy import until
from tests.xds.model import content
from tests.xds.wire_client import DELTA, SOTW, WireClient
from xds.config import Limits, XdsServerConfig
from xds.grouped import GroupedSnapshots
from xds.metrics import XdsMetrics
from xds.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, VIRTUAL_HOST, Resource
from xds.server import XdsServer
from xds.services import SERVICES
from xds.snapshot import InconsistentError, Node, Snapshot
from xds.status import State
from xds.wire import status_pb2


class Running:
    """A server with one group of nodes, a metrics registry, and a channel to it."""

    def __init__(self, config: XdsServerConfig) -> None:
        self.forbidden = {"stranger"}
        self.snapshots = GroupedSnapshots(self.assign)
        self.registry = CollectorRegistry()
        self.make: Callable[[], Snapshot] | None = None
        """Where a test sets it, the provider makes its snapshots so."""
        self.server = XdsServer(self, config, metrics=XdsMetrics(self.registry))
        self.snapshots.listen(self.server.refresh)

    def assign(self, node: Node) -> str:
        if node.id in self.forbidden:
            raise PermissionError("strangers get nothing")
        return node.cluster

    def group(self, node: Node) -> str:
        return self.snapshots.group(node)

    def snapshot(self, node: Node) -> Snapshot | None:
        return self.make() if self.make is not None else self.snapshots.snapshot(node)

    def publish(self, *resources: Resource, cause: str = "") -> None:
        self.snapshots.publish("test", resources, cause)

    def client(self, method: str = SOTW, node: str = "n") -> WireClient:
        return WireClient(self.channel, method, node)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"poolpilot_xds_{name}", labels) or 0.0


@asynccontextmanager
async def running(**options) -> AsyncIterator[Running]:
    one = Running(XdsServerConfig(port=0, **options))
    await one.server.start()
    address = f"127.0.0.1:{one.server.port}"
    async with grpc.aio.insecure_channel(
        address,
        options=[("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
    ) as channel:
        one.channel = channel
        try:
            yield one
        finally:
            await one.server.stop(0)


@pytest.mark.parametrize("method", [SOTW, DELTA])
async def test_a_client_gets_what_is_published_and_then_what_changes(method):
    async with running() as at:
        at.publish(content(CLUSTER, "a"))
        client = at.client(method)
        await client.send(CLUSTER)
        first = await client.receive()
        assert len(first.resources) == 1
        assert first.control_plane.identifier.startswith("poolpilot/")
        await client.ack(first)
        at.publish(content(CLUSTER, "a"), content(CLUSTER, "b"))
        second = await client.receive()
        assert len(second.resources) == (2 if method == SOTW else 1)
        assert second.nonce != first.nonce


@pytest.mark.parametrize("service", [s for s in SERVICES if s.type_url], ids=lambda s: s.name)
async def test_every_type_has_its_own_service_too(service):
    async with running() as at:
        at.publish(content(service.type_url, "x"))
        for method in filter(None, (service.sotw, service.delta)):
            client = at.client(f"/{service.name}/{method}")
            await client.send(
                "",
                **(
                    {"resource_names": ["x"]}
                    if method == service.sotw
                    else {"resource_names_subscribe": ["x"]}
                ),
            )
            response = await client.receive()
            assert response.type_url == service.type_url
            assert len(response.resources) == 1


async def test_a_node_of_a_group_without_content_waits_and_is_then_served():
    async with running() as at:
        client = at.client()
        await client.send(CLUSTER)
        await until(lambda: bool(at.server.status().nodes), "the node is known")
        assert at.server.status().nodes[0].state is State.NOT_SENT
        at.publish(content(CLUSTER, "a"))
        assert len((await client.receive()).resources) == 1


async def test_a_burst_of_changes_reaches_a_client_as_few_responses_and_the_newest_wins():
    async with running() as at:
        at.publish(content(ENDPOINT, "a"))
        client = at.client()
        await client.send(ENDPOINT, resource_names=["a"])
        await client.ack(await client.receive(), "a")
        for number in range(2, 102):
            at.publish(content(ENDPOINT, "a", number))
        seen = 0
        while True:
            response = await client.receive()
            seen += 1
            await client.ack(response, "a")
            if response.resources[0].value == b"a 101":
                break
        assert seen <= 3


@pytest.mark.parametrize("with_ack", [False, True], ids=["alone", "with an ACK"])
async def test_who_asks_for_a_name_that_was_just_published_is_not_told_that_it_does_not_exist(
    with_ack,
):
    async with running(debounce_seconds=60.0) as at:
        at.publish(content(VIRTUAL_HOST, "r/old"))
        client = at.client(DELTA)
        await client.send(VIRTUAL_HOST, resource_names_subscribe=["r/old"])
        nonce = (await client.receive()).nonce if with_ack else ""
        at.publish(content(VIRTUAL_HOST, "r/old"), content(VIRTUAL_HOST, "r/new"))
        if not with_ack:
            await client.ack(await client.receive())
        await client.send(VIRTUAL_HOST, resource_names_subscribe=["r/new"], response_nonce=nonce)
        (host,) = (await client.receive()).resources
        assert host.name == "r/new"
        assert host.HasField("resource"), "a bare name says that there is no such host"


async def test_who_asks_while_changes_are_gathered_may_by_then_be_forbidden():
    async with running(debounce_seconds=60.0) as at:
        at.publish(content(ENDPOINT, "a"))
        client = at.client(DELTA)
        await client.send(ENDPOINT, resource_names_subscribe=["a"])
        await client.ack(await client.receive())
        at.forbidden.add("n")
        await client.send(ENDPOINT, resource_names_subscribe=["b"])
        code, _words = await client.ending()
        assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_node_that_may_have_nothing_is_told_so():
    async with running() as at:
        client = at.client(node="stranger")
        await client.send(CLUSTER)
        assert await client.ending() == (
            grpc.StatusCode.PERMISSION_DENIED,
            "strangers get nothing",
        )


async def test_a_first_request_without_a_node_is_refused_with_the_remedy():
    async with running() as at:
        client = at.client(node="")
        await client.send(CLUSTER)
        code, details = await client.ending()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "bootstrap" in details


async def test_a_node_whose_name_is_a_book_is_refused():
    """Who acknowledged what is remembered by name, also after the node has gone."""
    async with running() as at:
        at.publish(content(CLUSTER, "a"))
        client = at.client(node="x" * 2000)
        await client.send(CLUSTER)
        code, details = await client.ending()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "node.id has 2000 characters, at most 1024" in details
        assert not at.server.status().nodes


@pytest.mark.parametrize("method", [SOTW, DELTA])
async def test_garbage_ends_its_stream_and_no_other(method):
    async with running() as at:
        at.publish(content(CLUSTER, "a"))
        good, bad = at.client(method), at.client(method)
        await good.send(CLUSTER)
        await good.ack(await good.receive())
        await bad.send_bytes(b"\xff\xfe garbage")
        assert (await bad.ending())[0] is grpc.StatusCode.INVALID_ARGUMENT
        at.publish(content(CLUSTER, "a", 2))
        await good.receive()
        assert at.metric("refused_streams_total", reason="garbage") == 1


async def test_a_request_that_is_too_large_ends_its_stream():
    async with running(limits=Limits(message_bytes=1024 * 1024)) as at:
        client = at.client()
        await client.send(ENDPOINT, resource_names=["x" * 100] * 20_000)
        assert (await client.ending())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_ten_thousand_names_are_served_and_more_than_the_limit_are_refused():
    names = [f"pool-{i}" for i in range(10_000)]
    async with running(limits=Limits(names=10_000)) as at:
        at.publish(content(ENDPOINT, "pool-9999"))
        client = at.client()
        await client.send(ENDPOINT, resource_names=names)
        assert len((await client.receive()).resources) == 1
        greedy = at.client()
        await greedy.send(ENDPOINT, resource_names=[*names, "one more"])
        code, details = await greedy.ending()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "at most 10000" in details


async def test_a_client_that_is_refused_again_and_again_is_one_line():
    with structlog.testing.capture_logs() as logs:
        async with running(limits=Limits(streams_per_peer=1)) as at:
            at.publish(content(CLUSTER, "a"))
            first = at.client()
            await first.send(CLUSTER)
            await first.receive()
            for _ in range(20):
                assert (await at.client().ending())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [line["event"] for line in logs].count("xDS stream ended") == 1


async def test_one_address_cannot_take_all_streams():
    async with running(limits=Limits(streams_per_peer=2)) as at:
        at.publish(content(CLUSTER, "a"))
        first, second = at.client(), at.client()
        for client in (first, second):
            await client.send(CLUSTER)
            await client.receive()
        third = at.client()
        code, details = await third.ending()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 streams" in details
        first.cancel()
        await until(lambda: len(at.server.status().nodes[0].streams) == 1, "a stream is free")
        again = at.client()
        await again.send(CLUSTER)
        await again.receive()


async def test_a_client_that_never_speaks_is_let_go():
    async with running(limits=Limits(first_request_seconds=0.05)) as at:
        client = at.client()
        assert (await client.ending())[0] is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_node_that_never_acknowledges_is_shown_as_stale_and_others_are_served():
    async with running() as at:
        at.publish(content(CLUSTER, "a"))
        silent, good = at.client(node="silent"), at.client(node="good")
        await silent.send(CLUSTER)
        await silent.receive()
        await good.send(CLUSTER)
        await good.ack(await good.receive())
        for number in range(2, 6):
            at.publish(content(CLUSTER, "a", number))
            await good.ack(await good.receive())
        states = lambda: {n.node.id: n.state for n in at.server.status().nodes}  # noqa: E731
        await until(lambda: states() == {"silent": State.STALE, "good": State.SYNCED}, "states")
        stream = next(n for n in at.server.status().nodes if n.node.id == "silent").streams[0]
        assert stream.types[0].responses == 1


async def test_a_nack_is_told_with_resource_origin_and_words():
    async with running() as at:
        bad = Resource(CLUSTER, "bad", b"bad", origin="pools.yaml:3")
        at.publish(content(CLUSTER, "good"), bad)
        client = at.client(DELTA)
        await client.send(CLUSTER)
        await client.nack(
            await client.receive(), "Error adding/updating cluster(s) bad: goo.gle/debugonly   no"
        )
        retry = await client.receive()
        assert [r.name for r in retry.resources] == ["good"]
        await client.ack(retry)
        await until(lambda: at.metric("acks_total", type="Cluster") == 1, "the ACK")
        node = at.server.status().nodes[0]
        rejected = node.streams[0].types[0].rejected[0]
        assert node.state is State.ERROR
        assert (rejected.name, rejected.origin) == ("bad", "pools.yaml:3")
        assert rejected.message == "Error adding/updating cluster(s) bad: no"
        assert at.metric("nacks_total", type="Cluster") == 1
        assert at.metric("rejected_resources", type="Cluster") == 1
        client.cancel()
        await until(lambda: at.metric("rejected_resources", type="Cluster") == 0, "it left")


async def test_of_an_error_that_is_a_book_the_first_pages_count():
    """Each resource is looked for in it: with 2,000 of them that took eleven seconds."""
    async with running() as at:
        at.publish(content(CLUSTER, "bad"), content(CLUSTER, "good"))
        client = at.client(DELTA)
        await client.send(CLUSTER)
        await client.nack(await client.receive(), "cluster bad: no" + "!" * 3_000_000 + " good")
        retry = await client.receive()
        assert [r.name for r in retry.resources] == ["good"]
        [rejected] = at.server.status().nodes[0].streams[0].types[0].rejected
        assert rejected.message.startswith("cluster bad: no!")
        assert len(rejected.message) == 8192


async def test_a_client_that_rejects_for_ever_is_answered_a_bounded_number_of_times():
    async with running() as at:
        at.publish(*(content(CLUSTER, f"c{i}") for i in range(4)))
        client = at.client()
        await client.send(CLUSTER)
        answered = 0
        try:
            while True:
                response = await asyncio.wait_for(client.receive(), 0.5)
                answered += 1
                await client.nack(response, "never")
        except TimeoutError:
            pass
        assert answered <= 8


async def test_two_streams_of_one_node_are_told_apart_and_shown_together():
    async with running() as at:
        at.publish(content(CLUSTER, "a"))
        first, second = at.client(), at.client(DELTA)
        for client in (first, second):
            await client.send(CLUSTER)
            await client.receive()
        node = at.server.status().nodes[0]
        assert sorted(stream.delta for stream in node.streams) == [False, True]


async def test_history_says_what_changed_why_and_how_fast_each_node_had_it():
    async with running() as at:
        at.publish(content(CLUSTER, "a"), cause="start")
        client = at.client()
        await client.send(CLUSTER)
        await client.ack(await client.receive())
        await until(lambda: bool(at.server.status().groups[0].history[0].acked), "the first ACK")
        at.publish(content(CLUSTER, "b"), cause="pool b replaced pool a")
        await client.ack(await client.receive())
        await client.ack(await client.receive())
        await until(lambda: bool(at.server.status().groups[0].history[0].acked), "the last ACK")
        newest, oldest = at.server.status().groups[0].history
        assert (newest.cause, oldest.cause) == ("pool b replaced pool a", "start")
        change = newest.differences[0]
        assert (change.added, change.changed, change.removed) == (("b",), (), ("a",))
        assert 0 <= newest.acked["n"] < LIMIT_OF_CONVERGENCE
        assert at.metric("convergence_seconds_count") == 2


LIMIT_OF_CONVERGENCE = 2.0


async def test_the_log_of_a_stream_tells_each_exchange():
    async with running() as at:
        at.publish(content(CLUSTER, "a"))
        client = at.client()
        await client.send(CLUSTER)
        await client.ack(await client.receive())
        log = lambda: at.server.status().nodes[0].streams[0].log  # noqa: E731
        await until(lambda: len(log()) == 3, "three entries")
        assert [(e.direction, e.kind) for e in log()] == [
            ("received", "subscribe"),
            ("sent", "response"),
            ("received", "ack"),
        ]
        assert log()[2].latency is not None
        assert log()[1].names == ("a",)


async def test_an_inconsistent_snapshot_is_refused_and_the_last_good_one_stays():
    async with running() as at:
        at.publish(content(CLUSTER, "a"))
        with pytest.raises(
            InconsistentError,
            match="group 'test': RouteConfiguration 'r' needs Cluster 'gone', which is missing",
        ):
            at.publish(content(ROUTE, "r", 1, (CLUSTER, "gone")))
        client = at.client()
        await client.send(CLUSTER)
        assert len((await client.receive()).resources) == 1


async def test_what_a_provider_cannot_make_when_asked_is_refused_and_the_last_good_one_stays():
    """A provider of a library user's own, which makes snapshots only when it is asked for them."""
    async with running() as at:
        at.publish(content(CLUSTER, "a"))
        first, second = at.client(node="first"), at.client(node="second")
        await first.send(CLUSTER)
        await first.ack(await first.receive())
        bad = [content(ROUTE, "r", 1, (CLUSTER, "gone"))]
        at.make = lambda: Snapshot.of(bad)
        at.server.refresh("a bad one")
        await until(lambda: bool(at.server.status().groups[0].problem), "the problem is told")
        (group,) = at.server.status().groups
        assert group.problem == "RouteConfiguration 'r' needs Cluster 'gone', which is missing"
        assert [one.problems for one in group.history] == [()]
        assert at.metric("snapshots_total", result="refused") == 1
        await second.send(CLUSTER)
        assert len((await second.receive()).resources) == 1
        at.make = lambda: Snapshot.of([content(CLUSTER, "b")])
        at.server.refresh("a good one")
        await first.receive()
        assert at.server.status().groups[0].problem == ""
        assert at.metric("snapshots_total", result="sent") == 2


async def test_a_taken_port_is_a_clear_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = XdsServer(GroupedSnapshots(lambda _node: "g"), XdsServerConfig(port=port))
        with pytest.raises(OSError, match=f"127.0.0.1:{port}.*in use"):
            await server.start()


async def test_stopping_ends_streams_so_that_clients_go_elsewhere():
    async with running() as at:
        at.publish(content(CLUSTER, "a"))
        client = at.client()
        await client.send(CLUSTER)
        await client.receive()
        await at.server.stop(1)
        assert await client.ending() == (
            grpc.StatusCode.UNAVAILABLE,
            "the xDS server is stopping",
        )


async def test_health_and_reflection_tell_what_is_served():
    async with running() as at:
        health = health_pb2_grpc.HealthStub(at.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICES[0].name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(at.channel)

        async def ask(**fields: str) -> reflection_pb2.ServerReflectionResponse:
            request = reflection_pb2.ServerReflectionRequest(**fields)
            async for response in reflection.ServerReflectionInfo(iter([request])):
                return response
            raise AssertionError("no answer")

        listed = {s.name for s in (await ask(list_services="")).list_services_response.service}
        assert {service.name for service in SERVICES} <= listed
        for name in listed - {"grpc.reflection.v1alpha.ServerReflection"}:
            described = await ask(file_containing_symbol=name)
            assert described.file_descriptor_response.file_descriptor_proto, name


async def test_csds_tells_the_state_of_each_resource_and_never_a_secret():
    async with running() as at:
        keyed = Resource(CLUSTER, "keyed", b"-----BEGIN PRIVATE KEY-----")
        good = content(CLUSTER, "good")
        at.publish(good, keyed, content(SECRET, "s"), content(LISTENER, "l"))
        client = at.client(DELTA)
        await client.send(CLUSTER)
        await client.ack(await client.receive())
        await client.send(SECRET, resource_names_subscribe=["s"])
        await client.ack(await client.receive())
        await client.send(LISTENER)
        await client.nack(await client.receive(), "no room")
        await until(lambda: at.metric("nacks_total", type="Listener") == 1, "the NACK")
        fetch = at.channel.unary_unary(
            "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
            request_serializer=status_pb2.ClientStatusRequest.SerializeToString,
            response_deserializer=status_pb2.ClientStatusResponse.FromString,
        )
        matcher = status_pb2.NodeMatcher(node_id=status_pb2.StringMatcher(prefix="n"))
        answer = await fetch(status_pb2.ClientStatusRequest(node_matchers=[matcher]))
        found = {c.name: c for c in answer.config[0].generic_xds_configs}
        assert found["good"].config_status == status_pb2.SYNCED
        assert found["good"].xds_config.value == b"good 1"
        assert found["s"].config_status == status_pb2.SYNCED
        assert not found["s"].HasField("xds_config")
        assert found["keyed"].config_status == status_pb2.SYNCED
        assert not found["keyed"].HasField("xds_config")
        assert found["l"].config_status == status_pb2.ERROR
        assert found["l"].error_state.details == "no room"
        other = status_pb2.NodeMatcher(node_id=status_pb2.StringMatcher(exact="other"))
        assert not (await fetch(status_pb2.ClientStatusRequest(node_matchers=[other]))).config


async def test_csds_tries_no_regular_expressions():
    """A client that names itself and brings the expression could keep the server busy for ever."""
    async with running() as at:
        at.publish(content(CLUSTER, "a"))
        client = at.client(DELTA, node="a" * 64)
        await client.send(CLUSTER)
        await client.receive()
        fetch = at.channel.unary_unary(
            "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
            request_serializer=status_pb2.ClientStatusRequest.SerializeToString,
            response_deserializer=status_pb2.ClientStatusResponse.FromString,
        )
        expression = status_pb2.RegexMatcher(regex="(a|a)*b")
        matcher = status_pb2.NodeMatcher(node_id=status_pb2.StringMatcher(safe_regex=expression))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await fetch(status_pb2.ClientStatusRequest(node_matchers=[matcher]), timeout=5)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "exact, prefix, suffix or contains" in str(refused.value.details())


async def test_a_request_of_nearly_four_megabytes_is_read_and_a_larger_one_is_refused():
    async with running(limits=Limits(names=100_000)) as at:
        at.publish(content(CLUSTER, "a"))
        good = at.client(node="good")
        await good.send(CLUSTER)
        await good.ack(await good.receive())
        known = {f"{i:032}": "0" * 16 for i in range(70_000)}
        large = at.client(DELTA)
        await large.send(CLUSTER, initial_resource_versions=known)
        answer = await large.receive()
        assert len(answer.removed_resources) == 70_000, "what it has and should not is told"
        larger = at.client(DELTA)
        await larger.send(CLUSTER, initial_resource_versions={**known, "x": "y" * 1_000_000})
        code, details = await larger.ending()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "4194304" in details, "the limit is named"
        at.publish(content(CLUSTER, "a", 2))
        await good.receive()


@pytest.mark.parametrize("method", [SOTW, DELTA])
async def test_what_is_kept_of_a_client_that_never_answers_or_always_rejects_is_bounded(method):
    async with running(log_entries=10, history_entries=5) as at:
        silent, angry = at.client(method, "silent"), at.client(method, "angry")
        at.publish(content(CLUSTER, "a"), content(CLUSTER, "b"))
        for client in (silent, angry):
            await client.send(CLUSTER)
        await silent.receive()

        async def reject() -> None:
            while True:
                response = await angry.receive()
                await angry.nack(response, f"never {response.nonce}")

        rejecting = asyncio.ensure_future(reject())
        for number in range(2, 60):
            at.publish(content(CLUSTER, "a", number), content(CLUSTER, "b", number))
            await asyncio.sleep(0)
        wanted = at.server.status().groups[0]
        await until(lambda: at.metric("nacks_total", type="Cluster") >= 3, "rejections")
        rejecting.cancel()
        nodes = {n.node.id: n.streams[0] for n in at.server.status().nodes}
        assert nodes["silent"].types[0].responses == 1, "nothing piles up for it"
        assert len(nodes["angry"].log) <= 10
        assert len(nodes["angry"].types[0].rejected) <= 2
        assert len(wanted.history) <= 5


@pytest.mark.parametrize("method", [SOTW, DELTA])
async def test_a_client_that_moves_to_a_replica_is_sent_nothing_again(method):
    """Versions are hashes of content: a server that never saw the client knows what it has."""
    async with running() as first, running() as second:
        resources = [content(CLUSTER, name) for name in "abc"]
        first.publish(*resources)
        second.publish(*reversed(resources))
        before = first.client(method)
        await before.send(CLUSTER)
        had = await before.receive()
        await before.ack(had)
        after = second.client(method)
        if method == SOTW:
            await after.send(CLUSTER, version_info=had.version_info)
        else:
            versions = {r.name: r.version for r in had.resources}
            await after.send(CLUSTER, initial_resource_versions=versions)
            empty = await after.receive()
            assert not empty.resources
            assert not empty.removed_resources
            await after.ack(empty)
        await until(
            lambda: any(s.converged for n in second.server.status().nodes for s in n.streams),
            "it has everything",
        )
        sent = second.server.status().nodes[0].streams[0].types[0].responses
        assert sent == (0 if method == SOTW else 1)
        second.publish(content(CLUSTER, "a", 2), *resources[1:])
        news = await after.receive()
        assert len(news.resources) == (3 if method == SOTW else 1)


async def test_a_new_node_gets_what_its_peers_have_in_place_of_a_form_that_is_bad():
    async with running() as at:
        at.publish(content(CLUSTER, "a", 1))
        old = at.client(DELTA, "old")
        await old.send(CLUSTER)
        await old.ack(await old.receive())
        await until(lambda: at.metric("acks_total", type="Cluster") == 1, "the ACK")
        at.publish(Resource(CLUSTER, "a", b"bad"))
        new = at.client(DELTA, "new")
        await new.send(CLUSTER)
        first = await new.receive()
        assert first.resources[0].resource.value == b"bad"
        await new.nack(first, "no")
        second = await new.receive()
        assert second.resources[0].resource.value == b"a 1"
        await new.ack(second)
        await until(lambda: at.metric("acks_total", type="Cluster") == 2, "the ACK")
        node = next(n for n in at.server.status().nodes if n.node.id == "new")
        assert node.state is State.ERROR
        assert node.streams[0].types[0].has["a"].body == b"a 1"


async def test_a_thousand_streams_of_one_client_leave_the_others_unharmed():
    async with running(limits=Limits(streams_per_peer=1_010)) as at:
        at.publish(content(CLUSTER, "a"))
        good = at.client(node="good")
        await good.send(CLUSTER)
        await good.ack(await good.receive())
        crowd = [at.client(node="crowd") for _ in range(1_000)]
        await asyncio.gather(*(client.send(CLUSTER) for client in crowd))
        await until(lambda: at.metric("streams", protocol="sotw") == 1_001, "all are here", 30)
        at.publish(content(CLUSTER, "a", 2))
        await good.receive()
        for client in crowd:
            client.cancel()
        await until(lambda: at.metric("streams", protocol="sotw") == 1, "they are gone", 30)
