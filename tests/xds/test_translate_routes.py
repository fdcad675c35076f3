"""Route tables in Envoy's words."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pools.model import (
    AppProtocol,
    BackendKind,
    BodyMode,
    FailureMode,
    PathMatch,
    PathMatchType,
    Retry,
    RouteBackend,
    RouteMatch,
    ValueMatch,
    ValueMatchType,
    World,
)
from tests.xds.worlds import exact, name, pool, prefix, regex, route, rule, to, world
from xds.resource import CLUSTER, ENDPOINT, ROUTE
from xds.snapshot import Snapshot
from xds.translate import Features, TranslateSettings, translate
from xds.translate.pack import Memo
from xds.translate.render import as_json
from xds.translate.routes import route_configuration, routes_of
from xds.translate.table import Answer, Entry, Forward, Host, PoolTarget, Table

EXT_PROC = "envoy.filters.http.ext_proc"


def configuration(found: Snapshot) -> dict[str, Any]:
    (only,) = found.of_type(ROUTE).values()
    return as_json(only)


def routes(found: Snapshot, domain: str = "*") -> list[dict[str, Any]]:
    (host,) = [h for h in configuration(found)["virtual_hosts"] if h["domains"] == [domain]]
    return host["routes"]


def first(*args: Any, features: Features | None = None, **kwargs: Any) -> dict[str, Any]:
    """The first route of a World with pools llama and qwen and this one rule."""
    described = world(pool("llama"), pool("qwen"), routes=(route("r", rule(*args, **kwargs)),))
    return routes(translate(described, features=features or Features()))[0]


def test_a_prefix_matches_whole_path_elements_only():
    assert first(prefix("/v1"), backends=to("llama"))["match"] == {"path_separated_prefix": "/v1"}
    assert first(prefix("/"), backends=to("llama"))["match"] == {"prefix": "/"}


def test_other_paths_headers_queries_and_methods_are_matched_as_written():
    match = RouteMatch(
        PathMatch(PathMatchType.EXACT, "/v1/completions"),
        (ValueMatch("x-team", "a"), ValueMatch("x-user", "u.*", ValueMatchType.REGEX)),
        (ValueMatch("debug", "1"),),
        "POST",
    )
    assert first(match, backends=to("llama"))["match"] == {
        "path": "/v1/completions",
        "headers": [
            {"name": "x-team", "string_match": {"exact": "a"}},
            {"name": "x-user", "string_match": {"safe_regex": {"regex": "u.*"}}},
            {"name": ":method", "string_match": {"exact": "POST"}},
        ],
        "query_parameters": [{"name": "debug", "string_match": {"exact": "1"}}],
    }
    assert first(regex("/v[12]"), backends=to("llama"))["match"] == {
        "safe_regex": {"regex": "/v[12]"}
    }


def test_an_inference_route_has_no_time_limit_but_an_idle_limit():
    action = first(backends=to("llama"))["route"]
    assert action["timeout"] == "0s"
    assert action["idle_timeout"] == "600s"


def test_the_time_limits_of_a_rule_are_kept():
    action = first(backends=to("llama"), request_timeout=30.0, backend_timeout=2.5)["route"]
    assert action["timeout"] == "30s"
    assert action["retry_policy"]["per_try_timeout"] == "2.500s"


@pytest.mark.parametrize(
    ("given", "base", "longest"),
    [
        (0.0, "0.001s", "0.010s"),
        (2.0, "2s", "20s"),
        (86_400.0, "86400s", "86400s"),
        # The longest that the API has. Envoy takes 9,223,372,036 s at most.
        (4 * 99_999 * 3600.0, "1439985600s", "1439985600s"),
    ],
)
def test_waits_between_tries_grow_but_not_beyond_what_envoy_takes(given, base, longest):
    waits = first(backends=to("llama"), retry=Retry(backoff=given))["route"]["retry_policy"]
    assert waits["retry_back_off"] == {"base_interval": base, "max_interval": longest}


def test_retries_walk_down_the_pickers_list_without_running_a_prompt_twice():
    policy = first(backends=to("llama"))["route"]["retry_policy"]
    conditions = policy["retry_on"].split(",")
    assert {"connect-failure", "refused-stream", "reset-before-request"} <= set(conditions)
    assert "reset" not in conditions
    assert "5xx" not in conditions
    assert policy["retriable_status_codes"] == [503]
    assert policy["num_retries"] == 3
    assert [p["name"] for p in policy["retry_host_predicate"]] == [
        "envoy.retry_host_predicates.previous_hosts"
    ]


def overrides(message: dict[str, Any]) -> dict[str, Any]:
    return message["typed_per_filter_config"][EXT_PROC]["overrides"]


@pytest.mark.parametrize(
    ("mode", "body", "trailers"),
    [
        (BodyMode.FULL_DUPLEX_STREAMED, "FULL_DUPLEX_STREAMED", "SEND"),
        (BodyMode.BUFFERED, "BUFFERED", "SKIP"),
        (BodyMode.STREAMED, "STREAMED", "SKIP"),
        (BodyMode.NONE, None, "SKIP"),
    ],
)
def test_the_picker_is_told_the_pool_and_gets_bodies_as_the_pool_says(
    mode: BodyMode, body: str | None, trailers: str
):
    *_, last = routes(translate(world(pool("llm/llama", body_mode=mode))))
    told = overrides(last)
    assert told["grpc_initial_metadata"] == [{"key": "x-inference-pool", "value": "llm/llama"}]
    assert told["processing_mode"].get("request_body_mode") == body
    assert told["processing_mode"]["request_trailer_mode"] == trailers
    assert told["processing_mode"]["response_header_mode"] == "SKIP"


def test_websockets_are_not_held_back_where_bodies_are():
    """What a client says on one never ends, so Envoy would wait for it for ever."""
    upgrade, other = routes(translate(world(pool("llama", body_mode=BodyMode.BUFFERED))))
    (header,) = upgrade["match"]["headers"]
    assert header == {
        "name": "upgrade",
        "string_match": {"exact": "websocket", "ignore_case": True},
    }
    assert "request_body_mode" not in overrides(upgrade)["processing_mode"], "NONE"
    assert overrides(upgrade)["grpc_initial_metadata"] == overrides(other)["grpc_initial_metadata"]
    assert "headers" not in other["match"]
    assert overrides(other)["processing_mode"]["request_body_mode"] == "BUFFERED"


def test_the_lost_share_of_a_buffered_pool_is_lost_for_websockets_too():
    split = (RouteBackend(name("llama"), weight=3), RouteBackend(name("gone"), weight=1))
    described = world(
        pool("llama", body_mode=BodyMode.BUFFERED), routes=(route("a", rule(backends=split)),)
    )
    names = [one["name"] for one in routes(translate(described))]
    assert names[:3] == ["default/a/0/0/lost", "default/a/0/0/websocket", "default/a/0/0"]


@pytest.mark.parametrize(
    ("mode", "opens"), [(FailureMode.FAIL_OPEN, True), (FailureMode.FAIL_CLOSE, False)]
)
def test_each_pool_fails_as_it_says(mode: FailureMode, opens: bool):
    (only,) = routes(translate(world(pool("llama", failure_mode=mode))))
    assert overrides(only)["failure_mode_allow"] is opens


def test_pools_that_share_a_rule_keep_their_own_picker_settings():
    described = world(
        pool("open", failure_mode=FailureMode.FAIL_OPEN, body_mode=BodyMode.BUFFERED),
        pool("closed"),
        routes=(
            route(
                "r",
                rule(
                    backends=(
                        RouteBackend(name("open"), weight=9),
                        RouteBackend(name("closed"), weight=1),
                    )
                ),
            ),
        ),
    )
    only = routes(translate(described))[0]
    assert "typed_per_filter_config" not in only
    split = only["route"]["weighted_clusters"]["clusters"]
    assert [(c["name"], c["weight"]) for c in split] == [
        ("pool/default/open", 9),
        ("pool/default/closed", 1),
    ]
    assert [overrides(c)["failure_mode_allow"] for c in split] == [True, False]
    assert [overrides(c)["grpc_initial_metadata"][0]["value"] for c in split] == [
        "default/open",
        "default/closed",
    ]


def test_the_picker_is_not_asked_where_no_pool_is_meant():
    service = RouteBackend(name("web"), BackendKind.SERVICE, port=80)
    described = world(
        pool("llama"),
        routes=(
            route(
                "r",
                rule(exact("/page"), backends=(service,)),
                rule(exact("/gone"), backends=to("gone")),
                rule(exact("/mixed"), backends=(service, *to("llama"))),
            ),
        ),
    )
    found = {r["name"]: r for r in routes(translate(described))}
    for one in ("default/r/0/0", "default/r/1/0", "not-found"):
        assert found[one]["typed_per_filter_config"][EXT_PROC]["disabled"] is True
    mixed = found["default/r/2/0"]["route"]["weighted_clusters"]["clusters"]
    assert mixed[0]["typed_per_filter_config"][EXT_PROC]["disabled"] is True
    assert "overrides" in mixed[1]["typed_per_filter_config"][EXT_PROC]


def test_the_share_of_a_missing_pool_is_answered_with_500_and_the_rest_keeps_its_proportions():
    split = (
        RouteBackend(name("llama"), weight=1),
        RouteBackend(name("qwen"), weight=2),
        RouteBackend(name("gone"), weight=1),
    )
    described = world(pool("llama"), pool("qwen"), routes=(route("r", rule(backends=split)),))
    lost, rest, *_ = routes(translate(described))
    fraction = lost["match"]["runtime_fraction"]["default_value"]
    assert fraction == {"numerator": 250_000, "denominator": "MILLION"}
    assert lost["direct_response"]["status"] == 500
    assert "runtime_fraction" not in rest["match"]
    llama, qwen = rest["route"]["weighted_clusters"]["clusters"]
    assert (llama["weight"], qwen["weight"]) == (250_000, 500_000)


@given(
    st.lists(st.integers(1, 1_000_000), min_size=1, max_size=5),
    st.integers(1, 1_000_000),
    st.integers(0, 2**32 - 1),
)
@example([400_000, 600_000], 500_000, 1)
def test_shares_are_right_although_envoy_draws_one_number_for_both_choices(
    weights: list[int], lost_weight: int, seed: int
):
    """Over all numbers that Envoy can draw, or a fair sample of them."""
    action = Forward(
        tuple(PoolTarget(name(f"p{i}"), w) for i, w in enumerate(weights)), lost_weight
    )
    lost, rest = routes_of(Entry("e", RouteMatch(), action), Features(), TranslateSettings())
    assert lost.match is not None
    assert lost.match.runtime_fraction is not None
    assert lost.match.runtime_fraction.default_value is not None
    bound = lost.match.runtime_fraction.default_value.numerator
    split = rest.route.weighted_clusters if rest.route is not None else None
    chosen = [c.weight or 0 for c in split.clusters] if split else [1]
    total = sum(weights) + lost_weight
    random = Random(seed)
    drawn = [random.getrandbits(64) for _ in range(4000)]
    kept = [number % sum(chosen) for number in drawn if number % 1_000_000 >= bound]
    assert abs(len(drawn) - len(kept) - 4000 * lost_weight / total) < 200
    for i, weight in enumerate(weights):
        low = sum(chosen[:i])
        got = sum(low <= number < low + chosen[i] for number in kept)
        assert abs(got - 4000 * weight / total) < 200, "six standard deviations"


def test_without_routes_the_prefix_of_a_pool_is_taken_off():
    found = translate(world(pool("llama"), pool("qwen")))
    rewrite = routes(found)[0]["route"]["regex_rewrite"]
    assert rewrite["pattern"]["regex"] == r"^/default/llama/*"
    assert rewrite["substitution"] == "/"


def test_an_answer_of_envoys_own_is_json_that_openai_clients_understand():
    described = world(
        pool("llama"), routes=(route("a", rule(prefix("/v1"), backends=to("llama"))),)
    )
    *_, last = routes(translate(described))
    assert last["direct_response"]["status"] == 404
    error = json.loads(last["direct_response"]["body"]["inline_string"])["error"]
    assert error["code"] == "route_not_found"
    assert last["response_headers_to_add"][0]["header"] == {
        "key": "content-type",
        "value": "application/json",
    }


def test_a_request_without_prefix_is_shown_to_the_picker_without_a_pool_and_led_on_by_its_header():
    *_, by_model, last = routes(translate(world(pool("llama"), pool("qwen"))))
    assert by_model["match"]["headers"] == [
        {"name": "x-poolpilot-pool", "string_match": {"exact": "default/qwen"}}
    ]
    assert by_model["route"]["cluster"] == "pool/default/qwen"
    assert last["match"] == {"prefix": "/"}
    assert last["route"]["cluster_header"] == "x-poolpilot-pool"
    assert "grpc_initial_metadata" not in overrides(last)
    assert overrides(last)["failure_mode_allow"] is False
    assert last["request_body_buffer_limit"] == 32 * 1024 * 1024


def test_a_long_answer_is_allowed_for():
    answer = Answer(404, "route_not_found", "x" * 5000)
    table = Table((Host("*", (Entry("long", RouteMatch(), answer),)),))
    found = as_json(route_configuration("r", table, Features(), TranslateSettings(), Memo()))
    (only,) = found["virtual_hosts"][0]["routes"]
    body = only["direct_response"]["body"]["inline_string"]
    assert found["max_direct_response_body_size_bytes"] >= len(body) > 5000


def test_a_port_in_the_host_header_changes_nothing():
    assert configuration(translate(world(pool("llama"))))["ignore_port_in_host_matching"] is True


def test_routes_need_their_clusters_and_clusters_their_endpoints():
    described = world(pool("llama"), pool("qwen"), routes=(route("r", rule(backends=to("llama"))),))
    found = translate(described)
    (configured,) = found.of_type(ROUTE).values()
    assert configured.needs == ((CLUSTER, "pool/default/llama"),)
    assert found.of_type(CLUSTER)["pool/default/llama"].needs == ((ENDPOINT, "pool/default/llama"),)


def test_a_pool_that_no_route_leads_to_is_left_out_and_told():
    described = world(pool("llama"), pool("qwen"), routes=(route("r", rule(backends=to("llama"))),))
    found = translate(described)
    assert "pool/default/qwen" not in found.of_type(CLUSTER)
    assert any("InferencePool default/qwen: no HTTPRoute" in note for note in found.notes)


def test_a_service_is_found_by_its_dns_name():
    service = RouteBackend(name("shop/web"), BackendKind.SERVICE, port=8080)
    described = world(routes=(route("r", rule(backends=(service,))),))
    found = translate(described, TranslateSettings(cluster_domain="example.internal"))
    cluster = as_json(found.of_type(CLUSTER)["service/shop/web/8080"])
    assert cluster["type"] == "STRICT_DNS"
    (locality,) = cluster["load_assignment"]["endpoints"]
    assert locality["lb_endpoints"][0]["endpoint"]["address"]["socket_address"] == {
        "address": "web.shop.svc.example.internal",
        "port_value": 8080,
    }


def test_an_empty_world_still_gives_a_listener_that_answers():
    found = translate(World())
    assert routes(found)[0]["direct_response"]["status"] == 404


def test_h2c_pools_get_http2_and_others_http1_connections_that_close_before_the_pods():
    found = translate(world(pool("llama"), pool("grpc", app_protocol=AppProtocol.H2C)))
    key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

    def options(cluster: str) -> dict[str, Any]:
        return as_json(found.of_type(CLUSTER)[cluster])["typed_extension_protocol_options"][key]

    assert "http2_protocol_options" in options("pool/default/grpc")["explicit_http_config"]
    plain = options("pool/default/llama")
    assert "http_protocol_options" in plain["explicit_http_config"]
    assert plain["common_http_protocol_options"]["idle_timeout"] == "4s"
