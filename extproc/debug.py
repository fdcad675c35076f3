"""The HTTP side: why that pod, what is known of each, metrics and probes.

Everything is JSON made when it is asked for, from the same objects that picks use.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from extproc.admission.admitting_picker import AdmittingPicker
from extproc.admission.views import queue_rows
from extproc.director import Director
from extproc.fleet import Member, PoolView
from extproc.profiles import ProfilesFile
from extproc.scheduling.load import Load
from extproc.scheduling.signals import SIGNAL_NAMES
from pools.model import ObjectName

DEFAULT_LIMIT = 50


class _Json(JSONResponse):
    def render(self, content: object) -> bytes:
        return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def pool_row(view: PoolView, now: float) -> dict[str, object]:
    """One pool, for people."""
    pool = view.pool
    return {
        "pool": str(pool.name),
        "profile": view.profile.name,
        "failure_mode": pool.failure_mode.value,
        "endpoints": [member.candidate.key for member in view.members],
        "ready": [
            member.candidate.key
            for member in view.members
            if not member.candidate.endpoint.draining and member.health.share(now) > 0
        ],
        "in_flight": sum(member.candidate.in_flight for member in view.members),
        "models": sorted(view.resolver.names),
        "origin": str(pool.origin) if pool.origin is not None else None,
    }


def endpoint_row(member: Member, now: float) -> dict[str, object]:
    """One endpoint: what it says, how old that is, and what picks make of it.

    ``waiting``, ``running`` and the like are as scraped (null: the server does not say); ``queue``
    and ``kv_usage_assumed`` are what picks see.
    """
    candidate, health = member.candidate, member.health
    endpoint, signals = candidate.endpoint, candidate.signals
    adapters, cache = signals.adapters, signals.cache
    return {
        "endpoint": candidate.key,
        "name": endpoint.name,
        "pools": [str(view.name) for view in member.views],
        "labels": dict(endpoint.labels),
        "draining": endpoint.draining,
        "running": signals.running,
        "waiting": signals.waiting,
        "kv_usage": signals.kv_usage,
        "adapters": sorted(adapters.active) if adapters is not None else [],
        "adapters_waiting": sorted(adapters.waiting) if adapters is not None else [],
        "max_adapters": adapters.capacity if adapters is not None else None,
        "kv_block_size": cache.block_size if cache is not None else None,
        "kv_blocks": cache.blocks if cache is not None else None,
        "fresh": candidate.fresh,
        "age_s": {
            name: round(now - candidate.times[name], 3)
            for name in SIGNAL_NAMES
            if name in candidate.times
        },
        "scrapes": member.scrapes,
        "scrape_failures": member.scrape_failures,
        "scrape_error": member.scrape_error or None,
        "picked": candidate.picked,
        "in_flight": candidate.in_flight,
        "in_flight_tokens": candidate.tokens,
        "prefill_tokens": candidate.prefill_tokens,
        "expected_output_tokens": candidate.output_tokens,
        "adapters_loaded": sorted(candidate.adapters),
        "time_to_first_token_s": candidate.time_to_first_token,
        "error_rate": round(candidate.error_rate, 4),
        "sent_since_scrape": candidate.unseen,
        "queue": candidate.queue,
        "kv_usage_assumed": round(candidate.kv_usage, 4),
        "standing": health.standing(now).value,
        "share": round(health.share(now), 3),
        "last_fault": health.fault.value if health.fault is not None else None,
        "ejections": health.ejections,
    }


def profiles_row(file: ProfilesFile | None) -> dict[str, object] | None:
    """The profiles file, for people; None: there is none."""
    if file is None:
        return None
    return {
        "file": str(file.path),
        "default": file.current.default,
        "pools": {str(pool): name for pool, name in file.current.pools.items()},
        "problems": [str(problem) for problem in file.problems],
    }


def index_row(load: Load) -> dict[str, object]:
    """How much is remembered of prompts."""
    index = load.index
    return {
        "entries": len(index),
        "max_entries": index.max_entries,
        "block_tokens": index.block_tokens,
    }


def application(
    director: Director,
    registry: CollectorRegistry,
    ready: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
    profiles: ProfilesFile | None = None,
    admission: AdmittingPicker | None = None,
) -> Starlette:
    """The HTTP application."""
    offset = time.time() - clock()

    async def index(request: Request) -> Response:
        world = director.world
        now = clock()
        return _Json(
            {
                "ready": ready(),
                "world": {
                    "revision": world.revision,
                    "problems": [str(problem) for problem in world.problems],
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
                "profiles": profiles_row(profiles),
                "prefix_index": index_row(director.fleet.load),
                "see": {
                    "/debug/pools": "each pool",
                    "/debug/endpoints": "each endpoint with its signals; ?pool=namespace/name",
                    "/debug/decisions": "the last decisions; ?limit=&pool=&model=&outcome=&after=",
                    "/debug/decisions/{id}": "one decision, step by step",
                    "/debug/queues": "who waits, where admission is on",
                    "/metrics": "for Prometheus",
                    "/healthz": "whether the process answers",
                    "/readyz": "whether it can pick",
                },
            }
        )

    async def pools(request: Request) -> Response:
        now = clock()
        return _Json({"pools": [pool_row(view, now) for view in director.fleet.pools.values()]})

    async def endpoints(request: Request) -> Response:
        now = clock()
        members = list(director.fleet.members.values())
        if (text := request.query_params.get("pool")) is not None:
            try:
                view = director.fleet.pools.get(ObjectName.parse(text))
            except ValueError as error:
                return _Json({"error": str(error)}, status_code=400)
            if view is None:
                return _Json({"error": f"no pool {text}"}, status_code=404)
            members = list(view.members)
        rows = [endpoint_row(member, now) for member in members]
        return _Json({"endpoints": sorted(rows, key=lambda row: str(row["endpoint"]))})

    async def queues(request: Request) -> Response:
        if admission is None or not admission.on:
            return _Json({"admission": "off", "queues": []})
        return _Json({"admission": "on", "queues": queue_rows(admission, clock())})

    def shown(at: float) -> str:
        moment = offset + at
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{moment % 1:.3f}"[2:]

    async def decisions(request: Request) -> Response:
        wanted = request.query_params
        try:
            limit = int(wanted.get("limit", DEFAULT_LIMIT))
        except ValueError:
            return _Json({"error": "limit must be a whole number"}, status_code=400)
        after = wanted.get("after")
        newer = itertools.takewhile(lambda record: record.id != after, director.decisions.latest())
        found = (
            record
            for record in newer
            if wanted.get("pool") in (None, str(record.pool))
            and wanted.get("model") in (None, record.model, record.target_model)
        )
        rows = ({"at": shown(record.at), **record.summary()} for record in found)
        if (outcome := wanted.get("outcome")) is not None:
            rows = (row for row in rows if row["outcome"] == outcome)
        return _Json({"decisions": list(itertools.islice(rows, max(0, limit)))})

    async def decision(request: Request) -> Response:
        pick_id = request.path_params["id"]
        record = director.decisions.get(pick_id)
        if record is None:
            for candidate in director.decisions.latest():
                if candidate.request_id == pick_id:
                    record = candidate
                    break
            else:
                text = f"no decision {pick_id!r} among the last ones; older ones are forgotten"
                return _Json({"error": text}, status_code=404)
        return _Json({"at": shown(record.at), **record.explain()})

    async def metrics(request: Request) -> Response:
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(registry), headers={"content-type": content_type})

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        if ready():
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready: no configuration yet, or stopping\n", 503)

    return Starlette(
        routes=[
            Route("/debug", index),
            Route("/debug/pools", pools),
            Route("/debug/endpoints", endpoints),
            Route("/debug/queues", queues),
            Route("/debug/decisions", decisions),
            Route("/debug/decisions/{id:path}", decision),
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ]
    )
