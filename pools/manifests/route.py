"""HTTPRoute of the Gateway API (``gateway.networking.k8s.io``).

What the API allows and we have not does not make a route unreadable: the value says what it lacks,
so that nobody serves the rule as if it were not there, and its status can tell.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pools.expressions import problem_of_expression
from pools.manifests.fields import (
    Fields,
    Place,
    choice,
    did_you_mean,
    duration,
    group_name,
    integer,
    kind_name,
    list_of,
    namespace_name,
    object_name,
    port_number,
    struct,
    text,
    word,
)
from pools.manifests.filters import PATH, filters, token
from pools.manifests.gateway import hostname, section_name
from pools.manifests.meta import Meta
from pools.model import (
    BackendKind,
    Filters,
    HTTPRoute,
    ObjectName,
    ParentRef,
    PathChangeType,
    PathMatch,
    PathMatchType,
    Retry,
    RouteBackend,
    RouteMatch,
    RouteRule,
    ValueMatch,
    ValueMatchType,
)
from pools.well_known import GATEWAY_GROUP, POOL_GROUPS

BY_MODEL_ANNOTATION = "poolpilot.dev/route-by-model"

_UNCLEAN_PATH = re.compile(r"//|/\.{1,2}(?:/|$)|%2[fF]")
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_BACKENDS = {
    ("", "Service"): BackendKind.SERVICE,
    **{(group, "InferencePool"): BackendKind.INFERENCE_POOL for group in POOL_GROUPS},
}


def http_route(meta: Meta, spec: Fields) -> HTTPRoute:
    namespace = meta.name.namespace
    spec.known("useDefaultGateways")
    parents_at = spec.get("parentRefs")
    named = spec.optional(
        "parentRefs", list_of(struct(lambda ref: _parent(namespace, ref)), 0, 32), ()
    )
    parents = tuple(parent for parent in named if parent is not None)
    by_model = meta.annotation(BY_MODEL_ANNOTATION, word("true", "false"))
    of_others = bool(named) and not parents
    if of_others and parents_at is not None:
        parents_at.warning("names no Gateway, so the route is left to whom it names")
    return HTTPRoute(
        meta.name,
        spec.optional("hostnames", list_of(hostname, 0, 16), ()),
        parents,
        spec.required("rules", list_of(struct(lambda rule: _rule(namespace, rule)), 1, 16)),
        meta.created,
        meta.origin,
        by_model == "true",
        of_others,
    )


def _parent(namespace: str, ref: Fields) -> ParentRef | None:
    group = ref.optional("group", group_name, GATEWAY_GROUP)
    kind = ref.optional("kind", kind_name, "Gateway")
    if (group, kind) != (GATEWAY_GROUP, "Gateway"):
        # Of a service mesh, or a set of listeners.
        ref.any_others()
        return None
    name = ObjectName(
        ref.optional("namespace", namespace_name, namespace), ref.required("name", object_name)
    )
    return ParentRef(
        name,
        ref.optional("sectionName", section_name, None),
        ref.optional("port", port_number, None),
    )


def _rule(namespace: str, rule: Fields) -> RouteRule:
    rule.known("name")
    timeouts = rule.get("timeouts")
    request, backend = rule.optional("timeouts", struct(_timeouts), (None, None))
    if timeouts is not None and request and backend and backend > request:
        timeouts.error("backendRequest must not be longer than request")
    matches = rule.optional("matches", list_of(struct(_match), 0, 64), ()) or (RouteMatch(),)
    backends = rule.optional(
        "backendRefs", list_of(struct(lambda ref: _backend(namespace, ref)), 0, 16), ()
    )
    return RouteRule(
        matches,
        backends,
        request,
        backend,
        rule.place.line,
        _filters(rule, matches, backends),
        rule.optional("retry", struct(_retry), None),
    )


def _filters(
    rule: Fields, matches: tuple[RouteMatch, ...], backends: tuple[RouteBackend, ...]
) -> Filters:
    place = rule.get("filters")
    given = rule.optional("filters", filters(), Filters())
    if place is not None:
        changes = [change.path for change in (given.redirect, given.rewrite) if change is not None]
        by_prefix = any(path is not None and path.type is PathChangeType.PREFIX for path in changes)
        if by_prefix and [match.path.type for match in matches] != [PathMatchType.PREFIX]:
            place.error("may replace a prefix only where the rule has one match, of a PathPrefix")
        if given.redirect is not None and backends:
            place.error("must not redirect what backendRefs serve: remove one of the two")
    session = rule.get("sessionPersistence")
    if session is not None:
        session.refuse(
            "is not supported: the endpoint picker chooses the pod; the rule is answered with an"
            " error until it is removed"
        )
        return replace(given, unsupported=(*given.unsupported, "sessionPersistence"))
    return given


def _timeouts(fields: Fields) -> tuple[float | None, float | None]:
    return (
        fields.optional("request", duration, None),
        fields.optional("backendRequest", duration, None),
    )


def _retry(fields: Fields) -> Retry:
    return Retry(
        fields.optional("attempts", integer(0, 1000, "a number of attempts"), None),
        fields.optional("codes", list_of(integer(400, 599, "a status code")), ()),
        fields.optional("backoff", duration, None),
    )


def _match(match: Fields) -> RouteMatch:
    return RouteMatch(
        match.optional("path", struct(_path), PathMatch()),
        match.optional("headers", list_of(struct(_header), 0, 16), ()),
        match.optional("queryParams", list_of(struct(_query), 0, 16), ()),
        match.optional("method", word(*_METHODS), None),
    )


def _path(fields: Fields) -> PathMatch:
    kind = fields.optional("type", choice(PathMatchType), PathMatchType.PREFIX)
    if kind is PathMatchType.REGEX:
        return PathMatch(kind, fields.optional("value", _regex, "/"))
    return PathMatch(kind, fields.optional("value", _plain_path, "/"))


def _plain_path(place: Place) -> str:
    value = text("a path that starts with '/'", PATH, high=1024)(place)
    if _UNCLEAN_PATH.search(value):
        place.error("must not contain '//', '/./', '/../' or an escaped slash")
    return value


def _regex(place: Place) -> str:
    value = text("a regular expression")(place)
    if value and (problem := problem_of_expression(value)):
        place.error(problem)
    return value


def _header(fields: Fields) -> ValueMatch:
    return _value_match(fields, fields.required("name", token).lower(), 4096)


def _query(fields: Fields) -> ValueMatch:
    return _value_match(fields, fields.required("name", text("a parameter's name", high=256)), 1024)


def _value_match(fields: Fields, name: str, high: int) -> ValueMatch:
    kind = fields.optional("type", choice(ValueMatchType), ValueMatchType.EXACT)
    read = _regex if kind is ValueMatchType.REGEX else text("text", high=high)
    return ValueMatch(name, fields.required("value", read), kind)


def _backend(namespace: str, ref: Fields) -> RouteBackend:
    group = ref.optional("group", group_name, "")
    kind = ref.optional("kind", kind_name, "Service")
    known = _BACKENDS.get((group, kind))
    port: int | None
    if known is BackendKind.SERVICE:
        port = ref.required("port", port_number)
    else:
        port = ref.optional("port", port_number, None)
    name = ObjectName(
        ref.optional("namespace", namespace_name, namespace), ref.required("name", object_name)
    )
    weight = ref.optional("weight", integer(0, 1_000_000, "a weight"), 1)
    changes = ref.optional("filters", filters(of_backend=True), Filters())
    if known is not None:
        return RouteBackend(name, known, weight, port, changes)
    _no_backend(ref, group, kind)
    unknown = f"{group}/{kind}" if group else kind
    return RouteBackend(name, BackendKind.SERVICE, weight, None, changes, unknown)


def _no_backend(ref: Fields, group: str, kind: str) -> None:
    groups = [known for known, name in _BACKENDS if name == kind]
    if groups:
        field, allowed = "group", repr(groups[0]) if groups[0] else "empty"
    else:
        kinds = [name for _, name in _BACKENDS]
        field, allowed = "kind", "'Service' or 'InferencePool'" + did_you_mean(kind, kinds)
    ref.at(field).refuse(
        f"must be {allowed}: {kind}{f' of group {group}' if group else ''} is no backend, so its"
        " share of the requests is answered with an error"
    )
