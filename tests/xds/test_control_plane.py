"""Which Envoy gets what, when the World changes, and when it cannot be had."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from pools.attachment import AttachedWorld, attach
from pools.model import (
    Endpoint,
    Gateway,
    GatewayListener,
    HTTPRoute,
    ParentRef,
    Problem,
    Severity,
    World,
)
from pools.tasks import PartEndedError
from tests.xds.worlds import name, pods, pool, route, rule, to, world
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.http import HttpConfig
from xds.provider import NO_GROUP, WorldProvider
from xds.resource import CLUSTER, LISTENER
from xds.snapshot import Node, Snapshot
from xds.translate import ALL, DEFAULT_GATEWAY, Features, TranslateSettings, Translator
from xds.world_changes import describe_changes

ENVOY = Node("envoy-1", version=(1, 40, 0))


def provider() -> WorldProvider:
    return WorldProvider(Translator(TranslateSettings()))


def gateway(text: str, *ports: int) -> Gateway:
    return Gateway(name(text), tuple(GatewayListener(f"port-{p}", p) for p in ports))


def attached(text: str, to_gateway: str) -> HTTPRoute:
    return route(text, rule(backends=to("llama")), parents=(ParentRef(name(to_gateway)),))


TWO_GATEWAYS = world(
    pool("llama"),
    gateways=(gateway("prod/edge", 80), gateway("prod/internal", 8080)),
    routes=(attached("a", "prod/edge"), attached("b", "prod/internal")),
)


def listeners(found: Snapshot | None) -> set[str]:
    assert found is not None
    return set(found.of_type(LISTENER))


def test_before_the_first_world_nodes_wait():
    waiting = provider()
    assert waiting.snapshot(ENVOY) is None
    assert waiting.group(ENVOY) == NO_GROUP
    assert "nothing was read" in waiting.why_none(ENVOY)


def test_without_gateways_every_node_is_served_whatever_gateway_it_names():
    serving = provider()
    serving.offer(world(pool("llama")))
    named = replace(ENVOY, metadata={"gateway": "default/somewhere"})
    assert serving.group(named) == DEFAULT_GATEWAY
    assert serving.snapshot(named) is serving.snapshot(ENVOY)
    assert serving.snapshot(ENVOY) is not None


@pytest.mark.parametrize(
    ("node", "group"),
    [
        (Node("e", metadata={"gateway": "prod/edge"}), "prod/edge"),
        (Node("e", metadata={"gateway": "internal"}), "prod/internal"),
        (Node("e", cluster="prod/internal"), "prod/internal"),
        (Node("edge"), "prod/edge"),
        (Node("e"), NO_GROUP),
        (Node("edge", metadata={"gateway": "prod/gone"}), NO_GROUP),
    ],
)
def test_a_node_belongs_to_the_gateway_that_it_names(node: Node, group: str):
    serving = provider()
    serving.offer(TWO_GATEWAYS)
    assert serving.group(node) == group
    if group == NO_GROUP:
        assert serving.snapshot(node) is None
        assert "prod/edge, prod/internal" in serving.why_none(node)
    else:
        assert serving.why_none(node) == ""
        assert all(one.startswith(group) for one in listeners(serving.snapshot(node)))


def test_where_there_is_one_gateway_a_node_need_not_name_it():
    serving = provider()
    serving.offer(world(pool("llama"), gateways=(gateway("a", 80),), routes=(attached("r", "a"),)))
    assert listeners(serving.snapshot(ENVOY)) == {"default/a/80"}


def test_the_same_object_is_given_until_something_changes():
    serving = provider()
    described = world(pool("llama"))
    assert serving.offer(described)
    before = serving.snapshot(ENVOY)
    assert serving.snapshot(replace(ENVOY, id="envoy-2")) is before
    assert serving.offer(replace(described, revision=2)) == ""
    assert serving.snapshot(ENVOY) is before
    assert serving.offer(world(pool("llama"), endpoints=3)) == (
        "Endpoint 10.0.0.3:8000 added to InferencePool default/llama"
    )
    assert serving.snapshot(ENVOY) is not before


def test_older_envoys_get_a_variant_of_their_own_that_is_kept_up_to_date():
    serving = provider()
    serving.offer(world(pool("llama")))
    old = Node("old", version=(1, 37, 0))
    first, newest = serving.snapshot(old), serving.snapshot(ENVOY)
    assert first is not None
    assert newest is not None
    assert first.version != newest.version
    assert first.notes
    assert not newest.notes
    serving.offer(world(pool("llama"), endpoints=3))
    second = serving.snapshot(old)
    assert second is not None
    assert second.version != first.version
    assert {variant.features == ALL for variant in serving.variants()} == {True, False}


def test_a_client_that_claims_ever_new_features_does_not_fill_the_memory():
    serving = provider()
    serving.offer(world(pool("llama")))
    extensions = [f"envoy.access_loggers.{x}" for x in ("stdout", "http_grpc")] + [
        "envoy.filters.http.json_to_metadata",
        "envoy.filters.http.match_delegate",
        "envoy.retry_host_predicates.previous_hosts",
        "envoy.load_balancing_policies.override_host",
    ]
    seen = set()
    for subset in range(1, 2 ** len(extensions)):
        chosen = {x for i, x in enumerate(extensions) if subset >> i & 1}
        snapshot = serving.snapshot(Node("e", extensions=frozenset(chosen)))
        assert snapshot is not None
        seen.add(snapshot.version)
    assert len(seen) > 16
    assert len(list(serving.variants())) <= 16
    assert ALL in {variant.features for variant in serving.variants()}


def test_a_gateway_that_goes_away_leaves_its_nodes_what_they_have():
    serving = provider()
    serving.offer(TWO_GATEWAYS)
    node = Node("e", metadata={"gateway": "prod/internal"})
    assert listeners(serving.snapshot(node)) == {"prod/internal/8080"}
    assert serving.offer(replace(TWO_GATEWAYS, gateways=TWO_GATEWAYS.gateways[:1]))
    assert serving.snapshot(node) is None, "told nothing, so nothing is deleted"
    assert {variant.group for variant in serving.variants()} == {"prod/edge"}


class FailingTranslator(Translator):
    """Fails for Worlds of revision 13, and makes inconsistent ones of revision 14."""

    def translate(
        self,
        attached: AttachedWorld,
        gateway: Gateway | None,
        features: Features,
        *,
        cause: str = "",
    ) -> Snapshot:
        if attached.world.revision == 13:
            raise ValueError("unlucky")
        found = super().translate(attached, gateway, features, cause=cause)
        if attached.world.revision == 14:
            left = [
                resource
                for named in found.resources.values()
                for resource in named.values()
                if resource.type_url != CLUSTER
            ]
            return Snapshot.of(left, cause=cause)
        return found


@pytest.mark.parametrize(
    ("revision", "problem"),
    [
        (13, "cannot be made: ValueError: unlucky"),
        (
            14,
            "RouteConfiguration 'default/8081' (default) needs Cluster 'pool/default/qwen', "
            "which is missing; Listener 'default/8081' (default) needs Cluster 'ext-proc', "
            "which is missing",
        ),
    ],
)
def test_what_cannot_be_published_leaves_the_last_good_one_and_is_told(revision: int, problem: str):
    serving = WorldProvider(FailingTranslator(TranslateSettings()))
    serving.offer(world(pool("llama"), revision=1))
    good = serving.snapshot(ENVOY)
    assert serving.offer(world(pool("qwen"), revision=revision)) == ""
    assert serving.snapshot(ENVOY) is good
    (variant,) = serving.variants()
    assert variant.problem == problem
    assert serving.offer(world(pool("qwen"), revision=15))
    (variant,) = serving.variants()
    assert variant.problem == ""
    assert serving.snapshot(ENVOY) is not good


def test_what_cannot_be_made_at_first_is_nothing_and_not_empty():
    serving = WorldProvider(FailingTranslator(TranslateSettings()))
    serving.offer(world(pool("llama"), revision=13))
    assert serving.snapshot(ENVOY) is None


BEFORE = world(pool("llama"), pool("qwen"), endpoints=2)


@pytest.mark.parametrize(
    ("after", "cause"),
    [
        (BEFORE, ""),
        (replace(BEFORE, revision=9, problems=(Problem(Severity.ERROR, "x"),)), ""),
        (
            world(pool("llama"), pool("qwen"), pool("new"), endpoints=2),
            "InferencePool default/new added; "
            "Endpoint 10.2.0.1:8000 added to InferencePool default/new; "
            "Endpoint 10.2.0.2:8000 added to InferencePool default/new",
        ),
        (
            replace(BEFORE, endpoints={**BEFORE.endpoints, name("qwen"): ()}),
            "Endpoint 10.1.0.1:8000 removed from InferencePool default/qwen; "
            "Endpoint 10.1.0.2:8000 removed from InferencePool default/qwen",
        ),
        (
            replace(BEFORE, endpoints={**BEFORE.endpoints, name("llama"): pods(7)}),
            "Endpoint 10.0.0.3:8000 added to InferencePool default/llama; "
            "Endpoint 10.0.0.4:8000 added to InferencePool default/llama; "
            "Endpoint 10.0.0.5:8000 added to InferencePool default/llama; "
            "and 2 further changes",
        ),
        (
            replace(BEFORE, routes=(route("r", rule(backends=to("llama"))),)),
            "HTTPRoute default/r added",
        ),
    ],
)
def test_the_cause_of_a_change_names_what_changed(after: World, cause: str):
    assert describe_changes(BEFORE, after) == cause


def test_the_cause_tells_that_a_pod_drains():
    first, second = pods(2)
    draining = (first, replace(second, draining=True))
    after = replace(BEFORE, endpoints={**BEFORE.endpoints, name("llama"): draining})
    assert describe_changes(BEFORE, after) == (
        "Endpoint 10.0.0.2:8000 of InferencePool default/llama is draining"
    )
    assert describe_changes(after, BEFORE).endswith("no longer drains")


def test_the_first_state_is_counted():
    assert describe_changes(None, BEFORE) == "first state: 2 pools, 4 endpoints"


class Script:
    """A source that yields what a test hands it."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[World | Exception | None] = asyncio.Queue()
        self.taken = asyncio.Event()

    async def say(self, item: World | Exception | None) -> None:
        """Returns when the World was taken in."""
        self.taken.clear()
        await self._queue.put(item)
        await self.taken.wait()

    async def worlds(self) -> AsyncIterator[World]:
        while True:
            item = await self._queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                self.taken.set()
                return
            yield item
            self.taken.set()


class Reports:
    """A reporter that remembers what it was offered, until it is told to end."""

    def __init__(self) -> None:
        self.offered: list[AttachedWorld] = []
        self.end = asyncio.Event()

    def offer(self, attached: AttachedWorld) -> None:
        self.offered.append(attached)

    async def run(self) -> None:
        await self.end.wait()


def plane(source: Script, reporter: Reports | None = None) -> ControlPlane:
    return ControlPlane(
        source,
        server_config=XdsServerConfig(port=0),
        http_config=HttpConfig(port=0),
        reporter=reporter,
    )


async def test_it_is_ready_with_the_first_world_and_not_before():
    source = Script()
    control = plane(source)
    await control.start()
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{control.http_port}", trust_env=False
        ) as client:
            assert (await client.get("/healthz")).status_code == 200
            answer = await client.get("/readyz")
            assert answer.status_code == 503
            assert "nothing was read" in answer.text
            await source.say(world(pool("llama")))
            assert (await client.get("/readyz")).status_code == 200
            metrics = (await client.get("/metrics")).text
            assert "poolpilot_xds_pools 1.0" in metrics
            assert "poolpilot_xds_endpoints 2.0" in metrics
    finally:
        await control.stop(0)


async def test_a_change_is_told_to_the_server_and_no_change_is_not(
    monkeypatch: pytest.MonkeyPatch,
):
    control = plane(Script())
    causes: list[str] = []
    monkeypatch.setattr(control.server, "refresh", causes.append)
    control.take(world(pool("llama")))
    control.take(world(pool("llama"), revision=2))
    control.take(world(pool("llama"), endpoints=3))
    assert causes == [
        "first state: 1 pool, 2 endpoints",
        "Endpoint 10.0.0.3:8000 added to InferencePool default/llama",
    ]


async def test_it_runs_until_it_is_cancelled():
    source = Script()
    control = plane(source)
    running = asyncio.create_task(control.run(grace=0))
    await source.say(world(pool("llama")))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(RuntimeError):
        _ = control.http_port


async def test_it_ends_when_the_source_ends():
    source = Script()
    control = plane(source)
    running = asyncio.create_task(control.run(grace=0))
    await source.say(world(pool("llama")))
    await source.say(None)
    with pytest.raises(PartEndedError, match="source ended by itself"):
        await running


async def test_it_ends_when_the_source_fails():
    source = Script()
    control = plane(source)
    running = asyncio.create_task(control.run(grace=0))
    await source.say(world(pool("llama")))
    saying = asyncio.create_task(source.say(OSError("the directory is gone")))
    with pytest.raises(PartEndedError, match="source ended: the directory is gone"):
        await running
    saying.cancel()


async def test_it_ends_when_its_http_server_ends():
    source = Script()
    control = plane(source)
    running = asyncio.create_task(control.run(grace=0))
    await source.say(world(pool("llama")))
    control._http._server.should_exit = True
    with pytest.raises(PartEndedError, match="HTTP server ended by itself"):
        await running


async def test_what_envoys_get_and_what_is_reported_are_one_attachment_of_the_world():
    reports = Reports()
    control = plane(Script(), reports)
    control.take(BEFORE)
    [attached] = reports.offered
    assert attached is control.provider.attached
    assert attached == attach(BEFORE)


async def test_it_ends_when_what_reports_ends():
    reports = Reports()
    running = asyncio.create_task(plane(Script(), reports).run(grace=0))
    reports.end.set()
    with pytest.raises(PartEndedError, match="status writer ended by itself"):
        await running


async def test_a_taken_port_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        control = ControlPlane(
            Script(), server_config=XdsServerConfig(port=0), http_config=HttpConfig(port=port)
        )
        with pytest.raises(OSError, match=str(port)):
            await control.run(grace=0)


def test_an_endpoint_key_has_brackets_for_ipv6_in_causes():
    six = Endpoint("2001:db8::1", 8000, "six")
    after = replace(BEFORE, endpoints={**BEFORE.endpoints, name("llama"): (*pods(2), six)})
    assert describe_changes(BEFORE, after) == (
        "Endpoint [2001:db8::1]:8000 added to InferencePool default/llama"
    )
