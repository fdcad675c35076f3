"""Every type and every way to ask for it, with a real Envoy: services of their own, secrets,
filters, runtime, virtual hosts and scopes; and what happens to the connection below."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import envoy_data_plane.envoy.config.common.mutation_rules.v3 as mutation
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 as header_mutation
import envoy_data_plane.envoy.extensions.filters.http.on_demand.v3 as on_demand
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls_v3
import envoy_data_plane.envoy.service.runtime.v3 as runtime_v3
import grpc
import httpx
import pytest
from cryptography import x509
from envoy_data_plane.google.protobuf import Any as Packed
from envoy_data_plane.google.protobuf import Struct

from tests.xds.authority import Authority
from tests.xds.envoy import envoy, until
from tests.xds.resources import (
    ADS,
    cluster,
    endpoints,
    listener,
    managed_listener,
    route,
    router,
)
from tests.xds.scene import Scene, scene, upstream
from xds.config import Authorisation, TlsConfig, XdsServerConfig
from xds.resource import (
    CLUSTER,
    ENDPOINT,
    EXTENSION_CONFIG,
    LISTENER,
    ROUTE,
    RUNTIME,
    SCOPED_ROUTE,
    SECRET,
    VIRTUAL_HOST,
    Resource,
)
from xds.status import State
from xds.wire import status_pb2


@pytest.fixture(params=["sotw", "delta"])
def delta(request) -> bool:
    return request.param == "delta"


def own_service(*, delta: bool) -> core.ConfigSource:
    """A stream of its own for whatever is asked for here."""
    kind = core.ApiConfigSourceApiType
    return core.ConfigSource(
        resource_api_version=core.ApiVersion.V3,
        api_config_source=core.ApiConfigSource(
            api_type=kind.DELTA_GRPC if delta else kind.GRPC,
            transport_api_version=core.ApiVersion.V3,
            grpc_services=[
                core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name="xds"))
            ],
        ),
    )


async def answer(at: Scene, url: str, **headers: str) -> httpx.Response:
    return await at.envoy.http.get(url, headers=headers)


async def becomes(
    read: Callable[[], Awaitable[object]], wanted: object, what: str, limit: float = 2.0
) -> None:
    async def there() -> bool:
        return await read() == wanted

    await until(there, f"{what} is {wanted!r}", limit)


@asynccontextmanager
async def load(at: Scene, url: str, clients: int = 2) -> AsyncIterator[Counter[int]]:
    """Requests all the while; yields how often each status was answered."""
    answers: Counter[int] = Counter()
    done = asyncio.Event()

    async def ask() -> None:
        while not done.is_set():
            answers[(await at.envoy.http.get(url)).status_code] += 1

    asking = [asyncio.ensure_future(ask()) for _ in range(clients)]
    try:
        yield answers
    finally:
        done.set()
        await asyncio.gather(*asking)


async def test_an_envoy_with_a_stream_for_each_type_is_served_and_follows_changes(tmp_path, delta):
    source = own_service(delta=delta)

    def without_ads(bootstrap: dict[str, Any]) -> None:
        dynamic = bootstrap["dynamic_resources"]
        ads = dynamic.pop("ads_config")
        for which in ("cds_config", "lds_config"):
            dynamic[which] = {"resource_api_version": "V3", "api_config_source": ads}

    async with upstream() as first, upstream() as second:

        def config(port: int, timeout: float = 1.0, name: str = "a") -> list[Resource]:
            return [
                cluster(name, timeout=timeout, source=source),
                endpoints(name, port),
                listener("l", "r", source=source),
                route("r", default=name),
            ]

        async with scene(tmp_path, config(first), delta=delta, amend=without_ads) as at:
            url = f"http://127.0.0.1:{await at.listens()}/"

            async def port() -> str:
                with suppress(httpx.ConnectError):
                    return (await answer(at, url)).text
                return "nobody listens yet"

            await becomes(port, str(first), "the upstream")
            node = at.server.status().nodes[0]
            kinds = {s.type_url for s in node.streams}
            assert kinds == {CLUSTER, ENDPOINT, LISTENER, ROUTE}
            at.publish(*config(second))
            await becomes(port, str(second), "the upstream", 1.0)
            async with load(at, url) as answers:
                at.publish(*config(second, timeout=2.0))
                assert await at.converged() < 2.0, "a changed cluster warms without delay"
            at.publish(*config(second), *config(first, name="b")[:2])
            await at.active("b", 1.0)
            assert answers.keys() == {200}


def secret(name: str, files: tuple[Path, Path]) -> Resource:
    message = tls_v3.Secret(
        name=name,
        tls_certificate=tls_v3.TlsCertificate(
            certificate_chain=core.DataSource(inline_bytes=files[0].read_bytes()),
            private_key=core.DataSource(inline_bytes=files[1].read_bytes()),
        ),
    )
    return Resource(SECRET, name, bytes(message))


def tls_from_secret(name: str) -> core.TransportSocket:
    context = tls_v3.DownstreamTlsContext(
        common_tls_context=tls_v3.CommonTlsContext(
            tls_certificate_sds_secret_configs=[tls_v3.SdsSecretConfig(name=name, sds_config=ADS)]
        )
    )
    return core.TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=Packed.pack(context)
    )


async def test_a_certificate_from_sds_is_rotated_without_a_failed_request(tmp_path, delta):
    authority = Authority(tmp_path)
    name = x509.DNSName("gateway.test")
    certificates = [authority.issue(f"gateway-{i}", f"gateway {i}", name) for i in range(3)]
    manager = hcm_v3.HttpConnectionManager(
        stat_prefix="l",
        rds=hcm_v3.Rds(config_source=ADS, route_config_name="r"),
        http_filters=[router()],
    )
    trust = ssl.create_default_context(cafile=str(authority.path))

    async with upstream() as port:

        def config(turn: int) -> list[Resource]:
            return [
                cluster("a"),
                endpoints("a", port),
                managed_listener(
                    "l", manager, (ROUTE, "r"), (SECRET, "cert"), tls=tls_from_secret("cert")
                ),
                route("r", default="a"),
                secret("cert", certificates[turn]),
            ]

        async with scene(tmp_path, config(0), delta=delta) as at:
            listening = await at.listens()
            seen: Counter[str] = Counter()
            done = asyncio.Event()

            async def new_connections() -> None:
                while not done.is_set():
                    seen[await certificate_shown()] += 1

            async def certificate_shown() -> str:
                """One request over a connection of its own; whose certificate it was."""
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", listening, ssl=trust, server_hostname="gateway.test"
                )
                writer.write(b"GET / HTTP/1.1\r\nhost: gateway.test\r\nconnection: close\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200"), "a request failed"
                shown = writer.get_extra_info("peercert")["subject"][0][0][1]
                writer.close()
                with suppress(ssl.SSLError, ConnectionError):
                    await writer.wait_closed()
                return shown

            asking = [asyncio.ensure_future(new_connections()) for _ in range(2)]
            for turn in (1, 2):
                at.publish(*config(turn))
                await becomes(certificate_shown, f"gateway {turn}", "the certificate", 1.0)
            done.set()
            await asyncio.gather(*asking)
            assert seen.keys() >= {"gateway 1"}
            stats = await at.envoy.stats("listener_modified")
            assert stats["listener_manager.listener_modified"] == 0, "no connection was drained"


def response_header(name: str, value: str) -> Resource:
    """A filter that adds a header to responses, as an extension's configuration."""
    added = core.HeaderValueOption(header=core.HeaderValue(key=name, value=value))
    message = header_mutation.HeaderMutation(
        mutations=header_mutation.Mutations(
            response_mutations=[mutation.HeaderMutation(append=added)]
        )
    )
    extension = core.TypedExtensionConfig(name="marker", typed_config=Packed.pack(message))
    return Resource(EXTENSION_CONFIG, "marker", bytes(extension))


async def test_the_settings_of_a_filter_change_live_on_open_connections(tmp_path, delta):
    marker = hcm_v3.HttpFilter(
        name="marker",
        config_discovery=core.ExtensionConfigSource(
            config_source=ADS,
            type_urls=[
                "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
            ],
        ),
    )
    manager = hcm_v3.HttpConnectionManager(
        stat_prefix="l",
        rds=hcm_v3.Rds(config_source=ADS, route_config_name="r"),
        http_filters=[marker, router()],
    )
    async with upstream() as port:
        rest = [
            cluster("a"),
            endpoints("a", port),
            managed_listener("l", manager, (ROUTE, "r"), (EXTENSION_CONFIG, "marker")),
            route("r", default="a"),
        ]
        async with scene(tmp_path, [*rest, response_header("x-turn", "0")], delta=delta) as at:
            url = f"http://127.0.0.1:{await at.listens()}/"

            async def turn() -> str | None:
                return (await answer(at, url)).headers.get("x-turn")

            assert await turn() == "0"
            async with load(at, url) as answers:
                for number in ("1", "2"):
                    at.publish(*rest, response_header("x-turn", number))
                    await becomes(turn, number, "the header", 1.0)
                bad = Resource(EXTENSION_CONFIG, "marker", b"\x0a\x06marker\x12\x03\x0a\x01x")
                at.publish(*rest, bad)
                await until(
                    lambda: at.server.status().nodes[0].state is State.ERROR, "the NACK is told"
                )
                assert await turn() == "2", "the last good settings stay in force"
            assert answers.keys() == {200}


async def test_a_runtime_layer_changes_live(tmp_path, delta):
    def layered(bootstrap: dict[str, Any]) -> None:
        bootstrap["layered_runtime"] = {
            "layers": [
                {
                    "name": "from the server",
                    "rtds_layer": {
                        "name": "flags",
                        "rtds_config": {"resource_api_version": "V3", "ads": {}},
                    },
                }
            ]
        }

    def flags(value: str) -> Resource:
        layer = Struct.from_dict({"greeting": value})
        message = runtime_v3.Runtime(name="flags", layer=layer)
        return Resource(RUNTIME, "flags", bytes(message))

    rest = [cluster("a"), endpoints("a", 1), listener("l", "r"), route("r", default="a")]
    async with scene(tmp_path, [*rest, flags("hello")], delta=delta, amend=layered) as at:

        async def greeting() -> str:
            runtime = (await at.envoy.http.get(f"{at.envoy.admin}/runtime")).json()
            return str(runtime["entries"].get("greeting", {}).get("final_value"))

        await becomes(greeting, "hello", "the runtime value")
        at.publish(*rest, flags("good bye"))
        await becomes(greeting, "good bye", "the runtime value", 1.0)


def virtual_host(table: str, domain: str, target: str) -> Resource:
    host = route_v3.VirtualHost(
        name=f"{table}/{domain}",
        domains=[domain],
        routes=[
            route_v3.Route(
                match=route_v3.RouteMatch(prefix="/"), route=route_v3.RouteAction(cluster=target)
            )
        ],
    )
    return Resource(VIRTUAL_HOST, host.name, bytes(host), needs=((CLUSTER, target),))


async def test_a_virtual_host_is_fetched_when_the_first_request_for_it_comes(tmp_path, delta):
    """Virtual hosts are Delta only: where the rest is State-of-the-World they have a stream of
    their own."""
    table = route_v3.RouteConfiguration(
        name="r", vhds=route_v3.Vhds(config_source=ADS if delta else own_service(delta=True))
    )
    manager = hcm_v3.HttpConnectionManager(
        stat_prefix="l",
        rds=hcm_v3.Rds(config_source=ADS, route_config_name="r"),
        http_filters=[
            hcm_v3.HttpFilter(
                name="envoy.filters.http.on_demand",
                typed_config=Packed.pack(on_demand.OnDemand()),
            ),
            router(),
        ],
    )
    async with upstream() as first, upstream() as second:
        rest = [
            *(cluster("a"), endpoints("a", first), cluster("b"), endpoints("b", second)),
            managed_listener("l", manager, (ROUTE, "r")),
            Resource(ROUTE, "r", bytes(table)),
        ]
        known = virtual_host("r", "known.test", "a")
        async with scene(tmp_path, [*rest, known], delta=delta) as at:
            url = f"http://127.0.0.1:{await at.listens()}/"
            assert (await answer(at, url, host="known.test")).text == str(first)
            began = time.monotonic()
            assert (await answer(at, url, host="unknown.test")).status_code == 404
            assert time.monotonic() - began < 2.0, "an unknown host is answered, not waited for"

            async def leads_to() -> str:
                return (await answer(at, url, host="known.test")).text

            at.publish(*rest, virtual_host("r", "known.test", "b"))
            await becomes(leads_to, str(second), "the upstream", 1.0)
            at.publish(*rest, known, virtual_host("r", "later.test", "b"))
            # Asked for in the same instant, while the server still gathers changes.
            assert (await answer(at, url, host="later.test")).text == str(second)


async def test_scopes_choose_among_route_tables_and_come_and_go(tmp_path, delta):
    builders = hcm_v3.ScopedRoutesScopeKeyBuilderFragmentBuilder
    extractor = hcm_v3.ScopedRoutesScopeKeyBuilderFragmentBuilderHeaderValueExtractor
    manager = hcm_v3.HttpConnectionManager(
        stat_prefix="l",
        scoped_routes=hcm_v3.ScopedRoutes(
            name="scopes",
            rds_config_source=ADS,
            scoped_rds=hcm_v3.ScopedRds(scoped_rds_config_source=ADS),
            scope_key_builder=hcm_v3.ScopedRoutesScopeKeyBuilder(
                fragments=[builders(header_value_extractor=extractor(name="tenant", index=0))]
            ),
        ),
        http_filters=[router()],
    )

    def scope(tenant: str, table: str) -> Resource:
        fragment = route_v3.ScopedRouteConfigurationKeyFragment(string_key=tenant)
        message = route_v3.ScopedRouteConfiguration(
            name=tenant,
            route_configuration_name=table,
            key=route_v3.ScopedRouteConfigurationKey(fragments=[fragment]),
        )
        return Resource(SCOPED_ROUTE, tenant, bytes(message), needs=((ROUTE, table),))

    async with upstream() as first, upstream() as second:
        rest = [
            *(cluster("a"), endpoints("a", first), cluster("b"), endpoints("b", second)),
            managed_listener("l", manager),
            route("ra", default="a"),
            route("rb", default="b"),
        ]
        async with scene(tmp_path, [*rest, scope("red", "ra")], delta=delta) as at:
            url = f"http://127.0.0.1:{await at.listens()}/"

            def tenant(name: str) -> Callable[[], Awaitable[object]]:
                async def read() -> object:
                    got = await answer(at, url, tenant=name)
                    return got.text if got.status_code == 200 else got.status_code

                return read

            await becomes(tenant("red"), str(first), "the upstream of red")
            assert await tenant("blue")() == 404
            at.publish(*rest, scope("red", "ra"), scope("blue", "rb"))
            await becomes(tenant("blue"), str(second), "the upstream of blue", 1.0)
            at.publish(*rest, scope("blue", "rb"))
            await becomes(tenant("red"), 404, "the answer to red", 1.0)
            assert await tenant("blue")() == str(second)


async def test_csds_tells_a_grpc_client_what_this_envoy_has(tmp_path, delta):
    start = [cluster("a"), endpoints("a", 1), listener("l", "r"), route("r", default="a")]
    async with scene(tmp_path, start, delta=delta) as at:
        at.publish(*start, cluster("bad", timeout=-1.0), endpoints("bad", 1))
        await until(lambda: at.server.status().nodes[0].state is State.ERROR, "the NACK")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{at.server.port}") as channel:
            fetch = channel.unary_unary(
                "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
                request_serializer=status_pb2.ClientStatusRequest.SerializeToString,
                response_deserializer=status_pb2.ClientStatusResponse.FromString,
            )
            found: dict[str, status_pb2.ClientConfig.GenericXdsConfig] = {}

            async def told() -> bool:
                (one,) = (await fetch(status_pb2.ClientStatusRequest())).config
                assert one.node.id == "envoy-1"
                found.clear()
                found.update(
                    (f"{c.type_url.rpartition('.')[2]} {c.name}", c)
                    for c in one.generic_xds_configs
                )
                return found["Cluster bad"].config_status == status_pb2.ERROR

            await until(told, "the rejected cluster is told")
        assert "Invalid duration" in found["Cluster bad"].error_state.details
        for name in ("Cluster a", "ClusterLoadAssignment a", "Listener l", "RouteConfiguration r"):
            assert found[name].config_status == status_pb2.SYNCED, name
        wanted = next(r for r in start if r.type_url == ROUTE)
        assert found["RouteConfiguration r"].xds_config.value == wanted.body


async def test_connections_that_reach_their_age_are_renewed_unnoticed(tmp_path, delta):
    config = XdsServerConfig(max_connection_age_seconds=0.5)
    async with upstream() as port:
        start = [cluster("a"), endpoints("a", port), listener("l", "r"), route("r", default="a")]
        async with scene(tmp_path, start, delta=delta, config=config) as at:
            url = f"http://127.0.0.1:{await at.listens()}/"
            before = at.stream.id
            async with load(at, url, 1) as answers:
                await until(
                    lambda: any(
                        stream.id != before and stream.converged
                        for node in at.server.status().nodes
                        for stream in node.streams
                    ),
                    "Envoy has come back",
                    20,
                )
            assert answers.keys() == {200}
            again = max(at.server.status().nodes[0].streams, key=lambda s: s.id)
            clusters = next(t for t in again.types if t.type_url == CLUSTER)
            assert clusters.bytes_sent < 200, "unchanged clusters are not sent again"


async def test_an_envoy_is_who_its_certificate_says_and_certificates_are_renewed(tmp_path, delta):
    authority = Authority(tmp_path)
    server_files = authority.issue("server", "xds", x509.DNSName("xds.test"))
    client_files = authority.issue("client", "gw", x509.DNSName("gw.test"))
    tls = TlsConfig(*server_files, authority.path, (Authorisation("gw.test", ("gateway-*",)),))

    def with_certificate(bootstrap: dict[str, Any]) -> None:
        chain, key = client_files
        kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        bootstrap["static_resources"]["clusters"][0]["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"type.googleapis.com/{kind}",
                "sni": "xds.test",
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_certificates": [
                        {
                            "certificate_chain": {"filename": str(chain)},
                            "private_key": {"filename": str(key)},
                        }
                    ],
                    "validation_context": {"trusted_ca": {"filename": str(authority.path)}},
                },
            },
        }

    start = [cluster("a"), endpoints("a", 1), listener("l", "r"), route("r", default="a")]
    async with scene(
        tmp_path / "right",
        start,
        delta=delta,
        node="gateway-1",
        config=XdsServerConfig(tls=tls),
        amend=with_certificate,
    ) as at:
        assert at.stream.identities[0] == "gw.test"
        # Renewed under the open stream, which lives on and is served.
        authority.issue("server", "xds renewed", x509.DNSName("xds.test"))
        before = at.stream.id
        at.publish(*start, cluster("b"), endpoints("b", 1))
        await at.converged()
        assert at.stream.id == before
        # The next Envoy, with the new certificate, claims to be someone else.
        async with envoy(
            tmp_path / "wrong",
            at.server.port,
            delta=delta,
            node="payroll-1",
            amend=with_certificate,
        ) as stranger:
            await until(lambda: at.server.status().refused_streams > 0, "the refusal")
            assert [n.node.id for n in at.server.status().nodes] == ["gateway-1"]
            assert (await stranger.clusters()).keys() == {"xds"}
            log = (tmp_path / "wrong" / "envoy.log").read_text()
            assert "does not allow it to be node 'payroll-1'" in log
        assert at.stream.id == before
        assert State.SYNCED is at.server.status().nodes[0].state
