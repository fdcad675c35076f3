"""Being a gateway: TLS, Services, pickers of pools' own, routes by model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pools.attachment import attach
from pools.model import (
    BackendKind,
    BodyMode,
    CertificateRef,
    FailureMode,
    Filters,
    Gateway,
    GatewayListener,
    HeaderChanges,
    HTTPRoute,
    ListenerProtocol,
    ParentRef,
    PathChange,
    PathChangeType,
    PathMatch,
    PathMatchType,
    PickerRef,
    Redirect,
    RouteBackend,
    RouteMatch,
    RouteRule,
    Service,
    ServicePort,
    TlsCertificate,
    UrlRewrite,
    World,
)
from tests.xds.worlds import name, pool, prefix, route, rule, to, world
from xds.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET
from xds.snapshot import Snapshot
from xds.translate import ALL, Features, TranslateSettings, Translator, translate
from xds.translate.render import as_json, render_static

EXT_PROC = "envoy.filters.http.ext_proc"
OTHER = f"{EXT_PROC}/pool-picker"
EDGE = name("edge")
HERE = (ParentRef(EDGE),)


def certificate(text: str, content: bytes = b"1") -> TlsCertificate:
    return TlsCertificate(name(text), b"chain " + content, b"key " + content)


def https(listener: str, hostname: str | None, *secrets: str, port: int = 443) -> GatewayListener:
    refs = tuple(CertificateRef(name(one)) for one in secrets)
    return GatewayListener(listener, port, ListenerProtocol.HTTPS, hostname, refs)


def of_gateway(*listeners: GatewayListener, **more: Any) -> World:
    given = {"routes": (route("r", rule(backends=to("llama")), parents=HERE),)} | more
    return world(
        pool("llama"),
        pool("qwen"),
        gateways=(Gateway(EDGE, listeners),),
        certificates={one.name: one for one in map(certificate, ("a", "b"))},
        of_cluster=True,
        **given,
    )


def made(described: World, features: Features = ALL) -> Snapshot:
    return translate(described, gateway=described.gateways[0], features=features)


def hosts(found: Snapshot, configuration: str) -> dict[str, list[dict[str, Any]]]:
    rendered: Any = as_json(found.of_type(ROUTE)[configuration])
    return {host["name"]: host["routes"] for host in rendered["virtual_hosts"]}


def routes(found: Snapshot, configuration: str = "default/edge/80") -> dict[str, dict[str, Any]]:
    (only,) = hosts(found, configuration).values()
    return {one["name"]: one for one in only}


def only_listener(found: Snapshot) -> Any:
    (one,) = found.of_type(LISTENER).values()
    return as_json(one)


HTTP = GatewayListener("http", 80)


def test_each_tls_listener_of_a_port_has_its_names_certificates_and_routes():
    found = made(of_gateway(https("one", "a.test", "a", "b"), https("any", "*.b.test", "b")))
    listener = only_listener(found)
    one, other = listener["filter_chains"]
    assert one["filter_chain_match"] == {
        "server_names": ["a.test"],
        "transport_protocol": "tls",
    }
    assert other["filter_chain_match"]["server_names"] == ["*.b.test"]
    context = one["transport_socket"]["typed_config"]["common_tls_context"]
    assert [c["name"] for c in context["tls_certificate_sds_secret_configs"]] == [
        "certificate/default/a",
        "certificate/default/b",
    ]
    assert context["alpn_protocols"] == ["h2", "http/1.1"]
    assert context["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_2"
    assert set(found.of_type(ROUTE)) == {"default/edge/443/one", "default/edge/443/any"}
    assert set(found.of_type(SECRET)) == {"certificate/default/a", "certificate/default/b"}
    assert [f["name"] for f in listener["listener_filters"]] == [
        "envoy.filters.listener.tls_inspector"
    ]


def test_a_host_of_another_listener_is_misdirected_and_one_of_none_is_not_found():
    found = made(of_gateway(https("wild", "*.test", "a"), https("exact", "a.test", "b")))
    wild, exact = (hosts(found, f"default/edge/443/{one}") for one in ("wild", "exact"))

    def status(of: dict[str, Any], host: str) -> int | None:
        answer = of[host][0].get("direct_response")
        return answer["status"] if answer else None

    assert {host: status(wild, host) for host in wild} == {"a.test": 421, "*.test": None, "*": 404}
    assert {host: status(exact, host) for host in exact} == {
        "a.test": None,
        "*.test": 421,
        "*": 404,
    }


def test_a_rotated_certificate_is_one_new_secret_and_nothing_else():
    translator = Translator(TranslateSettings())
    described = of_gateway(https("one", "a.test", "a"), https("two", "b.test", "b"))
    before = translator.translate(attach(described), described.gateways[0], ALL)
    translator.next_world()
    new = certificate("a", b"2")
    rotated = replace(described, certificates={**described.certificates, new.name: new})
    after = translator.translate(attach(rotated), rotated.gateways[0], ALL)
    different = [
        (type_url, each)
        for type_url, named in after.resources.items()
        for each, resource in named.items()
        if resource != before.resources[type_url].get(each)
    ]
    assert different == [(SECRET, "certificate/default/a")]


def test_a_listener_without_a_usable_certificate_is_told_and_leaves_the_others_alone():
    broken = replace(certificate("b"), chain=b"", key=b"", problem="tls.key is no private key")
    described = of_gateway(https("one", "a.test", "a"), https("two", "b.test", "b"), HTTP)
    described = replace(described, certificates={**described.certificates, broken.name: broken})
    found = made(described)
    assert set(found.of_type(LISTENER)) == {"default/edge/443", "default/edge/80"}
    assert set(found.of_type(SECRET)) == {"certificate/default/a"}
    assert any("listener two is not served" in n and "no private key" in n for n in found.notes)


def test_no_private_key_is_ever_written_out():
    found = made(of_gateway(https("one", "a.test", "a")))
    (secret,) = found.of_type(SECRET).values()
    assert b"key 1" in secret.body, "Envoy gets it"
    assert as_json(secret) == {
        "name": "certificate/default/a",
        "tls_certificate": {
            "certificate_chain": {"inline_bytes": "[redacted]"},
            "private_key": {"inline_bytes": "[redacted]"},
        },
    }
    static = str(render_static(found))
    assert "sds_secret_configs" not in static
    assert "BEGIN CERTIFICATE" in static, "a stand-in, so that Envoy can check the rest"
    assert "key 1" not in static + repr(found)


def with_picker(text: str, **more: Any) -> Any:
    return pool(text, picker=PickerRef("epp", 9002), **more)


def picked(app_protocol: str = "", **fields: Any) -> World:
    """A pool with a picker of its own, and one with ours."""
    epp = Service(
        name("epp"),
        (ServicePort(9002, app_protocol=app_protocol, addresses=(("10.9.9.9", 9002),)),),
    )
    described = of_gateway(
        HTTP,
        routes=(
            route("r", rule(backends=to("llama")), parents=HERE),
            route("q", rule(prefix("/q"), backends=to("qwen")), parents=HERE),
        ),
    )
    llama = with_picker("llama", **fields)
    return replace(
        described, pools={**described.pools, llama.name: llama}, services={epp.name: epp}
    )


def test_a_pool_with_a_picker_of_its_own_is_asked_there_over_tls_and_no_other_is():
    found = made(picked())
    cluster: Any = as_json(found.of_type(CLUSTER)["picker/default/epp/9002"])
    assert cluster["transport_socket"]["name"] == "envoy.transport_sockets.tls"
    assert "validation_context" not in str(cluster["transport_socket"])
    assert cluster["common_lb_config"]["healthy_panic_threshold"] == {}
    assert "10.9.9.9" in str(as_json(found.of_type(ENDPOINT)["picker/default/epp/9002"]))
    theirs, ours = routes(found)["default/r/0/0"], routes(found)["default/q/0/0"]
    config = theirs["typed_per_filter_config"]
    assert config[EXT_PROC]["disabled"] is True
    overrides = config[OTHER]["overrides"]
    assert overrides["grpc_service"]["envoy_grpc"]["cluster_name"] == "picker/default/epp/9002"
    assert overrides["processing_mode"]["response_header_mode"] == "SEND"
    assert OTHER not in ours["typed_per_filter_config"]
    chain = only_listener(found)["filter_chains"][0]
    filters = {f["name"]: f for f in chain["filters"][0]["typed_config"]["http_filters"]}
    assert filters[OTHER]["disabled"] is True, "unless a route turns it on"
    assert list(filters)[-1] == "envoy.filters.http.router"


def test_a_picker_whose_service_says_h2c_is_spoken_to_in_plain_text():
    found = made(picked("kubernetes.io/h2c"))
    assert "transport_socket" not in as_json(found.of_type(CLUSTER)["picker/default/epp/9002"])


def test_a_picker_that_is_not_ours_gets_full_duplex_bodies_also_where_its_pool_fails_open():
    opens = picked(failure_mode=FailureMode.FAIL_OPEN, body_mode=BodyMode.BUFFERED)
    config = routes(made(opens))["default/r/0/0"]["typed_per_filter_config"]
    overrides = config[OTHER]["overrides"]
    assert overrides["processing_mode"]["request_body_mode"] == "FULL_DUPLEX_STREAMED"
    assert overrides["failure_mode_allow"] is True


def test_an_older_envoy_asks_every_picker_by_the_same_filter():
    found = made(picked(), Features(pool_pickers=False))
    config = routes(found)["default/r/0/0"]["typed_per_filter_config"]
    assert list(config) == [EXT_PROC]
    assert "grpc_service" in config[EXT_PROC]["overrides"]


def test_a_picker_that_does_not_exist_costs_its_pool_alone():
    found = made(replace(picked(), services={}))
    by_name = routes(found)
    assert by_name["default/r/0/0"]["direct_response"]["status"] == 500
    assert by_name["default/q/0/0"]["route"]["cluster"] == "pool/default/qwen"
    assert any("there is no Service default/epp" in note for note in found.notes)


def test_services_of_our_own_picker_are_told_by_their_names():
    described = picked()
    ours = TranslateSettings(own_pickers=frozenset({"epp"}))
    found = translate(described, ours, described.gateways[0])
    assert "picker/default/epp/9002" not in found.of_type(CLUSTER)
    assert OTHER not in routes(found)["default/r/0/0"]["typed_per_filter_config"]


def test_a_services_addresses_come_as_endpoints_in_its_protocol():
    web = Service(
        name("web"),
        (ServicePort(80, app_protocol="kubernetes.io/h2c", addresses=(("10.1.1.1", 8080),)),),
    )
    backend = RouteBackend(name("web"), BackendKind.SERVICE, port=80)
    described = of_gateway(
        HTTP,
        routes=(route("r", rule(backends=(backend,)), parents=HERE),),
        services={web.name: web},
    )
    found = made(described)
    cluster = found.of_type(CLUSTER)["service/default/web/80"]
    assert cluster.needs == ((ENDPOINT, "service/default/web/80"),)
    assert "http2_protocol_options" in str(as_json(cluster))
    assert "10.1.1.1" in str(as_json(found.of_type(ENDPOINT)["service/default/web/80"]))
    gone = made(replace(described, services={}))
    assert routes(gone)["default/r/0/0"]["direct_response"]["status"] == 500
    assert not [one for one in gone.of_type(CLUSTER) if one.startswith("service/")]


def by_model(*backends: RouteBackend, **more: Any) -> HTTPRoute:
    return route("m", rule(prefix("/v1"), backends=backends, **more), parents=HERE, by_model=True)


def test_a_rule_by_model_leads_to_its_pools_alone():
    described = of_gateway(HTTP, routes=(by_model(*to("llama", "qwen")),))
    found = routes(made(described))
    assert list(found) == [
        "default/m/0/0/default/llama",
        "default/m/0/0/default/qwen",
        "default/m/0/0/other",
        "default/m/0/0",
        "not-found",
    ]
    led, _, other, asks, _ = found.values()
    assert led["match"]["headers"] == [
        {"name": "x-poolpilot-pool", "string_match": {"exact": "default/llama"}}
    ]
    assert led["route"]["cluster"] == "pool/default/llama"
    assert other["direct_response"]["status"] == 404
    assert asks["route"]["cluster_header"] == "x-poolpilot-pool"
    assert "overrides" in asks["typed_per_filter_config"][EXT_PROC]


def test_a_pool_that_cannot_be_used_is_an_error_and_not_unknown_in_a_route_by_model():
    described = of_gateway(HTTP, routes=(by_model(*to("llama", "theirs")),))
    theirs = with_picker("theirs")
    described = replace(described, pools={**described.pools, theirs.name: theirs})
    found = routes(made(described))
    assert found["default/m/0/0/default/theirs"]["direct_response"]["status"] == 500
    assert found["default/m/0/0/other"]["direct_response"]["status"] == 404


def test_the_header_of_a_route_by_model_gives_it_no_precedence_over_others():
    """Its entries have one header more, which is not the user's."""
    other = route(
        "other",
        RouteRule((RouteMatch(prefix("/v1").path, method="POST"),), to("qwen")),
        parents=HERE,
    )
    described = of_gateway(HTTP, routes=(by_model(*to("llama")), other))
    assert next(iter(routes(made(described)))) == "default/other/0/0"


def test_what_a_route_by_model_cannot_do_is_told():
    web = RouteBackend(name("web"), BackendKind.SERVICE, port=80)
    described = of_gateway(
        HTTP,
        routes=(by_model(*to("llama"), web),),
        services={name("web"): Service(name("web"), (ServicePort(80),))},
    )
    assert any("Service default/web gets no requests" in note for note in made(described).notes)
    without = routes(made(described, Features(early_header_mutation=False)))
    assert without["default/m/0/0"]["direct_response"]["status"] == 500
    assert len(without) == 2


BAD = {
    "is not supported": Filters(unsupported=("ExtensionRef",)),
    "not a header name": Filters(HeaderChanges(set=(("a b", "1"),))),
    "does not allow": Filters(HeaderChanges(add=(("a", "1\r\nb: 2"),))),
    "can only be set": Filters(HeaderChanges(remove=("host",))),
    "cannot have the status": Filters(redirect=Redirect(status=305)),
    "must begin with /": Filters(
        rewrite=UrlRewrite(path=PathChange(PathChangeType.FULL, "x")),
    ),
    "needs a match of type PathPrefix": Filters(
        rewrite=UrlRewrite(path=PathChange(PathChangeType.PREFIX, "/x"))
    ),
}


@pytest.mark.parametrize("words", list(BAD))
def test_a_filter_that_cannot_be_applied_is_told_and_its_rule_is_never_served_without(words: str):
    filters = BAD[words]
    exact = RouteMatch(PathMatch(PathMatchType.EXACT, "/x"))
    rules = (
        RouteRule((exact,), to("llama"), filters=filters),
        rule(backends=to("llama")),
    )
    found = translate(world(pool("llama"), routes=(route("r", *rules),)))
    (configuration,) = found.of_type(ROUTE)
    by_name = routes(found, configuration)
    assert by_name["default/r/0/0"]["direct_response"]["status"] == 500
    assert "route" in by_name["default/r/1/0"]
    assert any(words in note for note in found.notes)


def test_one_backend_may_change_headers_and_nothing_else():
    rewriting = Filters(rewrite=UrlRewrite("x.test"))
    split = (RouteBackend(name("llama")), RouteBackend(name("qwen"), filters=rewriting))
    described = world(pool("llama"), pool("qwen"), routes=(route("r", rule(backends=split)),))
    found = translate(described)
    assert any("only headers can be changed" in note for note in found.notes)
    (configuration,) = found.of_type(ROUTE)
    lost = routes(found, configuration)["default/r/0/0/lost"]
    assert lost["match"]["runtime_fraction"]["default_value"]["numerator"] == 500_000


def test_without_routes_a_gateway_of_a_cluster_serves_nothing():
    found = made(of_gateway(HTTP, routes=()))
    assert list(routes(found)) == ["not-found"]
    assert not [one for one in found.of_type(CLUSTER) if one.startswith("pool/")]
