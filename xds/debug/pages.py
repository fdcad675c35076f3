"""What the server knows, for people and for ``curl | jq``: JSON over HTTP.

Field names are Envoy's, so that what works on Envoy's ``/config_dump`` works here. Everything is
made when it is asked for and nothing is kept.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from xds.debug.nodes import group_json, node_json
from xds.debug.snapshots import (
    TYPE_NAMES,
    resource_json,
    resources_json,
    snapshot_json,
    variant_json,
)
from xds.debug.world import world_json
from xds.provider import Variant, WorldProvider
from xds.snapshot import Node
from xds.status import XdsStatus

PAGES: Mapping[str, str] = {
    "/debug/world": "pools, endpoints, routes and Gateways as they were read, with their problems",
    "/debug/xds/snapshots": "every configuration that is served: versions, causes, notes",
    "/debug/xds/snapshots/{group}": "one group's, with each resource's version and origin",
    "/debug/xds/snapshots/{group}/{type}": "all resources of a type (listeners, routes, clusters, "
    "endpoints), as Envoy sees them",
    "/debug/xds/snapshots/{group}/{type}/{name}": "one resource",
    "/debug/xds/nodes": "who is connected, what each was sent, acknowledged and rejected",
    "/debug/xds/nodes/{id}": "one node, with its exchanges",
    "/debug/xds/history": "the last configurations of each group: what changed, why, who has it",
    "/debug/xds/simulate?id=&cluster=&gateway=&version=": "what such a node would get",
    "/metrics": "Prometheus metrics",
    "/healthz": "200 while the process runs",
    "/readyz": "200 as soon as Envoys get a configuration",
}


class Subject(Protocol):
    """What the pages are about."""

    @property
    def provider(self) -> WorldProvider: ...

    @property
    def registry(self) -> CollectorRegistry: ...

    def not_ready(self) -> str:
        """Why Envoys cannot be served yet; empty: they can."""

    def status(self) -> XdsStatus: ...


def app(subject: Subject) -> Starlette:
    pages = _Pages(subject)
    routes: dict[str, Callable[[Request], Response | _Later]] = {
        "/": pages.index,
        "/debug": pages.index,
        "/debug/world": pages.world,
        "/debug/xds/snapshots": pages.snapshots,
        "/debug/xds/snapshots/{path:path}": pages.snapshot,
        "/debug/xds/nodes": pages.nodes,
        "/debug/xds/nodes/{id:path}": pages.node,
        "/debug/xds/history": pages.history,
        "/debug/xds/simulate": pages.simulate,
        "/metrics": pages.metrics,
        "/healthz": pages.healthz,
        "/readyz": pages.readyz,
    }
    return Starlette(routes=[Route(path, _async(page)) for path, page in routes.items()])


_Later = Callable[[], Response]
"""The rest of a page, of nothing but immutable values: done in a thread, since it may be slow."""


def _async(
    page: Callable[[Request], Response | _Later],
) -> Callable[[Request], Awaitable[Response]]:
    """On the event loop, which changes the state that pages read; what is slow in a thread."""

    async def handle(request: Request) -> Response:
        answer = page(request)
        return answer if isinstance(answer, Response) else await asyncio.to_thread(answer)

    return handle


class _Pages:
    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def index(self, request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_index_html())
        return _json({"pages": dict(PAGES)})

    def world(self, _request: Request) -> Response | _Later:
        world = self._subject.provider.world
        if world is None:
            return _error(503, "nothing was read yet")
        return lambda: _json(world_json(world))

    def snapshots(self, _request: Request) -> Response:
        return _json({"snapshots": [variant_json(v) for v in self._subject.provider.variants()]})

    def snapshot(self, request: Request) -> Response | _Later:
        variant, rest = self._variant(request.path_params["path"])
        if variant is None:
            groups = sorted({v.group for v in self._subject.provider.variants()})
            return _error(404, f"no such group; there are: {', '.join(groups) or 'none yet'}")
        if variant.snapshot is None:
            return _json(variant_json(variant))
        if not rest:
            return _json(variant_json(variant) | {"resources": resources_json(variant.snapshot)})
        short, _, name = rest.partition("/")
        if short not in TYPE_NAMES:
            return _error(404, f"no such type; there are: {', '.join(TYPE_NAMES)}")
        named = variant.snapshot.of_type(TYPE_NAMES[short])
        if not name:
            return lambda: _json({short: [resource_json(r) for r in named.values()]})
        if name not in named:
            return _error(404, f"no such resource; there are: {', '.join(named) or 'none'}")
        return lambda: _json(resource_json(named[name]))

    def nodes(self, _request: Request) -> Response:
        why_none = self._subject.provider.why_none
        nodes = self._subject.status().nodes
        return _json({"nodes": [node_json(node, why_none(node.node)) for node in nodes]})

    def node(self, request: Request) -> Response:
        wanted = request.path_params["id"]
        for node in self._subject.status().nodes:
            if node.node.id == wanted:
                problem = self._subject.provider.why_none(node.node)
                return _json(node_json(node, problem, full=True))
        return _error(404, "no such node is connected; /debug/xds/nodes lists those that are")

    def history(self, _request: Request) -> Response:
        return _json({"groups": [group_json(group) for group in self._subject.status().groups]})

    def simulate(self, request: Request) -> Response:
        query = request.query_params
        try:
            version = _version(query.get("version"))
        except ValueError as error:
            return _error(400, str(error))
        gateway = query.get("gateway")
        node = Node(
            query.get("id", ""),
            query.get("cluster", ""),
            {} if gateway is None else {"gateway": gateway},
            version=version,
        )
        provider = self._subject.provider
        group, snapshot = provider.group(node), provider.snapshot(node)
        if snapshot is None:
            return _json({"group": group, "snapshot": None})
        return _json(
            {"group": group, **snapshot_json(snapshot), "resources": resources_json(snapshot)}
        )

    def metrics(self, _request: Request) -> Response:
        return Response(
            generate_latest(self._subject.registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )

    def healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def readyz(self, _request: Request) -> Response:
        why_not = self._subject.not_ready()
        return PlainTextResponse(f"{why_not or 'ok'}\n", status_code=503 if why_not else 200)

    def _variant(self, path: str) -> tuple[Variant | None, str]:
        """The variant whose group begins ``path``, and the rest of the path. Group names have a
        slash in them, and so do names of resources."""
        matching = [
            v
            for v in self._subject.provider.variants()
            if path == v.group or path.startswith(f"{v.group}/")
        ]
        if not matching:
            return None, ""
        longest = max(len(v.group) for v in matching)
        first = next(v for v in matching if len(v.group) == longest)
        return first, path[longest + 1 :].rstrip("/")


def _version(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.split(".")
    if len(parts) not in (2, 3) or not all(p.isascii() and p.isdigit() for p in parts):
        raise ValueError("version must look like 1.38 or 1.38.1")
    major, minor, patch = (*map(int, parts), 0)[:3]
    return major, minor, patch


def _json(value: object) -> Response:
    return Response(json.dumps(value, indent=2, default=str) + "\n", media_type="application/json")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)


def _index_html() -> str:
    def rows() -> Iterator[str]:
        for path, help_text in PAGES.items():
            link = f'<a href="{path}">{path}</a>' if "{" not in path and "=" not in path else path
            yield f"<dt><code>{link}</code></dt><dd>{help_text}</dd>"

    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>PoolPilot xDS</title>'
        "<style>:root{color-scheme:light dark}body{font:16px system-ui;margin:2rem;max-width:50rem}"
        "dd{margin:0 0 .75rem 1rem}</style><h1>PoolPilot xDS server</h1>"
        f"<dl>{''.join(rows())}</dl></html>\n"
    )
