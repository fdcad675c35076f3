"""The HTTP side: why that pod, what is known of each, metrics and probes.

Everything is JSON made when it is asked for, from the same objects that picks use, and nothing can
be changed. The web pages (``/ui``) read the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from extproc.config.profiles_file import ProfilesFile
from extproc.observability.debug.decision_list import found
from extproc.observability.debug.fleet_view import FleetView
from extproc.observability.debug.pulse import pulse
from extproc.observability.debug.queues import queue_rows
from extproc.observability.debug.rows import (
    Json,
    absent_row,
    endpoint_row,
    index_row,
    pool_row,
    profile_row,
    profiles_row,
)
from extproc.picking.admission.admitting_picker import AdmittingPicker
from extproc.picking.director import Director
from inspection.answers import PageError
from inspection.application import Page, application_of
from inspection.assets import WebPages
from inspection.live import Live
from pools.model import ObjectName

_WITHOUT_SCRIPT = (
    "/debug/fleet",
    "/debug/decisions",
    "/debug/queues",
    "/debug/profiles",
    "/debug/config",
)
PAGES: Mapping[str, str] = {
    "/ui": "the same as web pages",
    "/debug/fleet": "pools, endpoints, absent ones and problems, all at one moment",
    "/debug/pools": "each pool",
    "/debug/endpoints": "each endpoint with its signals; ?pool=namespace/name",
    "/debug/decisions": "the last decisions; ?limit=&pool=&endpoint=&model=&outcome=&after=",
    "/debug/decisions/{id}": "one decision, step by step",
    "/debug/queues": "who waits, where admission is on",
    "/debug/profiles": "how endpoints are chosen in each pool, and the last reload",
    "/debug/config": "what this picker was started with",
    "/debug/events": "tells what has changed, as server-sent events",
    "/metrics": "for Prometheus",
    "/healthz": "whether the process answers",
    "/readyz": "whether it can pick",
}


def application(
    director: Director,
    registry: CollectorRegistry,
    ready: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
    profiles: ProfilesFile | None = None,
    admission: AdmittingPicker | None = None,
    *,
    config: object = None,
    live: Live | None = None,
    names: Collection[str] = (),
) -> Starlette:
    """The HTTP application. ``config``: what the picker was started with. ``names``: further host
    names to answer to."""
    live = live or Live(lambda: pulse(director, clock(), profiles, admission))
    pages = _Pages(director, registry, ready, clock, profiles, admission, config, live)
    routes: dict[str, Page] = {
        "/": pages.index,
        "/ui": pages.shell,
        "/ui/{path:path}": pages.shell,
        "/assets/{name}": pages.asset,
        "/debug": pages.index,
        "/debug/events": pages.events,
        "/debug/fleet": pages.fleet,
        "/debug/pools": pages.pools,
        "/debug/endpoints": pages.endpoints,
        "/debug/queues": pages.queues,
        "/debug/profiles": pages.profiles,
        "/debug/config": pages.config,
        "/debug/decisions": pages.decisions,
        "/debug/decisions/{id:path}": pages.decision,
        "/metrics": pages.metrics,
        "/healthz": pages.healthz,
        "/readyz": pages.readyz,
    }
    return application_of(routes, names)


def _json(content: object) -> Response:
    body = msgspec.json.format(msgspec.json.encode(content, enc_hook=str), indent=2) + b"\n"
    headers = {"cache-control": "no-store"}
    return Response(body, media_type="application/json", headers=headers)


class _Pages:
    def __init__(
        self,
        director: Director,
        registry: CollectorRegistry,
        ready: Callable[[], bool],
        clock: Callable[[], float],
        profiles: ProfilesFile | None,
        admission: AdmittingPicker | None,
        config: object,
        live: Live,
    ) -> None:
        self._director = director
        self._registry = registry
        self._ready = ready
        self._clock = clock
        self._profiles = profiles
        self._admission = admission
        self._config = config
        self._live = live
        self._web = WebPages("extproc.observability.debug", "picker", _WITHOUT_SCRIPT)
        self._fleet = FleetView(director, ready, profiles, clock)
        self._offset = time.time() - clock()
        self._started = self._shown(clock())

    def _shown(self, at: float) -> str:
        moment = self._offset + at
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{moment % 1:.3f}"[2:]

    async def index(self, request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return self._web.shell(request)
        director, now = self._director, self._clock()
        world = director.world
        return _json(
            {
                "ready": self._ready(),
                "started_at": self._started,
                "world": {
                    "revision": world.revision,
                    "problems": [str(problem) for problem in world.problems],
                    "absent": [absent_row(one) for one in world.absent],
                }
                if world is not None
                else None,
                "error": director.world_error or None,
                "pools": [pool_row(view, now) for view in director.fleet.pools.values()],
                "open_requests": len(director.ledger),
                "models": {
                    model: str(pool) for model, pool in sorted(director.models.models.items())
                },
                "decisions": director.decisions.number,
                "profiles": profiles_row(self._profiles),
                "prefix_index": index_row(director.fleet.load),
                "see": dict(PAGES),
            }
        )

    async def shell(self, request: Request) -> Response:
        return self._web.shell(request)

    async def asset(self, request: Request) -> Response:
        return self._web.asset(request, request.path_params["name"])

    async def events(self, _request: Request) -> Response:
        if self._live.full:
            raise PageError(503, "too many listeners already; read the pages now and then instead")
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        events = self._live.events()
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def fleet(self, _request: Request) -> Response:
        headers = {"cache-control": "no-store"}
        return Response(await self._fleet.get(), media_type="application/json", headers=headers)

    async def pools(self, _request: Request) -> Response:
        now = self._clock()
        rows = [pool_row(view, now) for view in self._director.fleet.pools.values()]
        return _json({"pools": rows})

    async def endpoints(self, request: Request) -> Response:
        now, fleet = self._clock(), self._director.fleet
        members = list(fleet.members.values())
        if (text := request.query_params.get("pool")) is not None:
            try:
                view = fleet.pools.get(ObjectName.parse(text))
            except ValueError as error:
                raise PageError(400, str(error)) from error
            if view is None:
                raise PageError(404, f"no pool {text}")
            members = list(view.members)
        rows = [endpoint_row(member, now) for member in members]
        return _json({"endpoints": sorted(rows, key=lambda row: str(row["endpoint"]))})

    async def queues(self, _request: Request) -> Response:
        if self._admission is None or not self._admission.on:
            return _json({"admission": "off", "queues": []})
        return _json({"admission": "on", "queues": queue_rows(self._admission, self._clock())})

    async def profiles(self, _request: Request) -> Response:
        views = self._director.fleet.pools.values()
        in_force = {str(view.name): profile_row(view.profile) for view in views}
        return _json({"file": profiles_row(self._profiles), "in_force": in_force})

    async def config(self, _request: Request) -> Response:
        return _json({"config": self._config})

    async def decisions(self, request: Request) -> Response:
        try:
            records = found(self._director.decisions, request.query_params)
        except ValueError as error:
            raise PageError(400, str(error)) from error
        rows: list[Json] = [
            {"at": self._shown(record.at), **record.summary()} for record in records
        ]
        return _json({"decisions": rows})

    async def decision(self, request: Request) -> Response:
        wanted = request.path_params["id"]
        log = self._director.decisions
        record = log.get(wanted) or next(
            (one for one in log.latest() if one.request_id == wanted), None
        )
        if record is None:
            raise PageError(
                404, f"no decision {wanted!r} among the last ones; older ones are forgotten"
            )
        return _json({"at": self._shown(record.at), **record.explain()})

    async def metrics(self, request: Request) -> Response:
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(self._registry), headers={"content-type": content_type})

    async def healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, _request: Request) -> Response:
        if not self._ready():
            return PlainTextResponse("not ready: no configuration yet, or stopping\n", 503)
        world = self._director.world
        nothing = world is not None and not world.pools
        warning = "warning: no pool is described\n" if nothing else ""
        return PlainTextResponse(f"ready\n{warning}")
