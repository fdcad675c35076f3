"""What HTTPRoutes mean, before any of it is Envoy's."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.attachment import attach, covering, covers, shared_hostname
from pools.model import (
    BackendKind,
    BodyMode,
    GatewayListener,
    HTTPRoute,
    InferencePool,
    PathChange,
    PathChangeType,
    PathMatch,
    PathMatchType,
    RouteBackend,
    RouteMatch,
    UrlRewrite,
    ValueMatch,
    ValueMatchType,
)
from tests.xds.worlds import exact, name, pool, prefix, regex, route, rule, to, world
from xds.translate.rules import Attached, Backends, ListenerContext
from xds.translate.table import (
    Answer,
    ByModel,
    Entry,
    Forward,
    Host,
    PoolTarget,
    ServiceTarget,
    Table,
)
from xds.translate.virtual_hosts import table_for, table_of_pools

LLAMA, QWEN = pool("llama"), pool("qwen")
HTTP = GatewayListener("http", 80)


def table(*routes: HTTPRoute, listeners: tuple[GatewayListener, ...] = (HTTP,)) -> Table:
    """Every route attached to every listener."""
    sections = frozenset(listener.name for listener in listeners)
    described = attach(world(LLAMA, QWEN, routes=routes)).attachments.routes.values()
    attached = [Attached(one.route, sections, one.lost, one.refused) for one in described]
    return table_for(listeners, attached, backends(LLAMA, QWEN), ListenerContext(80))


def backends(*pools: InferencePool) -> Backends:
    return Backends({one.name: one for one in pools})


def host(found: Table, domain: str) -> Host:
    return next(one for one in found.hosts if one.domain == domain)


def order(found: Table, domain: str = "*") -> list[str]:
    return [entry.name for entry in host(found, domain).entries]


def pools_of(entry: Entry) -> list[str]:
    assert isinstance(entry.action, Forward)
    return [str(t.pool) for t in entry.action.targets if isinstance(t, PoolTarget)]


def test_an_exact_path_wins_over_the_longest_prefix_and_that_over_shorter_ones():
    found = table(
        route("a", rule(prefix("/"), backends=to("llama"))),
        route("b", rule(prefix("/v1"), backends=to("llama"))),
        route("c", rule(exact("/v1/completions"), backends=to("llama"))),
        route("d", rule(prefix("/v1/completions"), backends=to("llama"))),
    )
    assert order(found) == ["default/c/0/0", "default/d/0/0", "default/b/0/0", "default/a/0/0"]


def test_a_regular_expression_comes_after_prefixes_but_before_the_catch_all():
    found = table(
        route("all", rule(backends=to("llama"))),
        route("expression", rule(regex("/v[0-9]+/.*"), backends=to("llama"))),
        route("prefix", rule(prefix("/v1"), backends=to("llama"))),
    )
    assert order(found) == ["default/prefix/0/0", "default/expression/0/0", "default/all/0/0"]


def test_for_one_path_a_method_wins_then_more_headers_then_more_query_parameters():
    path = PathMatch(PathMatchType.PREFIX, "/v1")
    header, parameter = ValueMatch("x-a", "1"), ValueMatch("q", "1")
    matches = {
        "plain": RouteMatch(path),
        "query": RouteMatch(path, query=(parameter,)),
        "header": RouteMatch(path, headers=(header,)),
        "header-and-query": RouteMatch(path, headers=(header,), query=(parameter,)),
        "method": RouteMatch(path, method="POST"),
    }
    routes = [route(k, rule(match, backends=to("llama"))) for k, match in matches.items()]
    random.Random(7).shuffle(routes)
    *found, last = order(table(*routes))
    assert last == "not-found"
    assert [one.split("/")[1] for one in found] == [
        "method",
        "header-and-query",
        "header",
        "query",
        "plain",
    ]


def test_of_equal_matches_the_oldest_route_wins_then_the_first_by_name_then_the_first_rule():
    catch_all = rule(backends=to("llama"))
    found = table(
        route("c", catch_all, catch_all),
        route("b", catch_all),
        route("young", catch_all, created="2026-02-01T00:00:00Z"),
        route("old", catch_all, created="2026-01-01T00:00:00Z"),
    )
    assert order(found) == [
        "default/old/0/0",
        "default/young/0/0",
        "default/b/0/0",
        "default/c/0/0",
        "default/c/1/0",
    ]


def test_a_trailing_slash_does_not_make_another_prefix():
    found = table(route("a", rule(prefix("/v1/"), backends=to("llama"))))
    assert host(found, "*").entries[0].match == prefix("/v1")


def test_of_two_matches_on_one_header_the_first_counts_whatever_its_case():
    twice = RouteMatch(headers=(ValueMatch("X-Model", "a"), ValueMatch("x-model", "b")))
    found = table(route("a", rule(twice, backends=to("llama"))))
    assert host(found, "*").entries[0].match.headers == (ValueMatch("x-model", "a"),)


def test_every_host_ends_with_an_answer_for_what_no_route_matches():
    found = table(route("a", rule(prefix("/v1"), backends=to("llama"))))
    last = host(found, "*").entries[-1]
    assert last.match == RouteMatch()
    assert isinstance(last.action, Answer)
    assert last.action.status == 404


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("*", "*", "*"),
        ("*", "a.example.com", "a.example.com"),
        ("*.example.com", "a.example.com", "a.example.com"),
        ("*.example.com", "a.b.example.com", "a.b.example.com"),
        ("*.example.com", "*.b.example.com", "*.b.example.com"),
        ("A.Example.com", "a.example.com", "a.example.com"),
        ("*.example.com", "example.com", None),
        ("a.example.com", "b.example.com", None),
        ("*.example.com", "badexample.com", None),
        ("*.a.com", "*.b.com", None),
    ],
)
def test_hostnames_share_the_more_specific_of_the_two(one: str, other: str, shared: str | None):
    assert shared_hostname(one, other) == shared
    assert shared_hostname(other, one) == shared


def test_a_wildcard_does_not_cover_its_own_domain():
    assert covers("*.example.com", "x.example.com")
    assert not covers("*.example.com", "example.com")
    assert not covers("x.example.com", "*.example.com")


LABELS = st.lists(st.sampled_from(["a", "b", "com", "example"]), min_size=1, max_size=4)
HOSTNAMES = st.builds(
    lambda wild, labels: ".".join(wild + labels), st.sampled_from([[], ["*"]]), LABELS
)


@given(st.lists(HOSTNAMES, max_size=20), HOSTNAMES)
def test_all_that_covers_a_hostname_is_found_by_its_name(patterns: list[str], hostname: str):
    patterns.append("*")
    assert {one for one in patterns if covers(one, hostname)} == set(patterns) & set(
        covering(hostname)
    )


def test_thousands_of_hostnames_are_not_compared_with_one_another():
    many = [
        route(f"r{n}", rule(backends=to("llama")), hostnames=(f"h{n}.example.com",))
        for n in range(4000)
    ]
    began = time.process_time()
    found = table(*many, route("all", rule(backends=to("qwen")), hostnames=("*.example.com",)))
    assert order(found, "h7.example.com") == ["default/r7/0/0", "default/all/0/0"]
    assert time.process_time() - began < 3.0  # a fifth of a second, and not ten


def test_a_route_serves_only_the_hostnames_that_its_listener_has():
    listener = GatewayListener("http", 80, hostname="*.example.com")
    found = table(
        route("a", rule(backends=to("llama")), hostnames=("api.example.com", "api.elsewhere.org")),
        listeners=(listener,),
    )
    assert [one.domain for one in found.hosts] == ["api.example.com", "*.example.com", "*"]
    assert order(found, "api.example.com") == ["default/a/0/0"]
    assert order(found, "*.example.com") == ["not-found"]
    assert order(found, "*") == ["not-found"]


def test_a_route_without_a_common_hostname_serves_nothing():
    listener = GatewayListener("http", 80, hostname="a.example.com")
    found = table(
        route("a", rule(backends=to("llama")), hostnames=("b.example.com",)), listeners=(listener,)
    )
    assert order(found, "a.example.com") == ["not-found"]


def test_for_an_exact_host_its_own_routes_come_first_and_wildcard_routes_after():
    found = table(
        route("wild", rule(exact("/v1/models"), backends=to("qwen")), hostnames=("*.example.com",)),
        route("own", rule(prefix("/v1"), backends=to("llama")), hostnames=("a.example.com",)),
    )
    assert order(found, "a.example.com") == ["default/own/0/0", "default/wild/0/0", "not-found"]
    assert order(found, "*.example.com") == ["default/wild/0/0", "not-found"]


def test_a_host_belongs_to_the_most_specific_listener_alone():
    listeners = (
        GatewayListener("wild", 80, hostname="*.example.com"),
        GatewayListener("exact", 80, hostname="a.example.com"),
    )
    on_wild = route("on-wild", rule(backends=to("llama")))
    attached = Attached(on_wild, frozenset({"wild"}))
    found = table_for(listeners, [attached], backends(LLAMA), ListenerContext(80))
    assert order(found, "*.example.com") == ["default/on-wild/0/0"]
    assert order(found, "a.example.com") == ["not-found"]


def test_a_missing_pool_takes_its_share_of_errors_and_is_told():
    split = (RouteBackend(name("llama"), weight=3), RouteBackend(name("gone"), weight=1))
    found = table(route("a", rule(backends=split)))
    action = host(found, "*").entries[0].action
    assert isinstance(action, Forward)
    assert action.lost_weight == 1
    assert [target.weight for target in action.targets] == [3]
    assert "InferencePool default/gone does not exist" in found.notes[0]


def test_a_rule_whose_only_pool_is_missing_answers_500():
    action = host(table(route("a", rule(backends=to("gone")))), "*").entries[0].action
    assert isinstance(action, Answer)
    assert action.status == 500


@pytest.mark.parametrize("backends", [(), (RouteBackend(name("llama"), weight=0),)])
def test_a_rule_that_leads_nowhere_answers_500_and_is_told(backends: tuple[RouteBackend, ...]):
    found = table(route("a", rule(backends=backends)))
    action = host(found, "*").entries[0].action
    assert isinstance(action, Answer)
    assert action.status == 500
    assert "default/a: rules[0]" in found.notes[0]


def test_a_backend_of_weight_zero_gets_nothing():
    split = (RouteBackend(name("llama")), RouteBackend(name("qwen"), weight=0))
    assert pools_of(host(table(route("a", rule(backends=split))), "*").entries[0]) == [
        "default/llama"
    ]


def test_a_service_beside_a_pool_keeps_its_weight_and_port():
    service = RouteBackend(name("web"), BackendKind.SERVICE, weight=2, port=80)
    found = table(route("a", rule(backends=(*to("llama"), service))))
    action = host(found, "*").entries[0].action
    assert isinstance(action, Forward)
    assert action.targets[1] == ServiceTarget(name("web"), 80, 2)


def test_a_service_without_a_port_is_told():
    service = RouteBackend(name("web"), BackendKind.SERVICE)
    found = table(route("a", rule(backends=(service,))))
    assert "Service default/web has no port" in found.notes[0]


@pytest.mark.parametrize("pattern", ["/a(?=b)", "(?<!x)y", r"(a)\1", "/[", "(?P<n>a)(?P=n)"])
def test_a_regular_expression_that_envoy_would_reject_is_left_out_and_told(pattern: str):
    found = table(route("a", rule(regex(pattern), prefix("/v1"), backends=to("llama"))))
    assert order(found) == ["default/a/0/1", "not-found"]
    assert "matches[0] is left out" in found.notes[0]


@pytest.mark.parametrize(
    "match",
    [
        prefix("/v1?x=1"),
        prefix("v1"),
        exact("/v1#top"),
        RouteMatch(headers=(ValueMatch("x team", "a"),)),
        RouteMatch(method="GET /"),
    ],
)
def test_a_match_that_would_cost_envoy_the_whole_table_is_left_out_and_told(match: RouteMatch):
    found = table(route("a", rule(match, prefix("/v1"), backends=to("llama"))))
    assert order(found) == ["default/a/0/1", "not-found"]
    assert "HTTPRoute default/a: rules[0].matches[0] is left out" in found.notes[0]


@pytest.mark.parametrize("pattern", ["/v[0-9]+/(?:a|b)", r"/a\.b", "(?i)/x", r"/\\1", "/(?P<n>a)"])
def test_ordinary_regular_expressions_stay(pattern: str):
    match = RouteMatch(headers=(ValueMatch("x", pattern, ValueMatchType.REGEX),))
    assert table(route("a", rule(match, backends=to("llama")))).notes == ()


def test_without_routes_a_single_pool_gets_everything():
    found = table_of_pools(backends(LLAMA))
    (entry,) = host(found, "*").entries
    assert entry.match == RouteMatch()
    assert pools_of(entry) == ["default/llama"]


def test_without_routes_several_pools_get_a_prefix_each():
    first, second, *_ = host(table_of_pools(backends(QWEN, LLAMA)), "*").entries
    assert (first.match, second.match) == (prefix("/default/llama"), prefix("/default/qwen"))
    assert isinstance(first.action, Forward)
    assert first.action.filters.rewrite == UrlRewrite(path=PathChange(PathChangeType.PREFIX, "/"))


def test_a_request_without_a_prefix_is_led_to_its_pool_by_the_pickers_header():
    *_, first, second, last = host(table_of_pools(backends(QWEN, LLAMA)), "*").entries
    assert [entry.match.headers for entry in (first, second)] == [
        (ValueMatch("x-poolpilot-pool", "default/llama"),),
        (ValueMatch("x-poolpilot-pool", "default/qwen"),),
    ]
    assert [pools_of(entry) for entry in (first, second)] == [["default/llama"], ["default/qwen"]]
    assert last.match == RouteMatch()
    assert isinstance(last.action, ByModel)


def test_where_clients_could_send_the_pickers_header_a_stray_request_learns_the_prefixes():
    *prefixed, last = host(table_of_pools(backends(QWEN, LLAMA), by_model=False), "*").entries
    assert len(prefixed) == 2
    assert not any(entry.match.headers for entry in prefixed)
    assert isinstance(last.action, Answer)
    assert last.action.status == 404
    assert "/default/llama/v1/" in last.action.message
    assert "/default/qwen/v1/" in last.action.message


@pytest.mark.parametrize(
    ("modes", "shown"),
    [
        ((BodyMode.BUFFERED, BodyMode.BUFFERED), BodyMode.BUFFERED),
        ((BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED), BodyMode.FULL_DUPLEX_STREAMED),
        ((BodyMode.NONE, BodyMode.NONE), BodyMode.FULL_DUPLEX_STREAMED),
    ],
)
def test_the_model_can_be_read_whatever_the_pools_want(
    modes: tuple[BodyMode, ...], shown: BodyMode
):
    pools = [pool(f"p{i}", body_mode=mode) for i, mode in enumerate(modes)]
    *_, last = host(table_of_pools(backends(*pools)), "*").entries
    assert isinstance(last.action, ByModel)
    assert last.action.body_mode is shown


def test_without_any_pool_a_request_is_told_so():
    (entry,) = host(table_of_pools(Backends({})), "*").entries
    assert isinstance(entry.action, Answer)
    assert entry.action.status == 404
