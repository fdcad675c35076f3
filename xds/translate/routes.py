"""Route tables in Envoy's words: one RouteConfiguration per listener."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import partial

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.envoy.type.v3 import FractionalPercent, FractionalPercentDenominatorType
from envoy_data_plane.google.protobuf import Any

from pools.contract import EXPLANATION_HEADER, POOL_HEADER
from pools.model import (
    Filters,
    HeaderChanges,
    PathMatchType,
    Retry,
    RouteMatch,
    ValueMatch,
    ValueMatchType,
)
from xds.resource import CLUSTER, ROUTE, Resource
from xds.translate import extproc
from xds.translate.features import Features
from xds.translate.filters import headers_to_add, host_of, merged, redirect_action, rewrite_path
from xds.translate.names import (
    EXT_PROC_FILTER,
    POOL_PICKER_FILTER,
    picker_cluster,
    pool_cluster,
    service_cluster,
)
from xds.translate.pack import Memo, any_of, embedded, resource, seconds
from xds.translate.settings import TranslateSettings
from xds.translate.table import (
    NO_FILTERS,
    Answer,
    ByModel,
    Entry,
    Forward,
    Host,
    PoolTarget,
    Redirection,
    Table,
    Target,
)

_CONFIGURATION_HOSTS = 2
_HOST_ROUTES = 3
"""Field numbers: RouteConfiguration.virtual_hosts, VirtualHost.routes."""
_WHOLE = 1_000_000
"""Weights and fractions are out of this many."""


def route_configuration(
    name: str,
    table: Table,
    features: Features,
    settings: TranslateSettings,
    memo: Memo[bytes],
    *,
    origin: str = "",
) -> Resource:
    """The table as the route configuration ``name``. Unchanged entries are taken from ``memo``."""
    entries = [entry for host in table.hosts for entry in host.entries]
    answers = [_body(e.action) for e in entries if isinstance(e.action, Answer)]
    body = bytes(
        route.RouteConfiguration(
            name=name,
            ignore_port_in_host_matching=True,
            max_direct_response_body_size_bytes=max([4096, *map(len, answers)]),
            response_headers_to_add=[_EXPLANATION],
        )
    )
    for host in table.hosts:
        body += embedded(_CONFIGURATION_HOSTS, _host(host, features, settings, memo))
    clusters = sorted({name for target in table.targets() for name in clusters_of(target)})
    return resource(ROUTE, name, body, origin=origin, needs=tuple((CLUSTER, c) for c in clusters))


def cluster_of(target: Target) -> str:
    if isinstance(target, PoolTarget):
        return pool_cluster(target.pool)
    return service_cluster(target.service, target.port)


def clusters_of(target: Target) -> Iterator[str]:
    """All that requests for it pass: the cluster itself, and that of its own picker."""
    yield cluster_of(target)
    if isinstance(target, PoolTarget) and target.picker is not None:
        yield picker_cluster(target.picker)


def _host(host: Host, features: Features, settings: TranslateSettings, memo: Memo[bytes]) -> bytes:
    body = bytes(route.VirtualHost(name=host.domain, domains=[host.domain]))
    for entry in host.entries:
        make = partial(_routes, entry, features, settings)
        body += memo.get((entry.name, features), (entry, settings), make)
    return body


def _routes(entry: Entry, features: Features, settings: TranslateSettings) -> bytes:
    return b"".join(
        embedded(_HOST_ROUTES, bytes(message)) for message in routes_of(entry, features, settings)
    )


def routes_of(entry: Entry, features: Features, settings: TranslateSettings) -> list[route.Route]:
    """The Envoy routes of one entry: further ones where a share of it is answered with an error,
    and where WebSockets need another mode than bodies."""
    action = entry.action
    if isinstance(action, Answer):
        return [_direct(entry.name, _match(entry.match), action)]
    if isinstance(action, Redirection):
        return [_redirect(entry, action)]
    if isinstance(action, ByModel):
        return [_by_model(entry, action, features, settings)]
    lost, routes = 0, []
    if action.lost_weight:
        total = action.lost_weight + sum(target.weight for target in action.targets)
        lost = min(round(_WHOLE * action.lost_weight / total), _WHOLE - 1)
        routes.append(_lost(entry, lost))
    if any(isinstance(t, PoolTarget) and extproc.buffers(t, features) for t in action.targets):
        upgrade = _forward(entry, action, lost, features, settings, upgrade=True)
        upgrade.name = f"{entry.name}/websocket"
        if upgrade.match is not None:
            upgrade.match.headers.append(_WEBSOCKET)
        routes.append(upgrade)
    return [*routes, _forward(entry, action, lost, features, settings)]


_WEBSOCKET = route.HeaderMatcher(
    name="upgrade", string_match=matcher.StringMatcher(exact="websocket", ignore_case=True)
)


_EXPLANATION = core.HeaderValueOption(
    header=core.HeaderValue(key=EXPLANATION_HEADER, value=f"%REQ({EXPLANATION_HEADER})%"),
    append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
)
"""Where the picker explained its pick in a request header, the client gets to see it. Without one,
Envoy adds nothing."""


def _lost(entry: Entry, lost: int) -> route.Route:
    """The share (out of a million) whose backend does not exist."""
    match = _match(entry.match)
    match.runtime_fraction = core.RuntimeFractionalPercent(
        default_value=FractionalPercent(
            numerator=lost, denominator=FractionalPercentDenominatorType.MILLION
        )
    )
    answer = Answer(500, "backend_not_found", "The backend chosen for this request does not exist.")
    return _direct(f"{entry.name}/lost", match, answer)


def _direct(name: str, match: route.RouteMatch, answer: Answer) -> route.Route:
    return route.Route(
        name=name,
        match=match,
        direct_response=route.DirectResponseAction(
            status=answer.status, body=core.DataSource(inline_string=_body(answer))
        ),
        response_headers_to_add=[
            core.HeaderValueOption(
                header=core.HeaderValue(key="content-type", value="application/json"),
                append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
            )
        ],
        typed_per_filter_config={EXT_PROC_FILTER: any_of(extproc.disabled())},
    )


def _redirect(entry: Entry, action: Redirection) -> route.Route:
    message = route.Route(
        name=entry.name,
        match=_match(entry.match),
        redirect=redirect_action(action.filters, entry.match, (action.scheme, action.port)),
        typed_per_filter_config={EXT_PROC_FILTER: any_of(extproc.disabled())},
    )
    _change_headers(message, HeaderChanges(), action.filters.response_headers)
    return message


def _by_model(
    entry: Entry, action: ByModel, features: Features, settings: TranslateSettings
) -> route.Route:
    """The picker is asked first; its answer sets a header and has the route chosen anew.

    A direct response would do for what then still ends here, but has no limit of its own for
    buffered bodies. No cluster is named as a pool is in the header, so Envoy answers that it does
    not know the pool (yet).
    """
    message = route.Route(
        name=entry.name,
        match=_match(entry.match),
        route=route.RouteAction(
            cluster_header=POOL_HEADER,
            timeout=seconds(0),
            idle_timeout=seconds(settings.stream_idle_timeout),
        ),
        typed_per_filter_config={
            EXT_PROC_FILTER: any_of(extproc.without_pool(action.body_mode, features))
        },
    )
    if features.request_body_limit:
        message.request_body_buffer_limit = settings.body_limit
    return message


def _body(answer: Answer) -> str:
    kind = "invalid_request_error" if answer.status < 500 else "server_error"
    error = {"message": answer.message, "type": kind, "param": None, "code": answer.code}
    return json.dumps({"error": error})


def _forward(
    entry: Entry,
    action: Forward,
    lost: int,
    features: Features,
    settings: TranslateSettings,
    *,
    upgrade: bool = False,
) -> route.Route:
    forward = route.RouteAction(
        timeout=seconds(action.request_timeout),
        idle_timeout=seconds(settings.stream_idle_timeout),
        retry_policy=_retries(action.retry or Retry(), action.try_timeout, features, settings),
    )
    filters = action.filters
    if host := host_of(filters):
        forward.host_rewrite_literal = host
    if filters.rewrite is not None and filters.rewrite.path is not None:
        rewrite_path(forward, filters.rewrite.path, entry.match)
    message = route.Route(name=entry.name, match=_match(entry.match), route=forward)
    of_backends = any(target.filters != NO_FILTERS for target in action.targets)
    if not of_backends:
        _change_headers(message, filters.request_headers, filters.response_headers)
    if len(action.targets) == 1 and not of_backends:
        (target,) = action.targets
        forward.cluster = cluster_of(target)
        message.typed_per_filter_config = _ext_proc(target, features, upgrade)
    else:
        forward.weighted_clusters = route.WeightedCluster(
            clusters=[
                _share(target, weight, filters if of_backends else NO_FILTERS, features, upgrade)
                for target, weight in zip(
                    action.targets, _shares([t.weight for t in action.targets], lost), strict=True
                )
            ]
        )
    if features.request_body_limit:
        message.request_body_buffer_limit = settings.body_limit
    return message


def _share(
    target: Target, weight: int, filters: Filters, features: Features, upgrade: bool
) -> route.WeightedClusterClusterWeight:
    """``filters``: of the rule, where its backends have some too. Envoy would make the changes of a
    whole route last, but a backend has the last word."""
    message = route.WeightedClusterClusterWeight(
        name=cluster_of(target),
        weight=weight,
        typed_per_filter_config=_ext_proc(target, features, upgrade),
    )
    own = target.filters
    _change_headers(
        message,
        merged(filters.request_headers, own.request_headers),
        merged(filters.response_headers, own.response_headers),
    )
    if host := host_of(target.filters):
        message.host_rewrite_literal = host
    return message


def _change_headers(
    message: route.Route | route.WeightedClusterClusterWeight,
    request: HeaderChanges,
    response: HeaderChanges,
) -> None:
    message.request_headers_to_add = headers_to_add(request)
    message.request_headers_to_remove = list(request.remove)
    message.response_headers_to_add = headers_to_add(response)
    message.response_headers_to_remove = list(response.remove)


def _ext_proc(target: Target, features: Features, upgrade: bool) -> dict[str, Any]:
    """Which picker is asked, and how: of the two filters one at most is at work."""
    ours = any_of(extproc.disabled())
    if not isinstance(target, PoolTarget):
        return {EXT_PROC_FILTER: ours}
    asked = any_of(extproc.per_route(target, features, upgrade=upgrade))
    if target.picker is None or not features.pool_pickers:
        return {EXT_PROC_FILTER: asked}
    return {EXT_PROC_FILTER: ours, POOL_PICKER_FILTER: asked}


def _shares(weights: list[int], lost: int) -> list[int]:
    """Weights of clusters; with a lost share they add up to what that leaves of a million.

    Envoy decides what is lost and which cluster by the same random number, modulo a million and
    modulo the sum of the weights. With this sum the one choice says nothing about the other:
    ``lost`` is a multiple of the two moduli's common divisor. With a sum of a million, say, only
    the later clusters would ever be chosen.
    """
    if not lost:
        return weights
    left, total = _WHOLE - lost, sum(weights)
    edges = [round(left * sum(weights[:i]) / total) for i in range(len(weights) + 1)]
    return [high - low for low, high in itertools.pairwise(edges)]


_LONGEST_WAIT = 86_400.0
"""Seconds that waits between tries grow to, if the first is not longer."""


def _retries(
    retry: Retry, try_timeout: float, features: Features, settings: TranslateSettings
) -> route.RetryPolicy:
    """Walks down the picker's list, then to the fallback policy.

    A pod that answers 503 (its engine is dead or asleep) has not begun, so another may. A
    connection that is reset after the request was sent is not retried: the prompt may have run.
    Further statuses are retried where a route says so; then a prompt may run twice.
    """
    base = max(0.010 if retry.backoff is None else retry.backoff, 0.001)
    policy = route.RetryPolicy(
        retry_on="connect-failure,refused-stream,reset-before-request,retriable-status-codes",
        retriable_status_codes=sorted({503, *retry.codes}),
        num_retries=settings.retries if retry.attempts is None else retry.attempts,
        retry_back_off=route.RetryPolicyRetryBackOff(
            base_interval=seconds(base),
            max_interval=seconds(max(base, min(base * 10, _LONGEST_WAIT))),
        ),
    )
    if try_timeout:
        policy.per_try_timeout = seconds(try_timeout)
    if features.previous_hosts:
        policy.host_selection_retry_max_attempts = 5
        policy.retry_host_predicate = [
            route.RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=any_of(PreviousHostsPredicate()),
            )
        ]
    return policy


def _match(match: RouteMatch) -> route.RouteMatch:
    message = route.RouteMatch()
    value = match.path.value
    if match.path.type is PathMatchType.EXACT:
        message.path = value
    elif match.path.type is PathMatchType.REGEX:
        message.safe_regex = matcher.RegexMatcher(regex=value)
    elif value == "/":
        message.prefix = "/"
    else:
        message.path_separated_prefix = value
    message.headers = [
        route.HeaderMatcher(name=header.name, string_match=_string(header))
        for header in match.headers
    ]
    if match.method:
        message.headers.append(
            route.HeaderMatcher(
                name=":method", string_match=matcher.StringMatcher(exact=match.method)
            )
        )
    message.query_parameters = [
        route.QueryParameterMatcher(name=parameter.name, string_match=_string(parameter))
        for parameter in match.query
    ]
    return message


def _string(value: ValueMatch) -> matcher.StringMatcher:
    if value.type is ValueMatchType.REGEX:
        return matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=value.value))
    return matcher.StringMatcher(exact=value.value)
