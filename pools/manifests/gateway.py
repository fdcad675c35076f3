"""HTTPRoute and Gateway of the Gateway API (``gateway.networking.k8s.io``)."""

from __future__ import annotations

import re

from pools.manifests.fields import (
    Fields,
    Place,
    choice,
    integer,
    list_of,
    namespace_name,
    object_name,
    port_number,
    struct,
    text,
    unique,
    word,
)
from pools.manifests.meta import POOL_GROUPS, Meta
from pools.model import (
    BackendKind,
    Gateway,
    GatewayClass,
    GatewayListener,
    HTTPRoute,
    ListenerProtocol,
    ObjectName,
    ParentRef,
    PathMatch,
    PathMatchType,
    RouteBackend,
    RouteMatch,
    RouteRule,
    ValueMatch,
    ValueMatchType,
)

GROUP = "gateway.networking.k8s.io"

_HOSTNAME = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DURATION = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")
_DURATION_PART = re.compile(r"([0-9]+)(h|ms|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PATH = re.compile(r"/(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*")
_UNCLEAN_PATH = re.compile(r"//|/\.{1,2}(?:/|$)|%2[fF]")
# RE2, Envoy's engine, has none of these: look-around, atomic groups, conditions, references to
# groups, possessive quantifiers, and some of Python's escapes.
_NOT_IN_RE2 = re.compile(r"\(\?(?:=|!|<=|<!|>|\(|P=|#)|[*+?}]\+")
_ESCAPE_NOT_IN_RE2 = re.compile(r"\\[1-9ZuUN]")
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_CHARACTER_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")

_section_name = text("a listener's name", re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"), high=253)
_hostname = text("a host name, which may start with '*.'", _HOSTNAME, high=253)
_controller = text(
    "a controller's name such as example.com/gateway", re.compile(r"[^/\s]+/\S+"), high=253
)
_token = text("an HTTP header name", re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+"), high=256)


def duration(place: Place) -> float:
    """A Gateway API duration in seconds: ``1h30m``, ``10s``, ``500ms``."""
    value = place.node.value
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return sum(int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(value))
    place.must_be("a duration such as '30s', '1h30m' or '500ms'")
    return 0.0


def gateway(meta: Meta, spec: Fields) -> Gateway:
    class_name = spec.required("gatewayClassName", object_name)
    spec.known("infrastructure", "addresses", "backendTLS", "tls", "defaultScope")
    listeners_at = spec.get("listeners")
    listeners = spec.required("listeners", list_of(struct(_listener), 1, 64))
    served = tuple(listener for listener in listeners if listener is not None)
    unique(listeners_at, [listener.name for listener in served], "listener names")
    return Gateway(meta.name, served, meta.origin, class_name)


def gateway_class(meta: Meta, spec: Fields) -> GatewayClass:
    spec.known("parametersRef", "description")
    return GatewayClass(meta.name, spec.required("controllerName", _controller), meta.origin)


def _listener(fields: Fields) -> GatewayListener | None:
    name = fields.required("name", _section_name)
    port = fields.required("port", port_number)
    protocol = fields.required("protocol", word("HTTP", "HTTPS", "TLS", "TCP", "UDP"))
    hostname = fields.optional("hostname", _hostname, None)
    fields.without_effect("tls", "certificates are not taken from manifests")
    fields.without_effect("allowedRoutes", "every HTTPRoute may attach")
    if protocol not in tuple(ListenerProtocol):
        fields.place.warning(f"is not served: its protocol is {protocol}, not HTTP or HTTPS")
        return None
    return GatewayListener(name, port, ListenerProtocol(protocol), hostname)


def http_route(meta: Meta, spec: Fields) -> HTTPRoute:
    return HTTPRoute(
        meta.name,
        spec.optional("hostnames", list_of(_hostname, 0, 16), ()),
        spec.optional(
            "parentRefs", list_of(struct(lambda ref: _parent(meta.name.namespace, ref)), 0, 32), ()
        ),
        spec.required(
            "rules", list_of(struct(lambda rule: _rule(meta.name.namespace, rule)), 1, 16)
        ),
        meta.created,
        meta.origin,
    )


def _parent(namespace: str, ref: Fields) -> ParentRef:
    ref.optional("group", word(GROUP), "")
    ref.optional("kind", word("Gateway"), "")
    name = ObjectName(
        ref.optional("namespace", namespace_name, namespace), ref.required("name", object_name)
    )
    return ParentRef(
        name,
        ref.optional("sectionName", _section_name, None),
        ref.optional("port", port_number, None),
    )


def _rule(namespace: str, rule: Fields) -> RouteRule:
    rule.known("name")
    rule.unsupported("filters", "remove it, or let another proxy apply it")
    rule.unsupported("sessionPersistence", "remove it; the endpoint picker chooses the pod")
    rule.without_effect("retry", "retries go along the picker's list of endpoints")
    timeouts = rule.get("timeouts")
    request, backend = rule.optional("timeouts", struct(_timeouts), (None, None))
    if timeouts is not None and request and backend and backend > request:
        timeouts.error("backendRequest must not be longer than request")
    return RouteRule(
        rule.optional("matches", list_of(struct(_match), 0, 64), ()) or (RouteMatch(),),
        rule.optional(
            "backendRefs", list_of(struct(lambda ref: _backend(namespace, ref)), 0, 16), ()
        ),
        request,
        backend,
        rule.place.line,
    )


def _timeouts(fields: Fields) -> tuple[float | None, float | None]:
    return (
        fields.optional("request", duration, None),
        fields.optional("backendRequest", duration, None),
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
    value = text("a path that starts with '/'", _PATH, high=1024)(place)
    if _UNCLEAN_PATH.search(value):
        place.error("must not contain '//', '/./', '/../' or an escaped slash")
    return value


def _regex(place: Place) -> str:
    value = text("a regular expression", high=4096)(place)
    try:
        re.compile(value)
    except re.error as error:
        place.error(f"is not a regular expression: {error}")
    else:
        bare = _CHARACTER_CLASS.sub("x", _ESCAPE.sub("x", value))
        escapes = _ESCAPE.findall(value)
        if _NOT_IN_RE2.search(bare) or any(map(_ESCAPE_NOT_IN_RE2.fullmatch, escapes)):
            place.error("uses what Envoy's regular expressions (RE2) do not have")
    return value


def _header(fields: Fields) -> ValueMatch:
    return _value_match(fields, fields.required("name", _token).lower(), 4096)


def _query(fields: Fields) -> ValueMatch:
    return _value_match(fields, fields.required("name", text("a parameter's name", high=256)), 1024)


def _value_match(fields: Fields, name: str, high: int) -> ValueMatch:
    kind = fields.optional("type", choice(ValueMatchType), ValueMatchType.EXACT)
    read = _regex if kind is ValueMatchType.REGEX else text("text", high=high)
    return ValueMatch(name, fields.required("value", read), kind)


def _backend(namespace: str, ref: Fields) -> RouteBackend:
    kind = ref.optional("kind", choice(BackendKind), BackendKind.SERVICE)
    groups = POOL_GROUPS if kind is BackendKind.INFERENCE_POOL else ("",)
    if kind is BackendKind.INFERENCE_POOL:
        ref.required("group", word(*groups))
        port = ref.optional("port", port_number, None)
    else:
        ref.optional("group", word(*groups), "")
        port = ref.required("port", port_number)
    ref.unsupported("filters", "remove it, or let another proxy apply it")
    return RouteBackend(
        ObjectName(
            ref.optional("namespace", namespace_name, namespace), ref.required("name", object_name)
        ),
        kind,
        ref.optional("weight", integer(0, 1_000_000, "a weight"), 1),
        port,
    )
