"""An API server in memory: resource versions, history, pages, watches, and forgetting.

It holds raw objects by collection path, keeps a limited history of events, and answers as the real
one does, without a socket (``FakeApi``) and with one (``serve``).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Object = dict[str, Any]

GROUPS = {
    "/apis/inference.networking.k8s.io/v1": ("inferencepools",),
    "/apis/inference.networking.x-k8s.io/v1alpha2": (
        "inferencepools",
        "inferencemodels",
        "inferenceobjectives",
        "inferencemodelrewrites",
    ),
    "/apis/gateway.networking.k8s.io/v1": (
        "httproutes",
        "gateways",
        "gatewayclasses",
        "referencegrants",
    ),
    "/apis/discovery.k8s.io/v1": ("endpointslices",),
    "/apis/poolpilot.dev/v1alpha1": ("poolendpoints",),
}


@dataclass(frozen=True)
class Event:
    version: int
    type: str
    object: Object


class GoneError(Exception):
    """410: the version is not known any more."""


@dataclass
class FakeApi:
    """``path`` is always that of a cluster-wide collection, such as ``/api/v1/pods``."""

    version: int = 1
    objects: dict[str, dict[tuple[str, str], Object]] = field(default_factory=dict)
    history: dict[str, list[Event]] = field(default_factory=dict)
    compacted: int = 0
    """Versions up to this one are forgotten."""
    tokens: dict[str, tuple[int, list[Object]]] = field(default_factory=dict)

    def put(self, path: str, item: Object) -> None:
        """Create or change an object."""
        self.version += 1
        metadata = item["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        of_path = self.objects.setdefault(path, {})
        before = of_path.get(key)
        uid = before["metadata"]["uid"] if before else f"uid-{self.version}"
        stored = {
            **item,
            "metadata": {**metadata, "uid": uid, "resourceVersion": str(self.version)},
        }
        of_path[key] = stored
        self._note(path, "MODIFIED" if before else "ADDED", stored)

    def delete(self, path: str, namespace: str, name: str) -> bool:
        item = self.objects.get(path, {}).pop((namespace, name), None)
        if item is None:
            return False
        self.version += 1
        gone = {
            **item,
            "metadata": {**item["metadata"], "resourceVersion": str(self.version)},
        }
        self._note(path, "DELETED", gone)
        return True

    def _note(self, path: str, kind: str, item: Object) -> None:
        self.history.setdefault(path, []).append(Event(self.version, kind, item))

    def compact(self) -> None:
        """Forget all versions but the current one, and every token of a page."""
        self.compacted = self.version
        for events in self.history.values():
            events.clear()
        self.tokens.clear()

    def items(self, path: str, namespace: str | None = None) -> list[Object]:
        found = sorted(self.objects.get(path, {}).items())
        return [item for key, item in found if namespace is None or key[0] == namespace]

    def page(
        self, path: str, limit: int | None, token: str, namespace: str | None = None
    ) -> tuple[list[Object], str, str]:
        """Items, the version of the whole list and the token of the next page. Raises GoneError."""
        if token:
            if token not in self.tokens:
                raise GoneError
            version, rest = self.tokens[token]
        else:
            version, rest = self.version, self.items(path, namespace)
        if limit is None or len(rest) <= limit:
            return rest, str(version), ""
        following = base64.urlsafe_b64encode(f"{version}/{len(rest)}/{path}".encode()).decode()
        self.tokens[following] = (version, rest[limit:])
        return rest[:limit], str(version), following

    def since(self, path: str, version: str, namespace: str | None = None) -> list[Event]:
        """What happened after ``version``. Raises GoneError."""
        if int(version) < self.compacted:
            raise GoneError
        return [
            event
            for event in self.history.get(path, ())
            if event.version > int(version)
            and namespace in (None, event.object["metadata"].get("namespace", ""))
        ]


@dataclass
class FakeServer:
    """A FakeApi behind HTTP on loopback, with the ways of a real one to say no."""

    api: FakeApi = field(default_factory=FakeApi)
    groups: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(GROUPS))
    token: str | None = None
    """The bearer token that is accepted; None: all are."""
    refusals: dict[str, list[int]] = field(default_factory=dict)
    """Status codes with which the next requests for a plural name are answered."""
    requests: list[str] = field(default_factory=list)
    """Paths with their queries, watches included."""
    url: str = ""
    brief: bool = False
    """Every watch ends after its first words."""
    mute: bool = False
    """No watch is ever answered, not even with a status."""
    stopping: bool = False
    _awaited: tuple[str, int, asyncio.Event] | None = None
    _wakes: set[asyncio.Event] = field(default_factory=set)
    """One for each open watch."""

    def put(self, path: str, *items: Object) -> None:
        for item in items:
            self.api.put(path, item)
        self.wake()

    def delete(self, path: str, namespace: str, name: str) -> None:
        self.api.delete(path, namespace, name)
        self.wake()

    def wake(self) -> None:
        """Let the watches see what was done to ``api``."""
        for wake in self._wakes:
            wake.set()

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[FakeServer]:
        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self.stopping = True
            self.wake()
            await runner.cleanup()

    async def asked_for(self, path: str, times: int) -> None:
        """Wait until ``path`` was asked for so many times more."""
        self._awaited = path, times, asyncio.Event()
        await self._awaited[2].wait()

    def _count(self, path: str) -> None:
        if self._awaited is not None and self._awaited[0] == path:
            path, times, reached = self._awaited
            self._awaited = path, times - 1, reached
            if times <= 1:
                reached.set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path_qs)
        self._count(request.path)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized", "Unauthorized")
        if request.path in self.groups:
            return web.json_response(
                {"resources": [{"name": n} for n in self.groups[request.path]]}
            )
        group, namespace, plural = _split(request.path)
        if group != "/api/v1" and plural not in self.groups.get(group, ()):
            return _status(404, "NotFound", "the server could not find the requested resource")
        if refusals := self.refusals.get(plural):
            code = refusals.pop(0)
            return _status(code, {403: "Forbidden", 410: "Expired"}.get(code, ""), f"no: {code}")
        path = f"{group}/{plural}"
        if request.query.get("watch"):
            return await self._watch(request, path, namespace)
        limit = request.query.get("limit")
        try:
            items, version, token = self.api.page(
                path, int(limit) if limit else None, request.query.get("continue", ""), namespace
            )
        except GoneError:
            return _status(410, "Expired", "the token expired")
        return web.json_response(
            {"metadata": {"resourceVersion": version, "continue": token}, "items": items}
        )

    async def _watch(
        self, request: web.Request, path: str, namespace: str | None
    ) -> web.StreamResponse:
        version = request.query["resourceVersion"]
        if self.mute:
            await asyncio.Event().wait()
        response = web.StreamResponse()
        await response.prepare(request)
        wake = asyncio.Event()
        self._wakes.add(wake)
        try:
            while not self.stopping:
                wake.clear()
                try:
                    events = self.api.since(path, version, namespace)
                except GoneError:
                    gone = {"code": 410, "reason": "Expired", "message": "too old"}
                    await response.write(_line("ERROR", gone))
                    break
                if events:
                    await response.write(b"".join(_line(one.type, one.object) for one in events))
                    version = str(events[-1].version)
                    if self.brief:
                        break
                    continue
                version = max(version, str(self.api.version), key=int)
                bookmark = {"metadata": {"resourceVersion": version}}
                await response.write(_line("BOOKMARK", bookmark))
                if self.brief:
                    break
                await wake.wait()
        finally:
            self._wakes.discard(wake)
        return response


def _split(path: str) -> tuple[str, str | None, str]:
    """Group path, namespace and plural name."""
    parts = path.strip("/").split("/")
    length = 2 if parts[0] == "api" else 3
    group, rest = "/" + "/".join(parts[:length]), parts[length:]
    if len(rest) == 3:
        return group, rest[1], rest[2]
    return group, None, rest[0] if rest else ""


def _line(kind: str, item: object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code)


POOLS = "/apis/inference.networking.k8s.io/v1/inferencepools"
PODS = "/api/v1/pods"
SECRETS = "/api/v1/secrets"
GRANTS = "/apis/gateway.networking.k8s.io/v1/referencegrants"
GATEWAYS = "/apis/gateway.networking.k8s.io/v1/gateways"
GATEWAY_CLASSES = "/apis/gateway.networking.k8s.io/v1/gatewayclasses"
ROUTES = "/apis/gateway.networking.k8s.io/v1/httproutes"


def pool(
    name: str, ports: Iterable[object] = (8000,), app: str | None = None, namespace: str = "default"
) -> Object:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": app or name}},
            "targetPorts": [{"number": port} for port in ports],
        },
    }


def pod(
    name: str,
    app: str,
    address: str,
    *,
    ready: bool = True,
    deleted: bool = False,
    namespace: str = "default",
    annotations: dict[str, str] | None = None,
) -> Object:
    metadata: Object = {
        "name": name,
        "namespace": namespace,
        "labels": {"app": app},
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
        **({"annotations": annotations} if annotations else {}),
        **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {}),
    }
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "metadata": metadata,
        "spec": {"containers": [{"name": "vllm"}]},
        "status": {"podIP": address, "conditions": [condition]} if address else {},
    }
