"""Listeners, the picker's filter and cluster, and what older Envoys get instead."""

from __future__ import annotations

from typing import Any

import pytest

from pools.contract import DESTINATION, POOL_HEADER
from pools.model import (
    BodyMode,
    FailureMode,
    Gateway,
    GatewayListener,
    ListenerProtocol,
    ParentRef,
)
from tests.certificates import self_signed
from tests.xds.worlds import name, pool, route, rule, to, world
from xds.resource import CLUSTER, LISTENER, ROUTE
from xds.snapshot import Node, Snapshot
from xds.translate import (
    ALL,
    ExtProcSettings,
    Features,
    PickerTls,
    Pipe,
    SocketAddress,
    TranslateSettings,
    features_of,
    parse_target,
    translate,
)
from xds.translate.render import as_json, render_static

LLAMA = world(pool("llama"))


def listener(found: Snapshot) -> dict[str, Any]:
    (only,) = found.of_type(LISTENER).values()
    return as_json(only)


def manager(found: Snapshot) -> dict[str, Any]:
    return listener(found)["filter_chains"][0]["filters"][0]["typed_config"]


def filters(found: Snapshot) -> dict[str, dict[str, Any]]:
    return {f["name"]: f["typed_config"] for f in manager(found)["http_filters"]}


def ext_proc(found: Snapshot) -> dict[str, Any]:
    return filters(found)["envoy.filters.http.ext_proc"]


def cluster(found: Snapshot, of: str) -> dict[str, Any]:
    return as_json(found.of_type(CLUSTER)[of])


def balancing(found: Snapshot) -> dict[str, Any]:
    (policy,) = cluster(found, "pool/default/llama")["load_balancing_policy"]["policies"]
    return policy["typed_extension_config"]


def test_without_gateways_there_is_one_listener_whose_routes_come_over_rds():
    found = translate(LLAMA, TranslateSettings(listen_address="127.0.0.1", listen_port=9999))
    assert listener(found)["address"]["socket_address"] == {
        "address": "127.0.0.1",
        "port_value": 9999,
    }
    assert manager(found)["rds"]["route_config_name"] in found.of_type(ROUTE)
    assert "ads" in manager(found)["rds"]["config_source"]


def test_an_ipv6_listener_takes_ipv4_as_well():
    found = translate(LLAMA, TranslateSettings(listen_address="::"))
    assert listener(found)["address"]["socket_address"]["ipv4_compat"] is True


def test_a_client_can_neither_choose_its_pod_nor_its_pool():
    (extension,) = manager(translate(LLAMA))["early_header_mutation_extensions"]
    removed = {m["remove"] for m in extension["typed_config"]["mutations"]}
    assert {"x-gateway-destination-endpoint", "x-poolpilot-pool"} <= removed


def test_requests_are_given_up_only_when_nothing_moves():
    found = manager(translate(LLAMA, TranslateSettings(stream_idle_timeout=120)))
    assert found["request_timeout"] == "0s"
    assert found["stream_idle_timeout"] == "120s"


def test_there_is_exactly_one_ext_proc_filter_right_before_the_router():
    names = [f["name"] for f in manager(translate(LLAMA))["http_filters"]]
    assert names.count("envoy.filters.http.ext_proc") == 1
    assert names[-2:] == ["envoy.filters.http.ext_proc", "envoy.filters.http.router"]


def test_the_picker_sees_whole_requests_and_no_response():
    mode = ext_proc(translate(LLAMA))["processing_mode"]
    assert mode["request_body_mode"] == "FULL_DUPLEX_STREAMED"
    assert mode["request_trailer_mode"] == "SEND"
    assert mode["response_header_mode"] == "SKIP"
    assert "response_body_mode" not in mode


def test_the_picker_may_set_what_the_protocol_needs_and_nothing_else():
    import re

    rules = ext_proc(translate(LLAMA))["mutation_rules"]
    assert rules["disallow_all"] is True
    allowed = re.compile(rules["allow_expression"]["regex"])
    of_refusals = ("content-type", "retry-after", "x-poolpilot-reason")
    for header in (DESTINATION, "content-length", POOL_HEADER, *of_refusals):
        assert allowed.fullmatch(header)
    for header in (":path", ":authority", "host", "authorization", "x-forwarded-for", "cookie"):
        assert not allowed.fullmatch(header)


def test_the_picker_never_sees_credentials():
    patterns = ext_proc(translate(LLAMA))["forward_rules"]["disallowed_headers"]["patterns"]
    assert {"authorization", "cookie", "x-api-key"} <= {p["exact"] for p in patterns}


def test_a_pick_and_a_subset_travel_as_metadata():
    options = ext_proc(translate(LLAMA))["metadata_options"]
    assert options["receiving_namespaces"]["untyped"] == ["envoy.lb", "poolpilot"]
    assert "envoy.lb.subset_hint" in options["forwarding_namespaces"]["untyped"]


def test_a_picker_that_fails_is_told_as_503():
    assert ext_proc(translate(LLAMA))["status_on_error"] == {"code": "ServiceUnavailable"}


def test_requests_that_may_have_a_pick_are_told_to_the_picker():
    logs = {log["name"]: log for log in manager(translate(LLAMA))["access_log"]}
    log = logs["envoy.access_loggers.http_grpc"]
    common = log["typed_config"]["common_config"]
    assert common["log_name"] == "poolpilot"
    assert common["grpc_service"]["envoy_grpc"]["cluster_name"] == "ext-proc"
    assert common["buffer_flush_interval"] == "0.050s"
    was_picked, went_wrong, to_a_pool = log["filter"]["or_filter"]["filters"]
    condition = to_a_pool["extension_filter"]["typed_config"]["expression"]
    assert condition == "!has(xds.cluster_name) || xds.cluster_name.startsWith('pool/')"
    assert went_wrong == {"response_flag_filter": {}}, "any flag"
    condition = was_picked["metadata_filter"]
    assert condition["matcher"]["filter"] == "poolpilot"
    assert condition["matcher"]["path"] == [{"key": "pick"}]
    assert condition["match_if_key_not_found"] is False


def test_access_logs_and_token_counts_can_be_turned_off():
    settings = TranslateSettings(access_log=False, completion_log=False, token_usage=False)
    found = translate(LLAMA, settings)
    assert "access_log" not in manager(found)
    assert list(filters(found)) == ["envoy.filters.http.ext_proc", "envoy.filters.http.router"]


def _usage_rules(found: Snapshot) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """For JSON bodies, and for streamed events."""
    delegate = filters(found)["envoy.filters.http.match_delegate"]["extension_config"]
    plain = delegate["typed_config"]["response_rules"]["rules"]
    parser = filters(found)["envoy.filters.http.sse_to_metadata"]["response_rules"]
    streamed = parser["content_parser"]["typed_config"]["rules"]
    assert all(one.keys() == {"rule"} for one in streamed), "the last event that tells counts"
    return plain, [one["rule"] for one in streamed]


def test_tokens_are_counted_in_every_api_and_no_path_is_tried_in_vain():
    def paths(rules: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return [
            (one["on_present"]["key"], ".".join(key["key"] for key in one["selectors"]))
            for one in rules
        ]

    plain, streamed = _usage_rules(translate(LLAMA))
    anthropic = [
        ("prompt_tokens", "usage.input_tokens"),
        ("completion_tokens", "usage.output_tokens"),
        ("cache_read_tokens", "usage.cache_read_input_tokens"),
        ("cache_creation_tokens", "usage.cache_creation_input_tokens"),
    ]
    openai = [
        ("prompt_tokens", "usage.prompt_tokens"),
        ("completion_tokens", "usage.completion_tokens"),
        ("cached_tokens", "usage.prompt_tokens_details.cached_tokens"),
    ]
    of_responses = [("cached_tokens", "usage.input_tokens_details.cached_tokens")]
    assert paths(plain) == anthropic + openai + of_responses
    message_start = [
        ("prompt_tokens", "message.usage.input_tokens"),
        ("cache_read_tokens", "message.usage.cache_read_input_tokens"),
        ("cache_creation_tokens", "message.usage.cache_creation_input_tokens"),
    ]
    response_completed = [
        ("prompt_tokens", "response.usage.input_tokens"),
        ("completion_tokens", "response.usage.output_tokens"),
        ("cached_tokens", "response.usage.input_tokens_details.cached_tokens"),
    ]
    assert paths(streamed) == message_start + anthropic + openai + response_completed


def test_a_count_that_is_missing_leaves_what_was_told_before():
    plain, streamed = _usage_rules(translate(LLAMA))
    for one in plain + streamed:
        assert one.keys() == {"selectors", "on_present"}
        assert one["on_present"].keys() == {"metadata_namespace", "key", "type"}
        assert one["on_present"]["metadata_namespace"] == "poolpilot.usage"


def test_envoy_traces_where_a_collector_is_named_and_clients_traces_decide():
    assert "tracing" not in manager(translate(LLAMA))
    settings = TranslateSettings(
        trace_collector=SocketAddress("otel.example", 4318), trace_share=0.25
    )
    found = translate(LLAMA, settings)
    provider = manager(found)["tracing"]["provider"]
    assert provider["name"] == "envoy.tracers.opentelemetry"
    config = provider["typed_config"]
    assert config["http_service"]["http_uri"]["uri"] == "http://otel.example:4318/v1/traces"
    parent_based = config["sampler"]["typed_config"]
    root = parent_based["wrapped_sampler"]["typed_config"]
    assert root["sampling_percentage"] == {"numerator": 250_000, "denominator": "MILLION"}
    collector = cluster(found, config["http_service"]["http_uri"]["cluster"])
    assert collector["type"] == "STRICT_DNS"


def test_an_envoy_without_the_tracer_gets_no_traces_and_says_so():
    settings = TranslateSettings(trace_collector=SocketAddress("127.0.0.1", 4318))
    found = translate(LLAMA, settings, features=Features(traces=False))
    assert "tracing" not in manager(found)
    assert [r.name for r in found.of_type(CLUSTER).values()] == [
        "ext-proc",
        "pool/default/llama",
    ]
    assert any("Envoy makes no traces" in note for note in found.notes)


def test_a_dead_picker_is_noticed_by_health_checks_and_never_asked():
    found = cluster(translate(LLAMA), "ext-proc")
    (check,) = found["health_checks"]
    assert check["grpc_health_check"]["service_name"] == (
        "envoy.service.ext_proc.v3.ExternalProcessor"
    )
    assert (check["interval"], check["timeout"]) == ("1s", "1s")
    assert found["common_lb_config"]["healthy_panic_threshold"] == {}
    assert found["type"] == "STATIC"


def test_a_picker_may_be_a_name_a_socket_or_have_its_health_elsewhere():
    by_name = ExtProcSettings(targets=(parse_target("picker.example:9002"),))
    found = cluster(translate(LLAMA, TranslateSettings(ext_proc=by_name)), "ext-proc")
    assert found["type"] == "STRICT_DNS"

    by_socket = ExtProcSettings(targets=(parse_target("unix:/run/picker.sock"),))
    found = cluster(translate(LLAMA, TranslateSettings(ext_proc=by_socket)), "ext-proc")
    (host,) = found["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert host["endpoint"]["address"] == {"pipe": {"path": "/run/picker.sock"}}

    elsewhere = ExtProcSettings(health_port=9003)
    found = cluster(translate(LLAMA, TranslateSettings(ext_proc=elsewhere)), "ext-proc")
    (host,) = found["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert host["endpoint"]["health_check_config"] == {"port_value": 9003}


TWO = TranslateSettings(
    ext_proc=ExtProcSettings(targets=(SocketAddress("10.0.0.1", 9002), SocketAddress("b", 9002)))
)


def test_of_several_pickers_the_first_is_asked_and_each_further_one_stands_by():
    found = cluster(translate(LLAMA, TWO), "ext-proc")
    assignment = found["load_assignment"]
    assert [
        (one.get("priority", 0), one["lb_endpoints"][0]["endpoint"]["address"])
        for one in assignment["endpoints"]
    ] == [
        (0, {"socket_address": {"address": "10.0.0.1", "port_value": 9002}}),
        (1, {"socket_address": {"address": "b", "port_value": 9002}}),
    ]
    # With 140, one dead address of two would give away 30 % of the exchanges.
    assert assignment["policy"]["overprovisioning_factor"] >= 10_000
    assert found["common_lb_config"]["healthy_panic_threshold"] == {}


def test_an_exchange_that_the_first_picker_does_not_take_is_tried_at_the_next():
    def retry_policy(settings: TranslateSettings) -> Any:
        (one,) = [
            f for f in manager(translate(LLAMA, settings))["http_filters"] if "proc" in f["name"]
        ]
        return one["typed_config"]["grpc_service"].get("retry_policy")

    retry = retry_policy(TWO)
    assert "connect-failure" in retry["retry_on"]
    assert retry["retry_priority"]["name"] == "envoy.retry_priorities.previous_priorities"
    assert retry_policy(TranslateSettings()) is None


def test_every_picker_is_told_how_requests_end():
    def told(settings: TranslateSettings) -> list[str]:
        return [
            one["typed_config"]["common_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
            for one in manager(translate(LLAMA, settings))["access_log"]
            if one["name"] == "envoy.access_loggers.http_grpc"
        ]

    assert told(TWO) == ["ext-proc/0", "ext-proc/1"]
    assert told(TranslateSettings()) == ["ext-proc"]
    found = translate(LLAMA, TWO)
    for of, host in {"ext-proc/0": "10.0.0.1", "ext-proc/1": "b"}.items():
        (only,) = cluster(found, of)["load_assignment"]["endpoints"]
        (one,) = only["lb_endpoints"]
        assert one["endpoint"]["address"]["socket_address"]["address"] == host
    (listener,) = found.of_type(LISTENER).values()
    assert {(CLUSTER, of) for of in ("ext-proc", "ext-proc/0", "ext-proc/1")} <= set(listener.needs)


def test_a_name_and_a_socket_do_not_go_together():
    with pytest.raises(ValueError, match="not both"):
        ExtProcSettings(targets=(Pipe("/run/x"), SocketAddress("picker", 9002)))


def asked_over(tls: PickerTls | None, *targets: str) -> Snapshot:
    """The configuration for a picker at these addresses."""
    settings = ExtProcSettings(tuple(map(parse_target, targets)), tls=tls)
    return translate(LLAMA, TranslateSettings(ext_proc=settings))


def upstream_tls(found: Snapshot, of: str = "ext-proc") -> dict[str, Any]:
    return cluster(found, of)["transport_socket"]["typed_config"]


def test_a_picker_is_asked_in_plain_text_unless_it_is_said_who_signs_for_it():
    plain = asked_over(None, "10.0.0.1:9002")
    assert "transport_socket" not in cluster(plain, "ext-proc")

    found = asked_over(PickerTls("CA"), "10.0.0.1:9002")
    common = upstream_tls(found)["common_tls_context"]
    assert common["alpn_protocols"] == ["h2"]
    assert common["validation_context"] == {"trusted_ca": {"inline_string": "CA"}}
    assert "tls_certificates" not in common
    for type_url, named in found.resources.items():
        changed = {n for n, r in named.items() if r.body != plain.of_type(type_url)[n].body}
        assert changed == ({"ext-proc"} if type_url == CLUSTER else set())


@pytest.mark.parametrize(
    ("targets", "name", "sni", "names"),
    [
        (["10.0.0.1:9002"], None, None, []),
        (["unix:/run/picker.sock"], None, None, []),
        (["10.0.0.1:9002"], "picker.example", "picker.example", ["picker.example"]),
        (["picker.example.:9002"], None, "picker.example", ["picker.example"]),
        (["a:9002", "b:9002"], "picker.example", "picker.example", ["picker.example"]),
        (["a:9002", "b:9002"], None, "each its own", ["a", "b"]),
    ],
)
def test_a_pickers_certificate_has_the_name_that_is_asked_for(
    targets: list[str], name: str | None, sni: str | None, names: list[str]
):
    context = upstream_tls(asked_over(PickerTls("CA", name=name), *targets))
    assert ("each its own" if context.get("auto_host_sni") else context.get("sni")) == sni
    checked = context["common_tls_context"]["validation_context"].get(
        "match_typed_subject_alt_names", []
    )
    assert [(one["san_type"], one["matcher"]["exact"]) for one in checked] == [
        ("DNS", one) for one in names
    ]


def test_every_picker_is_told_over_tls_too():
    found = asked_over(PickerTls("CA"), "a:9002", "b:9002")
    assert upstream_tls(found, "ext-proc/0")["sni"] == "a"
    assert upstream_tls(found, "ext-proc/1")["sni"] == "b"


def test_envoy_gets_the_key_that_it_shows_to_the_picker_and_nobody_else_sees_it():
    shown = self_signed("envoy")
    tls = PickerTls("CA", shown.chain.decode(), shown.key.decode())
    found = asked_over(tls, "10.0.0.1:9002")
    assert shown.key in found.of_type(CLUSTER)["ext-proc"].body, "Envoy gets it"
    (pair,) = upstream_tls(found)["common_tls_context"]["tls_certificates"]
    assert pair["certificate_chain"] == {"inline_string": shown.chain.decode()}
    assert pair["private_key"] == {"inline_string": "[redacted]"}
    static = str(render_static(found))
    assert "BEGIN PRIVATE KEY" in static, "a stand-in, so that Envoy can check the rest"
    for piece in shown.key.decode().splitlines()[1:-1]:
        assert piece not in static + repr(found) + repr(tls) + repr(pair)


def test_what_envoy_could_not_use_to_reach_a_picker_is_refused():
    with pytest.raises(ValueError, match="a key its certificate"):
        PickerTls("CA", key="KEY")
    with pytest.raises(ValueError, match="a private key stands among certificates"):
        PickerTls("CA\n" + self_signed("ca").key.decode())
    with pytest.raises(ValueError, match="is not a DNS name"):
        PickerTls("CA", name="10.0.0.1")
    with pytest.raises(ValueError, match="either IP addresses or DNS names"):
        asked_over(PickerTls("CA"), "10.0.0.1:9002", "b:9002")


@pytest.mark.parametrize("text", ["9002", "host", "host:", "::1:9002", "host:0", "host:70000"])
def test_an_address_that_cannot_be_read_is_refused(text: str):
    with pytest.raises(ValueError, match=r".+"):
        parse_target(text)


def test_ipv6_addresses_are_read_without_their_brackets():
    assert parse_target("[::1]:9002") == SocketAddress("::1", 9002)


def test_a_pool_with_a_dot_in_its_name_keeps_all_of_it_in_envoys_metrics():
    found = translate(world(pool("llama-3.1-8b"), pool("llama")))
    named = cluster(found, "pool/default/llama-3.1-8b")
    assert named["alt_stat_name"] == "pool/default/llama-3_1-8b"
    assert "alt_stat_name" not in cluster(found, "pool/default/llama")


def test_no_circuit_breaker_gets_in_the_way():
    found = translate(LLAMA)
    for one in ("ext-proc", "pool/default/llama"):
        (limits,) = cluster(found, one)["circuit_breakers"]["thresholds"]
        assert limits["max_requests"] >= 100_000
        assert limits["max_connections"] >= 100_000
        assert limits["max_pending_requests"] >= 100_000
        assert limits["max_retries"] >= 1_000


def test_the_picks_metadata_alone_counts_and_least_request_is_the_fallback():
    """A header as well would have retries walk the list twice, and never reach the fallback."""
    policy = balancing(translate(LLAMA))
    assert policy["name"] == "envoy.load_balancing_policies.override_host"
    (metadata,) = policy["typed_config"]["override_host_sources"]
    assert metadata["metadata"]["key"] == "envoy.lb"
    assert metadata["metadata"]["path"] == [{"key": "x-gateway-destination-endpoint"}]
    assert policy["typed_config"]["selected_host_key"]["path"] == [
        {"key": "x-gateway-destination-endpoint-served"}
    ]
    (fallback,) = policy["typed_config"]["fallback_policy"]["policies"]
    assert fallback["typed_extension_config"]["name"].endswith("least_request")


def test_each_gateway_gets_its_own_listeners_and_the_routes_attached_to_it():
    gateway = Gateway(
        name("edge"),
        (
            GatewayListener("http", 80),
            GatewayListener("alt", 8080),
            GatewayListener("tls", 443, ListenerProtocol.HTTPS),
        ),
    )
    elsewhere = ParentRef(name("other"))
    here, section = ParentRef(name("edge")), ParentRef(name("edge"), section="alt")
    described = world(
        pool("llama"),
        pool("qwen"),
        pool("far"),
        gateways=(gateway,),
        routes=(
            route("a", rule(backends=to("llama")), parents=(here,)),
            route("b", rule(backends=to("qwen")), parents=(section,), hostnames=("b.test",)),
            route("c", rule(backends=to("far")), parents=(elsewhere,)),
        ),
    )
    found = translate(described, gateway=gateway)
    assert set(found.of_type(LISTENER)) == {"default/edge/80", "default/edge/8080"}

    def hosts(configuration: str) -> dict[str, list[str]]:
        rendered = as_json(found.of_type(ROUTE)[configuration])
        return {h["name"]: [r["name"] for r in h["routes"]] for h in rendered["virtual_hosts"]}

    assert hosts("default/edge/80") == {"*": ["default/a/0/0"]}
    assert hosts("default/edge/8080") == {
        "b.test": ["default/b/0/0", "default/a/0/0"],
        "*": ["default/a/0/0"],
    }
    assert "pool/default/far" not in found.of_type(CLUSTER)
    assert any(
        "listener tls is not served: tls.certificateRefs names no certificate" in note
        for note in found.notes
    )


@pytest.mark.parametrize(
    "parent",
    [
        ParentRef(name("gone")),
        ParentRef(name("edge"), section="tls"),
        ParentRef(name("edge"), port=81),
    ],
)
def test_a_route_that_no_listener_takes_is_told(parent: ParentRef):
    gateway = Gateway(name("edge"), (GatewayListener("http", 80),))
    described = world(
        pool("llama"),
        gateways=(gateway,),
        routes=(route("r", rule(backends=to("llama")), parents=(parent,)),),
    )
    found = translate(described, gateway=gateway)
    (note,) = found.notes
    assert "HTTPRoute default/r" in note
    assert "it serves nothing" in note
    assert str(parent.gateway) in note


def test_a_node_that_says_nothing_is_given_everything():
    assert features_of(Node("someone")) == ALL
    assert translate(LLAMA).notes == ()


@pytest.mark.parametrize(
    ("version", "lacks"),
    [
        ((1, 40, 0), set()),
        ((1, 38, 0), set()),
        ((1, 37, 1), {"selected_host", "content_length", "sse_usage"}),
        (
            (1, 35, 0),
            {
                "selected_host",
                "content_length",
                "sse_usage",
                "status_on_error",
                "request_body_limit",
                "full_duplex_fail_open",
            },
        ),
        (
            (1, 35, 3),
            {
                "selected_host",
                "content_length",
                "sse_usage",
                "status_on_error",
                "request_body_limit",
            },
        ),
    ],
)
def test_what_an_envoy_can_do_is_told_by_its_version(
    version: tuple[int, int, int], lacks: set[str]
):
    found = features_of(Node("e", version=version))
    assert found == Features(**dict.fromkeys(lacks, False))


def test_an_extension_that_was_not_compiled_in_is_missed():
    some = frozenset({"envoy.filters.http.json_to_metadata", "envoy.access_loggers.stdout"})
    found = features_of(Node("e", version=(1, 40, 0), extensions=some))
    assert found.stdout_log
    assert not found.override_host
    assert not found.json_usage, "it needs the match delegate too"


def test_an_older_envoy_gets_no_field_that_it_lacks_and_is_told_what_that_means():
    features = features_of(Node("e", version=(1, 35, 3)))
    found = translate(LLAMA, features=features)
    assert "status_on_error" not in ext_proc(found)
    assert "allow_content_length_header" not in ext_proc(found)
    assert "envoy.filters.http.sse_to_metadata" not in filters(found)
    assert "selected_host_key" not in balancing(found)["typed_config"]
    assert listener(found)["per_connection_buffer_limit_bytes"] == 32 * 1024 * 1024
    assert len(found.notes) == 5
    assert any("content length (there since 1.38)" in note for note in found.notes)


def test_where_clients_could_send_the_pools_header_it_leads_nowhere_and_they_are_told():
    found = translate(world(pool("a"), pool("b")), features=Features(early_header_mutation=False))
    (configuration,) = found.of_type(ROUTE).values()
    names = [r["name"] for r in as_json(configuration)["virtual_hosts"][0]["routes"]]
    assert names == ["pool/default/a", "pool/default/b", "not-found"]
    assert any("find no pool by their model" in note for note in found.notes)


def test_without_the_balancer_that_obeys_picks_envoy_balances_and_says_so():
    found = translate(LLAMA, features=Features(override_host=False))
    assert balancing(found)["name"].endswith("least_request")
    assert any("NOT obeyed" in note for note in found.notes)


def test_1_35_0_gets_buffered_bodies_where_a_pool_fails_open():
    described = world(pool("llama", failure_mode=FailureMode.FAIL_OPEN))
    assert described.pools[name("llama")].body_mode is BodyMode.FULL_DUPLEX_STREAMED
    found = translate(described, features=Features(full_duplex_fail_open=False))
    (configuration,) = found.of_type(ROUTE).values()
    *_, last = as_json(configuration)["virtual_hosts"][0]["routes"]
    overrides = last["typed_per_filter_config"]["envoy.filters.http.ext_proc"]["overrides"]
    assert overrides["processing_mode"]["request_body_mode"] == "BUFFERED"
    assert overrides["failure_mode_allow"] is True
