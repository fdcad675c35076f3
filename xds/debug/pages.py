"""What the server knows, for people and for ``curl | jq``: JSON over HTTP.

Field names are Envoy's, so that what works on Envoy's ``/config_dump`` works here. Everything is
made when it is asked for and nothing is kept; nothing can be changed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from inspection.answers import PageError, answer, name_filter
from inspection.application import Page, application_of
from inspection.assets import WebPages
from inspection.live import Live
from xds.consistency import ByType
from xds.debug.admin import admin_address, fetch_dump
from xds.debug.change_log import ChangeLog
from xds.debug.compare import compare
from xds.debug.config_dump import DumpEntry, Json, acked_of, config_dump, wanted_of
from xds.debug.history import changes_json, entry_json, find_entry, group_json
from xds.debug.nodes import node_json, time_json
from xds.debug.redact import redacted
from xds.debug.simulate import node_of_query
from xds.debug.snapshots import (
    TYPE_NAMES,
    resource_json,
    resources_json,
    snapshot_json,
    variant_json,
)
from xds.debug.why import Inputs, why
from xds.debug.world import world_json
from xds.protocol.view import set_version
from xds.provider import FeatureVariant, WorldProvider
from xds.resource import version_of
from xds.status import GroupStatus, NodeStatus, SnapshotStatus, TypeStatus, XdsStatus

_WITHOUT_SCRIPT = (
    "/debug/xds/status",
    "/debug/world",
    "/debug/xds/snapshots",
    "/debug/xds/nodes",
    "/debug/xds/history",
)
PAGES: Mapping[str, str] = {
    "/ui": "the same as web pages",
    "/debug/xds/status": "the server at a glance: nodes by state, problems, the last change",
    "/debug/world": "pools, endpoints, routes and Gateways as they were read, with their problems",
    "/debug/xds/snapshots": "every configuration that is served: versions, causes, notes",
    "/debug/xds/snapshots/{group}": "one group's, with each resource's version and origin; "
    "?full=1 with contents, ?name_regex=",
    "/debug/xds/snapshots/{group}/{type}": "all resources of a type (listeners, routes, clusters, "
    "endpoints), as Envoy sees them; ?name_regex=",
    "/debug/xds/snapshots/{group}/{type}/{name}": "one resource",
    "/debug/xds/config_dump?group=&name_regex=": "a group's resources in the shape of Envoy's "
    "/config_dump",
    "/debug/xds/nodes": "who is connected, what each was sent, acknowledged and rejected",
    "/debug/xds/nodes/{id}": "one node, with its subscriptions and exchanges",
    "/debug/xds/nodes/{id}/config_dump?as=": "what it is meant to have (as=wanted) or has "
    "acknowledged (as=acked), in the shape of Envoy's /config_dump",
    "/debug/xds/nodes/{id}/diff?admin=": "wanted against acknowledged, and against what its Envoy "
    "says (admin=http://127.0.0.1:19000)",
    "/debug/xds/history": "the last configurations of each group: what changed, why, who has it",
    "/debug/xds/history/{group}/{id}": "one of them, with a diff of each resource",
    "/debug/xds/why?q=": "why an endpoint (address, pod or host) is where it is, or is not",
    "/debug/xds/simulate?id=&cluster=&gateway=&version=": "what such a node would get; "
    "metadata.<key>=, ?full=1",
    "/debug/events": "tells what has changed, as server-sent events",
    "/metrics": "Prometheus metrics",
    "/healthz": "200 while the process runs",
    "/readyz": "200 as soon as Envoys get a configuration",
}
"""Each answers JSON, or YAML with ``?format=yaml``."""


class Subject(Protocol):
    """What the pages are about."""

    @property
    def provider(self) -> WorldProvider: ...

    @property
    def registry(self) -> CollectorRegistry: ...

    @property
    def change_log(self) -> ChangeLog: ...

    @property
    def live(self) -> Live: ...

    def not_ready(self) -> str:
        """Why Envoys cannot be served yet; empty: they can."""

    def status(self) -> XdsStatus: ...


def app(
    subject: Subject, *, names: Collection[str] = (), envoy_admins: Collection[str] = ()
) -> Starlette:
    """``names``: further host names to answer to. ``envoy_admins``: further ``host:port`` of Envoy
    admins that may be asked."""
    pages = _Pages(subject, envoy_admins)
    routes: dict[str, Page] = {
        "/": pages.index,
        "/ui": pages.shell,
        "/ui/{path:path}": pages.shell,
        "/assets/{name}": pages.asset,
        "/debug": pages.index,
        "/debug/xds": pages.index,
        "/debug/events": pages.events,
        "/debug/world": pages.world,
        "/debug/xds/status": pages.summary,
        "/debug/xds/snapshots": pages.snapshots,
        "/debug/xds/snapshots/{path:path}": pages.snapshot,
        "/debug/xds/config_dump": pages.config_dump,
        "/debug/xds/nodes": pages.nodes,
        "/debug/xds/nodes/{path:path}": pages.node,
        "/debug/xds/history": pages.history,
        "/debug/xds/history/{path:path}": pages.entry,
        "/debug/xds/why": pages.why,
        "/debug/xds/simulate": pages.simulate,
        "/metrics": pages.metrics,
        "/healthz": pages.healthz,
        "/readyz": pages.readyz,
    }
    return application_of(routes, names)


class _Pages:
    """Pages read the state on the event loop, which changes it, and leave to a thread what takes
    long: contents of resources, and comparing them."""

    def __init__(self, subject: Subject, envoy_admins: Collection[str]) -> None:
        self._subject = subject
        self._envoy_admins = envoy_admins
        self._web = WebPages("xds.debug", "xDS", _WITHOUT_SCRIPT)

    async def index(self, request: Request) -> Response:
        if (
            "text/html" in request.headers.get("accept", "")
            and "format" not in request.query_params
        ):
            return self._web.shell(request)
        return answer(request, {"pages": dict(PAGES)})

    async def shell(self, request: Request) -> Response:
        return self._web.shell(request)

    async def asset(self, request: Request) -> Response:
        return self._web.asset(request, request.path_params["name"])

    async def events(self, _request: Request) -> Response:
        live = self._subject.live
        if live.full:
            raise PageError(503, "too many listeners already; read the pages now and then instead")
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(live.events(), media_type="text/event-stream", headers=headers)

    async def world(self, request: Request) -> Response:
        world = self._subject.provider.world
        if world is None:
            raise PageError(503, "nothing was read yet")
        return answer(request, await asyncio.to_thread(world_json, world))

    async def summary(self, request: Request) -> Response:
        return answer(request, _summary(self._subject))

    async def snapshots(self, request: Request) -> Response:
        variants = [variant_json(v) for v in self._subject.provider.variants()]
        return answer(request, {"snapshots": variants})

    async def snapshot(self, request: Request) -> Response:
        wanted = request.query_params.get("version", "")
        variant, rest = self._variant(request.path_params["path"], wanted)
        snapshot, names = variant.snapshot, name_filter(request.query_params)
        if snapshot is None:
            return answer(request, variant_json(variant))
        if not rest:
            shown: Json = variant_json(variant)
            kept = _only(snapshot.resources, lambda name: names.fullmatch(name) is not None)
            if request.query_params.get("full"):
                shown["resources"] = await asyncio.to_thread(_contents, kept)
            else:
                shown["resources"] = resources_json(kept)
            return answer(request, shown, etag=_tag(variant, request))
        short, _, name = rest.partition("/")
        if short not in TYPE_NAMES:
            raise PageError(404, f"no such type; there are: {', '.join(TYPE_NAMES)}")
        named = snapshot.of_type(TYPE_NAMES[short])
        if not name:
            listed = [r for r in named.values() if names.fullmatch(r.name)]
            shown = {short: await asyncio.to_thread(lambda: [resource_json(r) for r in listed])}
            return answer(request, shown, etag=_tag(variant, request))
        if name not in named:
            raise PageError(404, f"no such resource; there are: {', '.join(named) or 'none'}")
        shown = await asyncio.to_thread(resource_json, named[name])
        return answer(request, shown, etag=named[name].version)

    async def config_dump(self, request: Request) -> Response:
        query = request.query_params
        variants = list(self._subject.provider.variants())
        wanted = query.get("group", variants[0].group if variants else "")
        variant, rest = self._variant(wanted)
        if rest or variant.snapshot is None:
            raise PageError(404, f"no configuration for group {wanted!r}")
        by_type = variant.snapshot.resources
        entries = {t: [DumpEntry(r) for r in named.values()] for t, named in by_type.items()}
        versions = {t: set_version(named.values()) for t, named in by_type.items()}
        names = name_filter(query)
        dump = await asyncio.to_thread(config_dump, entries, versions, names)
        return answer(request, dump, etag=_tag(variant, request))

    async def nodes(self, request: Request) -> Response:
        nodes, why_none = self._subject.status().nodes, self._subject.provider.why_none
        problems = {node.node.id: why_none(node.node) for node in nodes}
        return await asyncio.to_thread(
            lambda: answer(
                request, {"nodes": [node_json(node, problems[node.node.id]) for node in nodes]}
            )
        )

    async def node(self, request: Request) -> Response:
        path = request.path_params["path"]
        nodes = {node.node.id: node for node in self._subject.status().nodes}
        if path in nodes:
            problem = self._subject.provider.why_none(nodes[path].node)
            return answer(request, node_json(nodes[path], problem, full=True))
        node_id, _, page = path.rpartition("/")
        if node_id in nodes and page == "config_dump":
            return await self._node_dump(request, nodes[node_id])
        if node_id in nodes and page == "diff":
            return await self._node_diff(request, nodes[node_id])
        raise PageError(404, "no such node is connected; /debug/xds/nodes lists those that are")

    async def _node_dump(self, request: Request, node: NodeStatus) -> Response:
        which = request.query_params.get("as", "acked")
        if which not in ("wanted", "acked"):
            raise PageError(400, f"as={which} is not known; there are: wanted, acked")
        names = name_filter(request.query_params)
        dump = await asyncio.to_thread(_dump_of, node, which == "wanted", names)
        return answer(request, dump)

    async def _node_diff(self, request: Request, node: NodeStatus) -> Response:
        admin = request.query_params.get("admin", "")
        envoy = await fetch_dump(admin_address(admin, self._envoy_admins)) if admin else None
        found = await asyncio.to_thread(_compared, node, envoy)
        return answer(request, {"id": node.node.id, "admin": admin or None, "resources": found})

    async def history(self, request: Request) -> Response:
        status = self._subject.status()
        groups = [group_json(group, status.nodes) for group in status.groups]
        return answer(request, {"groups": groups})

    async def entry(self, request: Request) -> Response:
        name, _, wanted = request.path_params["path"].rpartition("/")
        status = self._subject.status()
        group = next((g for g in status.groups if g.name == name), None)
        if group is None:
            known = ", ".join(g.name for g in status.groups) or "none yet"
            raise PageError(404, f"no such group has a history; there are: {known}")
        index = find_entry(group, wanted)
        if index is None:
            raise PageError(404, "no such configuration; it may have been forgotten by now")
        changes = await asyncio.to_thread(changes_json, group.history, index)
        of_group = [node for node in status.nodes if node.group == name]
        shown = entry_json(group.history[index], of_group)
        return answer(request, {"group": name, **shown, "resources": changes})

    async def why(self, request: Request) -> Response:
        query = request.query_params.get("q", "")
        world = self._subject.provider.world
        if not query.strip():
            raise PageError(
                400, "ask with ?q= an address, address:port, or a name of a pod or host"
            )
        if world is None:
            raise PageError(503, "nothing was read yet")
        inputs = Inputs(
            world,
            self._subject.status().nodes,
            tuple(self._subject.provider.variants()),
            tuple(self._subject.change_log.removals()),
        )
        return answer(request, await asyncio.to_thread(why, query, inputs))

    async def simulate(self, request: Request) -> Response:
        query = [(k, v) for k, v in request.query_params.multi_items() if k != "full"]
        try:
            node = node_of_query(query)
        except ValueError as error:
            raise PageError(400, str(error)) from error
        provider = self._subject.provider
        group, published = provider.group(node), provider.preview(node)
        snapshot = published.snapshot
        if snapshot is None:
            return answer(request, {"group": group, "snapshot": None, "problem": published.problem})
        full = request.query_params.get("full")
        shown = await asyncio.to_thread(_contents if full else resources_json, snapshot.resources)
        return answer(request, {"group": group, **snapshot_json(snapshot), "resources": shown})

    async def metrics(self, _request: Request) -> Response:
        return Response(
            generate_latest(self._subject.registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )

    async def healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, _request: Request) -> Response:
        why_not = self._subject.not_ready()
        if why_not:
            return PlainTextResponse(f"{why_not}\n", 503)
        world = self._subject.provider.world
        nothing = world is not None and world.is_empty
        warning = "warning: no pool, route or Gateway is described\n" if nothing else ""
        return PlainTextResponse(f"ok\n{warning}")

    def _variant(self, path: str, version: str = "") -> tuple[FeatureVariant, str]:
        """The variant whose group begins ``path``, and the rest of the path. Group names have a
        slash in them, and so do names of resources. Of several variants the one with this version,
        or else the one for the newest Envoys. Raises PageError where there is none."""
        variants = list(self._subject.provider.variants())
        matching = [v for v in variants if path == v.group or path.startswith(f"{v.group}/")]
        if not matching:
            groups = ", ".join(sorted({v.group for v in variants})) or "none yet"
            raise PageError(404, f"no such group; there are: {groups}")
        longest = max(len(v.group) for v in matching)
        of_group = [v for v in matching if len(v.group) == longest]
        with_version = (v for v in of_group if v.snapshot and v.snapshot.version == version)
        return next(with_version, of_group[0]), path[longest + 1 :].rstrip("/")


def _tag(variant: FeatureVariant, request: Request) -> str:
    """The version. What else an answer depends on, the address apart, is in a suffix."""
    assert variant.snapshot is not None
    version, query = variant.snapshot.version, request.query_params
    asked = "&".join(query.get(key, "") for key in ("full", "name_regex"))
    suffix = f"-{version_of(f'{asked}|{variant.problem}'.encode())}"
    return version + (suffix if asked != "&" or variant.problem else "")


def _only(resources: ByType, keep: Callable[[str], bool]) -> ByType:
    return {t: {n: r for n, r in named.items() if keep(n)} for t, named in resources.items()}


def _contents(resources: ByType) -> Json:
    return {
        short: {name: resource_json(r) for name, r in resources[url].items()}
        for short, url in TYPE_NAMES.items()
        if url in resources
    }


def _types(node: NodeStatus) -> Iterable[TypeStatus]:
    return (described for stream in node.streams for described in stream.types)


_ANY_NAME = re.compile(".*", re.DOTALL)


def _dump_of(
    node: NodeStatus,
    wanted: bool,
    names: re.Pattern[str] = _ANY_NAME,
    *,
    without: Collection[tuple[str, str]] = (),
) -> Json:
    """``without``: type URL and name of resources whose content is left out."""
    entries = {one.type_url: wanted_of(one) if wanted else acked_of(one) for one in _types(node)}
    if without:
        entries = {
            t: [replace(e, body=e.body and (t, e.resource.name) not in without) for e in of_type]
            for t, of_type in entries.items()
        }
    versions = {
        one.type_url: one.wanted_version if wanted else (one.acked.version if one.acked else "")
        for one in _types(node)
    }
    return config_dump(entries, versions, names)


def _compared(node: NodeStatus, envoy: object) -> list[Json]:
    # What is the same need not be rendered twice, and not at all where Envoy was not asked.
    same = {
        (one.type_url, name)
        for one in _types(node)
        for name, has in one.has.items()
        if name in one.wanted and one.wanted[name].version == has.version
    }
    wanted = _dump_of(node, True, without=same if envoy is None else ())
    try:
        found = compare(wanted, _dump_of(node, False, without=same), redacted(envoy))
    except ValueError as error:
        raise PageError(502, str(error)) from error
    return [one.as_json() for one in found]


def _newest(group: GroupStatus) -> Iterator[SnapshotStatus]:
    """What the last change made: one configuration for each kind of Envoy in the group."""
    history = group.history
    return takewhile(lambda entry: entry.cause == history[0].cause, history[:_MOST_KINDS])


_MOST_KINDS = 4


def _summary(subject: Subject) -> Json:
    status, world = subject.status(), subject.provider.world
    states: dict[str, int] = {}
    for node in status.nodes:
        states[node.state.value] = states.get(node.state.value, 0) + 1
    severities: dict[str, int] = {"error": 0, "warning": 0}
    for problem in world.problems if world is not None else ():
        severities[problem.severity.value] += 1
    newest = sorted(
        ((entry.at, group.name, entry) for group in status.groups for entry in _newest(group)),
        key=lambda item: -item[0],
    )
    return {
        "identifier": status.identifier,
        "started_at": time_json(status.started_at),
        "not_ready": subject.not_ready(),
        "revision": world.revision if world is not None else None,
        "pools": len(world.pools) if world is not None else 0,
        "endpoints": sum(map(len, world.endpoints.values())) if world is not None else 0,
        "routes": len(world.routes) if world is not None else 0,
        "nodes": {"total": len(status.nodes), **states},
        "problems": severities,
        "kept": [
            {"group": v.group, "problem": v.problem}
            for v in subject.provider.variants()
            if v.problem
        ],
        "refused_streams": status.refused_streams,
        "last_changes": [
            {"group": name, **entry_json(entry, [n for n in status.nodes if n.group == name])}
            for _, name, entry in newest
        ],
    }
