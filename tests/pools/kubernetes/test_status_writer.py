"""The loop that writes statuses, on objects in memory and by virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pytest
import structlog

from pools.attachment import attach
from pools.kubernetes.connection import ApiError, Connection, UnreachableError
from pools.kubernetes.credentials import Credentials
from pools.kubernetes.status import StatusSettings, StatusWriter
from pools.model import (
    Gateway,
    GatewayClass,
    GatewayListener,
    HTTPRoute,
    ObjectName,
    Origin,
    ParentRef,
    World,
)

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
GATEWAY = ObjectName("models", "gateway")
API = "/apis/gateway.networking.k8s.io/v1"
ROUTES = f"{API}/namespaces/models/httproutes"
US = StatusSettings().controller


@dataclass
class Cluster:
    """Objects by path, and what goes wrong at some of them."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    """By path: of the next writes."""
    away: bool = False
    writes: list[str] = field(default_factory=list)
    version: int = 0

    def put(self, path: str, document: dict[str, Any]) -> None:
        self.version += 1
        metadata = {"uid": f"uid of {path}", **document.get("metadata", {})}
        metadata["resourceVersion"] = str(self.version)
        self.objects[path] = {**document, "metadata": metadata}

    def get(self, path: str) -> bytes:
        if path in self.objects:
            return json.dumps(self.objects[path]).encode()
        kind = path.rpartition("/")[2]
        if kind not in ("httproutes", "gateways", "gatewayclasses"):
            raise ApiError(404, "NotFound", f"there is no {path}")
        items = [one for at, one in self.objects.items() if f"/{kind}/" in at]
        return json.dumps({"metadata": {}, "items": items}).encode()

    def send(self, method: str, path: str, document: dict[str, Any]) -> None:
        if self.failures.get(path):
            raise self.failures[path].pop(0)
        at = path.removesuffix("/status")
        if method == "POST":
            at = f"{path}/{document['metadata']['name']}"
            if at in self.objects:
                raise ApiError(409, "AlreadyExists", "it is there")
        elif self.objects[at]["metadata"]["resourceVersion"] != document["metadata"].get(
            "resourceVersion"
        ):
            raise ApiError(409, "Conflict", "somebody was quicker")
        self.writes.append(path)
        if method == "PATCH":
            current = self.objects[at]
            status = {**current.get("status", {}), **document["status"]}
            document = {**current, "status": status}
        self.put(at, document)

    def route(self, name: str) -> list[dict[str, Any]]:
        """What its status says."""
        parents: list[dict[str, Any]] = (
            self.objects[f"{ROUTES}/{name}"].get("status", {}).get("parents", [])
        )
        return parents

    def events(self) -> list[str]:
        return [one["reason"] for at, one in self.objects.items() if "/events/" in at]


class ToCluster(Connection):
    def __init__(self, cluster: Cluster) -> None:
        super().__init__(Credentials())
        self._cluster = cluster

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """There is nothing to close."""

    async def get(self, path: str, parameters: Any = None) -> bytes:
        await self._reach()
        return self._cluster.get(path)

    async def send(self, method: str, path: str, body: bytes, content_type: str = "") -> bytes:
        await self._reach()
        self._cluster.send(method, path, json.loads(body))
        return b"{}"

    async def _reach(self) -> None:
        await asyncio.sleep(0.001)
        if self._cluster.away:
            raise UnreachableError("connection refused")


def origin(kind: str, name: ObjectName, path: str) -> Origin:
    return Origin(kind, name, "kubernetes", uid=f"uid of {path}", generation=1)


def a_world(cluster: Cluster, *routes: str, section: str | None = None) -> World:
    """A Gateway of ours with these routes, all of which the cluster has."""
    at_class = f"{API}/gatewayclasses/poolpilot"
    at_gateway = f"{API}/namespaces/models/gateways/gateway"
    cluster.objects.setdefault(at_class, {})
    cluster.put(at_class, {"metadata": {"name": "poolpilot"}})
    cluster.put(
        at_gateway,
        {
            "metadata": {"name": "gateway", "namespace": "models"},
            "spec": {"gatewayClassName": "poolpilot"},
        },
    )
    made = []
    for route in routes:
        name, path = ObjectName("models", route), f"{ROUTES}/{route}"
        if path not in cluster.objects:
            cluster.put(path, {"metadata": {"name": route, "namespace": "models"}})
        made.append(
            HTTPRoute(
                name,
                parents=(ParentRef(GATEWAY, section),),
                origin=origin("HTTPRoute", name, path),
            )
        )
    class_name = ObjectName("", "poolpilot")
    return World(
        of_cluster=True,
        gateway_classes=(
            GatewayClass(class_name, US, origin("GatewayClass", class_name, at_class)),
        ),
        gateways=(
            Gateway(
                GATEWAY,
                (GatewayListener("http", 80),),
                origin("Gateway", GATEWAY, at_gateway),
                "poolpilot",
            ),
        ),
        routes=tuple(made),
    )


@asynccontextmanager
async def writing(cluster: Cluster, world: World | None) -> AsyncIterator[StatusWriter]:
    writer = StatusWriter(
        StatusSettings(lease_namespace="poolpilot"),
        identity="one",
        connect=lambda: ToCluster(cluster),
        clock=asyncio.get_running_loop().time,
        now=lambda: NOW,
        chance=lambda: 0.0,
    )
    if world is not None:
        writer.offer(attach(world))
    task = asyncio.create_task(writer.run())
    try:
        yield writer
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


pytestmark = pytest.mark.looptime


async def test_everything_is_written_once() -> None:
    cluster = Cluster()
    async with writing(cluster, a_world(cluster, "a", "b")):
        await asyncio.sleep(5)
        written = [path for path in cluster.writes if path.endswith("/status")]
        assert len(written) == len(set(written)) == 4
        [parent] = cluster.route("a")
        assert parent["controllerName"] == US
        await asyncio.sleep(1000)
        assert [path for path in cluster.writes if path.endswith("/status")] == written


async def test_somebody_who_was_quicker_is_heard_first() -> None:
    cluster = Cluster()
    world = a_world(cluster, "a")
    cluster.failures[f"{ROUTES}/a/status"] = [ApiError(409, "Conflict", "")] * 3
    async with writing(cluster, world):
        await asyncio.sleep(5)
        assert len(cluster.route("a")) == 1


async def test_one_that_cannot_be_written_holds_up_no_other_and_is_tried_again() -> None:
    cluster = Cluster()
    world = a_world(cluster, "a", "b")
    cluster.failures[f"{ROUTES}/a/status"] = [ApiError(422, "Invalid", "too strange")] * 6
    with structlog.testing.capture_logs() as logs:
        async with writing(cluster, world):
            await asyncio.sleep(3)
            assert cluster.route("a") == []
            assert len(cluster.route("b")) == 1
            await asyncio.sleep(30)
            assert len(cluster.route("a")) == 1
    told = [line for line in logs if line["event"] == "status cannot be written"]
    assert [line["what"] for line in told] == ["HTTPRoute models/a"]


async def test_after_an_outage_what_changed_meanwhile_is_written() -> None:
    cluster = Cluster()
    async with writing(cluster, a_world(cluster, "a")) as writer:
        await asyncio.sleep(3)
        cluster.away = True
        writer.offer(attach(a_world(cluster, "a", "b")))
        await asyncio.sleep(120)
        cluster.away = False
        await asyncio.sleep(120)
        assert len(cluster.route("b")) == 1


async def test_what_somebody_else_removed_is_there_again_after_a_while() -> None:
    cluster = Cluster()
    async with writing(cluster, a_world(cluster, "a")):
        await asyncio.sleep(3)
        path = f"{ROUTES}/a"
        cluster.put(path, {**cluster.objects[path], "status": {}})
        await asyncio.sleep(400)
        assert len(cluster.route("a")) == 1


async def test_an_object_that_was_made_anew_is_not_taken_for_the_old_one() -> None:
    cluster = Cluster()
    world = a_world(cluster, "a")
    path = f"{ROUTES}/a"
    cluster.put(path, {"metadata": {"name": "a", "namespace": "models", "uid": "another"}})
    async with writing(cluster, world):
        await asyncio.sleep(5)
        assert cluster.route("a") == []


async def test_an_event_that_is_there_already_is_not_told_again() -> None:
    cluster = Cluster()
    world = a_world(cluster, "a", section="nope")
    for _ in range(3):  # as after restarts
        async with writing(cluster, world):
            await asyncio.sleep(10)
            assert cluster.events() == ["NoMatchingParent"]


async def test_a_namespace_that_is_being_deleted_takes_no_events_and_that_is_no_news() -> None:
    cluster = Cluster()
    world = a_world(cluster, "a", section="nope")
    path = "/apis/events.k8s.io/v1/namespaces/models/events"
    cluster.failures[path] = [ApiError(403, "Forbidden", "the namespace is being terminated")]
    with structlog.testing.capture_logs() as logs:
        async with writing(cluster, world):
            await asyncio.sleep(20)
    assert cluster.events() == []
    assert not [line for line in logs if line["log_level"] == "warning"]


async def test_a_writer_that_breaks_begins_anew() -> None:
    cluster = Cluster()
    cluster.failures[f"{ROUTES}/a/status"] = [RuntimeError("a mistake of ours")]
    with structlog.testing.capture_logs() as logs:
        async with writing(cluster, a_world(cluster, "a")):
            await asyncio.sleep(30)
            assert len(cluster.route("a")) == 1
    assert any(line["log_level"] == "error" for line in logs)


async def test_before_the_first_world_nothing_is_asked_of_the_api_server() -> None:
    cluster = Cluster()
    async with writing(cluster, None) as writer:
        await asyncio.sleep(60)
        assert not cluster.writes
        writer.offer(attach(a_world(cluster, "a")))
        await asyncio.sleep(5)
        assert len(cluster.route("a")) == 1
