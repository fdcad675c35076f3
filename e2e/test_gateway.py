"""Being a gateway on a real Envoy: listeners, certificates, filters, Services."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.harness import eventually
from e2e.live import Led, Script, led
from e2e.pods import h2c_pod, http_pod
from e2e.static_envoy import ScriptedPicker
from e2e.tls import Connection, all_pem, certificate, serial, trusting_nobody
from extproc.request import InferenceRequest, Outcome, Routed
from extproc.service.ext_proc import ExternalProcessor
from extproc.service.grpc_health import Health
from extproc.transport.native import serve_native
from poolpilot.demo.ports import Reservation, reserve
from pools.model import (
    BackendKind,
    CertificateRef,
    Endpoint,
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
    Redirect,
    Retry,
    RouteBackend,
    RouteMatch,
    RouteRule,
    Service,
    ServicePort,
    TlsCertificate,
    UrlRewrite,
    World,
)
from xds.resource import SECRET
from xds.translate import ExtProcSettings, SocketAddress, TranslateSettings

NAME = ObjectName.parse
EDGE = NAME("edge")
WEB = NAME("web")
NO_FILTERS = Filters()


@pytest.fixture
def port() -> Iterator[int]:
    held: Reservation = reserve()
    yield held.port
    held.close()


def prefix(value: str) -> RouteMatch:
    return RouteMatch(PathMatch(PathMatchType.PREFIX, value))


def service(*addresses: tuple[str, int], app_protocol: str = "") -> Service:
    return Service(WEB, (ServicePort(80, app_protocol=app_protocol, addresses=addresses),))


def to_web(weight: int = 1, filters: Filters = NO_FILTERS) -> RouteBackend:
    return RouteBackend(WEB, BackendKind.SERVICE, weight, 80, filters)


def rule(match: RouteMatch, filters: Filters = NO_FILTERS, **more: Any) -> RouteRule:
    return RouteRule((match,), (to_web(),), filters=filters, **more)


def changed(kind: PathChangeType, value: str) -> Filters:
    return Filters(rewrite=UrlRewrite(path=PathChange(kind, value)))


def world(port: int, *rules: RouteRule, at: Service, **more: Any) -> World:
    """Of a cluster, with one HTTP listener."""
    return World(
        gateways=(Gateway(EDGE, (GatewayListener("http", port),)),),
        routes=(HTTPRoute(NAME("r"), parents=(ParentRef(EDGE),), rules=rules),),
        services={WEB: at},
        of_cluster=True,
        **more,
    )


@dataclass
class Asking:
    led: Led
    source: Script
    client: httpx.AsyncClient

    async def take(self, described: World) -> None:
        self.source.say(described)
        await self.led.settled(described)

    async def asked(self, path: str, **more: Any) -> Mapping[str, Any]:
        """What the backend was asked."""
        answer = await self.client.get(path, **more)
        assert answer.status_code == 200, answer.text
        found: Mapping[str, Any] = {**answer.json(), "answer": dict(answer.headers)}
        return found


@contextlib.asynccontextmanager
async def serving(
    described: World,
    port: int,
    directory: Path,
    settings: TranslateSettings | None = None,
    *,
    delta: bool = True,
) -> AsyncIterator[Asking]:
    source = Script()
    async with (
        led(source, directory, str(EDGE), settings=settings, delta=delta) as leading,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30
        ) as client,
    ):
        asking = Asking(leading, source, client)
        await asking.take(described)
        yield asking


REWRITES = [
    ("/a/bar", "/a", "/xyz", "/xyz/bar"),
    ("/b/bar", "/b", "/xyz/", "/xyz/bar"),
    ("/b", "/b", "/xyz/", "/xyz"),
    ("/b/?q=1", "/b", "/xyz/", "/xyz/?q=1"),
    ("/c/bar", "/c/", "", "/bar"),
    ("/c", "/c/", "", "/"),
    ("/d//bar?q=/d/", "/d", "/", "/bar?q=/d/"),
    ("/e", "/e", "/", "/"),
]
"""Asked, prefix, its replacement, and what the backend is asked (URLRewrite in the Gateway API)."""


async def test_paths_and_hosts_are_rewritten_as_the_gateway_api_says(
    port: int, tmp_path: Path
) -> None:
    prefixes = {match: value for _, match, value, _ in REWRITES}
    rules = [
        rule(prefix(match), changed(PathChangeType.PREFIX, value))
        for match, value in prefixes.items()
    ]
    rules.append(rule(prefix("/full"), changed(PathChangeType.FULL, r"/new/\1/x")))
    rules.append(rule(prefix("/host"), Filters(rewrite=UrlRewrite("inner.test"))))
    rules.append(rule(prefix("/"), changed(PathChangeType.PREFIX, "/base")))
    async with http_pod("web") as at:
        described = world(port, *rules, at=service(("127.0.0.1", at)))
        async with serving(described, port, tmp_path) as gateway:
            for asked, _, _, expected in REWRITES:
                assert (await gateway.asked(asked))["path"] == expected, asked
            assert (await gateway.asked("/full/a/b?q=1"))["path"] == r"/new/\1/x?q=1"
            assert (await gateway.asked("/host"))["host"] == "inner.test"
            assert (await gateway.asked("/other"))["path"] == "/base/other"


async def test_headers_are_set_added_and_removed_for_a_rule_and_for_one_backend_of_it(
    port: int, tmp_path: Path
) -> None:
    request = HeaderChanges(
        set=(("x-set", "rule"), ("x-both", "rule"), ("x-odd", "100% %REQ(:path)%")),
        add=(("x-add", "rule"),),
        remove=("x-secret",),
    )
    response = HeaderChanges(set=(("x-answer", "rule"),), add=(("x-more", "b"),), remove=("x-pod",))
    of_backend = Filters(
        HeaderChanges(set=(("x-both", "backend"), ("host", "inner.test"))),
        HeaderChanges(set=(("x-answer", "backend"),)),
    )
    rules = (
        rule(prefix("/rule"), Filters(request, response)),
        RouteRule(
            (prefix("/backend"),), (to_web(1, of_backend),), filters=Filters(request, response)
        ),
    )

    def answer(_asked: Mapping[str, Any]) -> tuple[int, Mapping[str, str]]:
        return 200, {"x-pod": "p", "x-more": "a"}

    sent = {"x-set": "client", "x-add": "client", "x-secret": "s"}
    async with http_pod("web", answer=answer) as at:
        described = world(port, *rules, at=service(("127.0.0.1", at)))
        async with serving(described, port, tmp_path) as gateway:
            found = await gateway.asked("/rule", headers=sent)
            got = found["headers"]
            assert got["x-set"] == "rule"
            assert got["x-odd"] == "100% %REQ(:path)%", "nothing in it is a variable"
            assert got["x-add"] == "rule", "the last of two lines; aiohttp's dict keeps one"
            assert "x-secret" not in got
            assert found["answer"]["x-answer"] == "rule"
            assert found["answer"]["x-more"] == "a, b"
            assert "x-pod" not in found["answer"]
            found = await gateway.asked("/backend", headers=sent)
            assert found["headers"]["x-both"] == "backend"
            assert found["headers"]["x-set"] == "rule"
            assert found["host"] == "inner.test"
            assert found["answer"]["x-answer"] == "backend"


async def test_clients_are_redirected_as_the_gateway_api_says(port: int, tmp_path: Path) -> None:
    def path(kind: PathChangeType, value: str) -> PathChange:
        return PathChange(kind, value)

    redirects = {
        "/https": (Redirect(scheme="https"), 302, "https://a.test:443/https/x?q=1"),
        "/named": (
            Redirect(scheme="https", hostname="b.test", status=301),
            301,
            "https://b.test/named/x?q=1",
        ),
        "/port": (Redirect(port=8443, status=307), 307, "http://a.test:8443/port/x?q=1"),
        "/prefix": (
            Redirect(path=path(PathChangeType.PREFIX, "/new"), status=308),
            308,
            f"http://a.test:{port}/new/x?q=1",
        ),
        "/full": (
            Redirect(hostname="b.test", port=80, path=path(PathChangeType.FULL, "/n"), status=303),
            303,
            "http://b.test/n?q=1",
        ),
    }
    rules = [
        RouteRule((prefix(where),), (), filters=Filters(redirect=redirect))
        for where, (redirect, _, _) in redirects.items()
    ]
    described = world(port, *rules, at=service())
    async with serving(described, port, tmp_path) as gateway:
        for where, (_, status, location) in redirects.items():
            answer = await gateway.client.get(f"{where}/x?q=1", headers={"host": f"a.test:{port}"})
            assert (answer.status_code, answer.headers["location"]) == (status, location)


async def test_retries_are_as_many_and_after_the_answers_that_the_route_says(
    port: int, tmp_path: Path
) -> None:
    tries: list[str] = []

    def answer(asked: Mapping[str, Any]) -> tuple[int, Mapping[str, str]]:
        tries.append(asked["path"])
        return 502, {}

    rules = (
        rule(prefix("/never"), retry=Retry(attempts=0, codes=(502,))),
        rule(prefix("/twice"), retry=Retry(attempts=2, codes=(502,), backoff=0.01)),
        rule(prefix("/default"), retry=Retry()),
    )
    async with http_pod("web", answer=answer) as at:
        described = world(port, *rules, at=service(("127.0.0.1", at)))
        async with serving(described, port, tmp_path) as gateway:
            for path in ("/never", "/twice", "/default"):
                assert (await gateway.client.get(path)).status_code == 502
    assert tries == ["/never", *["/twice"] * 3, "/default"]


async def test_a_services_endpoints_are_followed_and_its_protocol_is_spoken(
    port: int, tmp_path: Path
) -> None:
    everything = rule(prefix("/"))
    async with http_pod("a") as a, http_pod("b") as b, h2c_pod("c") as c:
        described = world(port, everything, at=service(("127.0.0.1", a)))
        async with serving(described, port, tmp_path) as gateway:
            assert (await gateway.asked("/"))["pod"] == "a"
            await gateway.take(replace(described, services={WEB: service(("127.0.0.1", b))}))
            assert {(await gateway.asked("/"))["pod"] for _ in range(5)} == {"b"}
            h2c = service(("127.0.0.1", c), app_protocol="kubernetes.io/h2c")
            await gateway.take(replace(described, services={WEB: h2c}))
            assert (await gateway.asked("/"))["pod"] == "c"
            plain = service(("127.0.0.1", c))
            await gateway.take(replace(described, services={WEB: plain}))
            assert (await gateway.client.get("/")).status_code == 502, "it speaks no HTTP/1.1"
            await gateway.take(replace(described, services={WEB: service()}))
            assert (await gateway.client.get("/")).status_code == 503, "nobody is ready"
            await gateway.take(replace(described, services={}))
            assert (await gateway.client.get("/")).status_code == 500, "it does not exist"


async def test_a_route_by_model_leads_to_the_pool_that_the_picker_names_and_to_no_other(
    port: int, tmp_path: Path
) -> None:
    """The picker finds the pool (``m`` is served by pool ``m``) and names it in a header."""
    pods: dict[str, str] = {}

    def find(request: InferenceRequest) -> Outcome:
        pool = request.pool or NAME(request.model or "none")
        led = () if request.pool else (("x-poolpilot-pool", str(pool)),)
        return Routed((pods[pool.name],), pool=pool, pick_id="1", headers=led)

    picker = ScriptedPicker()
    picker.outcome = find
    names = ("llama", "qwen", "other")
    async with contextlib.AsyncExitStack() as stack:
        ports = {one: await stack.enter_async_context(http_pod(one)) for one in names}
        pods.update({one: f"127.0.0.1:{number}" for one, number in ports.items()})
        processor = ExternalProcessor(picker)
        health = Health()
        health.ready = True
        services = {**processor.services(), **health.services()}
        server = await serve_native(services, "127.0.0.1:0")
        stack.push_async_callback(server.stop, 0)
        pools = {NAME(one): InferencePool(NAME(one), (8000,)) for one in names}
        to_both = RouteRule(
            (prefix("/v1"),),
            (RouteBackend(NAME("llama"), weight=0), RouteBackend(NAME("qwen"))),
            filters=changed(PathChangeType.PREFIX, "/rewritten"),
        )
        described = replace(
            world(port, at=service()),
            pools=pools,
            endpoints={
                NAME(one): (Endpoint("127.0.0.1", number, one),) for one, number in ports.items()
            },
            routes=(
                HTTPRoute(NAME("m"), parents=(ParentRef(EDGE),), rules=(to_both,), by_model=True),
                HTTPRoute(
                    NAME("o"),
                    parents=(ParentRef(EDGE),),
                    rules=(RouteRule(backends=(RouteBackend(NAME("other")),)),),
                ),
            ),
        )
        target = SocketAddress.parse(server.address)
        settings = TranslateSettings(
            listen_address="127.0.0.1", ext_proc=ExtProcSettings((target,), health_interval=0.1)
        )
        async with serving(described, port, tmp_path, settings) as gateway:

            async def complete(model: str, path: str = "/v1/completions") -> httpx.Response:
                body = {"model": model, "prompt": "x" * 100_000}
                return await gateway.client.post(path, json=body)

            for model in (*("llama", "qwen") * 5, "llama"):
                answer = await complete(model)
                assert answer.json()["pod"] == model
                assert answer.json()["path"] == "/rewritten/completions"
            answer = await complete("other")
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                404,
                "no-pool-for-model",
            )
            assert (await complete("llama", "/v2")).json()["pod"] == "other", "another rule"
            answer = await gateway.client.post(
                "/v1/completions", json={"model": "other"}, headers={"x-poolpilot-pool": "a/b"}
            )
            assert answer.status_code == 404


A, ANY_B = "a.test", "*.b.test"


def https(
    port: int, at: Service, *certificates: TlsCertificate, hostnames: tuple[str | None, ...]
) -> World:
    """A listener of its own for each certificate, and one route for all of them."""
    listeners = tuple(
        GatewayListener(
            f"l{i}",
            port,
            ListenerProtocol.HTTPS,
            hostname,
            (CertificateRef(one.name),),
        )
        for i, (hostname, one) in enumerate(zip(hostnames, certificates, strict=True))
    )
    return World(
        gateways=(Gateway(EDGE, listeners),),
        routes=(HTTPRoute(NAME("r"), parents=(ParentRef(EDGE),), rules=(rule(prefix("/")),)),),
        services={WEB: at},
        certificates={one.name: one for one in certificates},
        of_cluster=True,
    )


async def test_each_host_is_shown_its_certificate_and_served_on_its_own_connections(
    port: int, tmp_path: Path
) -> None:
    of_a, of_b = certificate("of-a", A), certificate("of-b", "x.b.test")
    async with http_pod("web") as at:
        web = service(("127.0.0.1", at))
        described = https(port, web, of_a, of_b, hostnames=(A, ANY_B))
        async with serving(described, port, tmp_path) as gateway:
            on_a = await Connection.open(port, A)
            on_b = await Connection.open(port, "x.b.test")
            assert (on_a.shown, on_b.shown) == (serial(of_a), serial(of_b))
            assert await on_a.ask(A) == 200
            assert await on_b.ask("y.b.test") == 200
            assert await on_a.ask("x.b.test") == 421, "it has connections of its own"
            assert await on_b.ask(A) == 421
            assert await on_a.ask("c.test") == 404, "nobody serves it"
            for nobody in ("c.test", "b.test", None):
                with pytest.raises((OSError, asyncio.IncompleteReadError)):
                    await Connection.open(port, nobody)
            assert (await Connection.open(port, A, trusting_nobody("h2", "http/1.1"))).alpn == "h2"

            old = trusting_nobody(version=ssl.TLSVersion.TLSv1_1)
            with pytest.raises(OSError, match=r".+"):
                await Connection.open(port, A, old)
            await Connection.open(port, A, trusting_nobody(version=ssl.TLSVersion.TLSv1_2))

            of_all = certificate("of-all", "c.test")
            everyone = https(port, web, of_a, of_b, of_all, hostnames=(A, ANY_B, None))
            await gateway.take(everyone)
            for anyone in ("c.test", None):
                rest = await Connection.open(port, anyone)
                assert rest.shown == serial(of_all)
                assert await rest.ask("c.test") == 200
                assert await rest.ask(A) == 421
            assert await on_a.ask(A) == 200, "what does not change goes on"


async def test_a_certificate_that_envoy_will_not_have_keeps_no_other_name_from_being_served(
    port: int, tmp_path: Path
) -> None:
    """Sources find most of what is wrong with certificates before; this one they let through."""
    of_a, of_b = certificate("of-a", A), certificate("of-b", "b.test")
    bad = replace(of_b, key=of_a.key)
    async with http_pod("web") as at:
        web = service(("127.0.0.1", at))
        async with serving(https(port, web, of_a, hostnames=(A,)), port, tmp_path) as gateway:
            on_a = await Connection.open(port, A)
            described = https(port, web, of_a, bad, hostnames=(A, "b.test"))
            gateway.source.say(described)

            async def is_refused() -> bool:
                assert await on_a.ask(A) == 200
                (node,) = gateway.led.control.status().nodes
                (secrets,) = [
                    kind for one in node.streams for kind in one.types if kind.type_url == SECRET
                ]
                return [one.name for one in secrets.rejected] == ["certificate/default/of-b"]

            await eventually(is_refused, "Envoy refuses it, and it is told")
            new = certificate("of-a", A)
            rotated = replace(described, certificates={new.name: new, bad.name: bad})
            gateway.source.say(rotated)

            async def is_shown() -> bool:
                return (await Connection.open(port, A)).shown == serial(new)

            await eventually(is_shown, "the other name gets its new certificate")
            assert await on_a.ask(A) == 200
            await gateway.take(replace(rotated, certificates={new.name: new, of_b.name: of_b}))
            assert await (await Connection.open(port, "b.test")).ask("b.test") == 200


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
async def test_a_new_certificate_is_shown_while_no_connection_ends_and_no_listener_changes(
    port: int, tmp_path: Path, delta: bool
) -> None:
    first = certificate("of-a", A)
    async with http_pod("web") as at:
        described = https(port, service(("127.0.0.1", at)), first, hostnames=(A,))
        async with serving(described, port, tmp_path, delta=delta) as gateway:
            (proxy,) = gateway.led.envoys.values()
            asked, failures = 0, []
            done = asyncio.Event()

            async def keeps_asking() -> None:
                nonlocal asked
                connection = await Connection.open(port, A)
                while not done.is_set():
                    try:
                        assert await connection.ask(A) == 200
                    except (OSError, AssertionError, asyncio.IncompleteReadError) as error:
                        failures.append(repr(error))
                        return
                    asked += 1

            tasks = [asyncio.create_task(keeps_asking()) for _ in range(3)]
            try:
                await eventually(lambda: asked > 50 or bool(failures), "requests are under way")
                listeners = await proxy.stat("listener_manager.lds.version")
                for _ in range(3):
                    new = certificate("of-a", A)
                    await gateway.take(replace(described, certificates={new.name: new}))

                    async def is_shown(new: TlsCertificate = new) -> bool:
                        return (await Connection.open(port, A)).shown == serial(new)

                    await eventually(is_shown, "the new certificate is shown", 2)
                before = asked
                await eventually(lambda: asked > before + 50 or bool(failures), "they go on")
            finally:
                done.set()
                await asyncio.gather(*tasks)
            assert failures == []
            assert await proxy.stat("listener_manager.lds.version") == listeners
            assert await proxy.stat("listener_manager.total_filter_chains_draining") == 0
            assert await proxy.stat("listener_manager.listener_modified") == 0


async def test_a_private_key_is_nowhere_to_be_read(
    port: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:

    first, second = certificate("of-a", A), certificate("of-a", A)
    async with http_pod("web") as at:
        described = https(port, service(("127.0.0.1", at)), first, hostnames=(A,))
        async with serving(described, port, tmp_path) as gateway:
            await gateway.take(replace(described, certificates={second.name: second}))
            (proxy,) = gateway.led.envoys.values()
            pages = {"the status": repr(gateway.led.control.status())}
            pages["the World"] = repr(gateway.led.control.provider.world)
            diff = f"/debug/xds/nodes/envoy-0/diff?admin={proxy.admin}"
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{gateway.led.control.http_port}", trust_env=False
            ) as server:
                for path in (
                    "/debug/world",
                    "/debug/xds/snapshots/default/edge",
                    "/debug/xds/snapshots/default/edge/secrets/certificate/default/of-a",
                    "/debug/xds/config_dump?group=default/edge",
                    "/debug/xds/nodes/envoy-0",
                    "/debug/xds/nodes/envoy-0/config_dump?as=acked",
                    "/debug/xds/history",
                    *[f"/debug/xds/history/default/edge/{i}" for i in await _history(server)],
                    "/debug/xds/simulate?gateway=default/edge&full=1",
                    diff,
                ):
                    answer = await server.get(path)
                    assert answer.status_code == 200, (path, answer.text)
                    pages[path] = answer.text
            pages["CSDS"] = await _csds(gateway.led.control.port)
            pages["the logs"] = "".join(capfd.readouterr()) + proxy.log()
    told = {where for where, page in pages.items() if "certificate/default/of-a" in page}
    assert len(told) >= 5, "or this would prove nothing"
    secrets = [first, second]
    for piece in [*all_pem(secrets), *(base64.b64encode(s.key).decode()[:60] for s in secrets)]:
        for where, page in pages.items():
            assert piece not in page, where
    found = {one["name"]: one["finding"] for one in json.loads(pages[diff])["resources"]}
    assert found["certificate/default/of-a"] == "same", pages[diff]


async def _history(server: httpx.AsyncClient) -> list[str]:
    page = (await server.get("/debug/xds/history")).json()
    ids = [one["id"] for group in page["groups"] for one in group["history"]]
    assert ids, page
    return ids


async def _csds(port: int) -> str:
    """All that the client status discovery service tells of every client."""
    import grpc.aio

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        fetch = channel.unary_unary(
            "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        told: bytes = await fetch(b"")
    return told.decode("utf-8", "replace")
