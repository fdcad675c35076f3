"""Gateway, GatewayClass and ReferenceGrant of the Gateway API (``gateway.networking.k8s.io``).

A listener that cannot be served, as the API would have it, stays in the value with its problem.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from pools.manifests.fields import (
    Fields,
    Place,
    choice,
    did_you_mean,
    group_name,
    kind_name,
    list_of,
    namespace_name,
    object_name,
    port_number,
    string_map,
    struct,
    text,
    unique,
    word,
)
from pools.manifests.meta import Meta
from pools.model import (
    AllowedRoutes,
    CertificateRef,
    Gateway,
    GatewayClass,
    GatewayListener,
    LabelOperator,
    LabelRequirement,
    LabelSelector,
    ListenerProblem,
    ListenerProtocol,
    NamespacesFrom,
    ObjectName,
    ReferenceGrant,
)
from pools.well_known import GATEWAY_GROUP

T = TypeVar("T")
Build = Callable[[Fields], T]
"""What :func:`struct` makes a reader of."""

_HOSTNAME = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PROTOCOL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(/[A-Za-z0-9]+)?")
_OPERATORS = [*map(str, LabelOperator)]
_NO_CLIENT_CHECK = "clients would not be asked for certificates, which is not supported"

section_name = text("a listener's name", re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"), high=253)
hostname = text("a host name, which may start with '*.'", _HOSTNAME, high=253)
_controller = text(
    "a controller's name such as example.com/gateway", re.compile(r"[^/\s]+/\S+"), high=253
)


def gateway(meta: Meta, spec: Fields) -> Gateway:
    class_name = spec.required("gatewayClassName", object_name)
    spec.known("infrastructure", "allowedListeners", "defaultScope")
    spec.without_effect("addresses", "Envoy listens at the addresses of its own pods or hosts")
    spec.without_effect("backendTLS", "backends are spoken to in plain text")
    listeners_at = spec.get("listeners")
    namespace = meta.name.namespace
    listeners = spec.required(
        "listeners", list_of(struct(lambda one: _listener(namespace, one)), 1, 64)
    )
    unique(listeners_at, [listener.name for listener in listeners], "listener names")
    problem = spec.optional("tls", struct(_tls_of_gateway), None)
    if problem is not None:
        listeners = tuple(_with(listener, problem) for listener in listeners)
    return Gateway(meta.name, listeners, meta.origin, class_name)


def _tls_of_gateway(fields: Fields) -> ListenerProblem | None:
    fields.without_effect("backend", "backends are spoken to in plain text")
    frontend = fields.get("frontend")
    if frontend is None:
        return None
    faults = _Faults()
    faults.add(frontend, "UnsupportedValue", _NO_CLIENT_CHECK)
    return faults.first


def _with(listener: GatewayListener, problem: ListenerProblem) -> GatewayListener:
    """What concerns clients' certificates concerns HTTPS alone."""
    if listener.protocol is not ListenerProtocol.HTTPS or listener.problem is not None:
        return listener
    return replace(listener, problem=problem)


class _Faults:
    """Why a listener cannot be served. The first reason is its problem, all are told."""

    def __init__(self) -> None:
        self.first: ListenerProblem | None = None

    def add(self, place: Place, reason: str, message: str) -> None:
        place.refuse(f"{message}; the listener is not served")
        if self.first is None:
            self.first = ListenerProblem(reason, f"{place.path}: {message}")


def gateway_class(meta: Meta, spec: Fields) -> GatewayClass:
    spec.known("parametersRef", "description")
    return GatewayClass(meta.name, spec.required("controllerName", _controller), meta.origin)


def _listener(namespace: str, fields: Fields) -> GatewayListener:
    faults = _Faults()
    name = fields.required("name", section_name)
    port = fields.required("port", port_number)
    protocol = fields.required("protocol", text("a protocol", _PROTOCOL, high=255))
    host = fields.optional("hostname", hostname, None)
    allowed = fields.optional("allowedRoutes", struct(_allowed_routes(faults)), AllowedRoutes())
    tls_at = fields.get("tls")
    if protocol == ListenerProtocol.HTTPS:
        certificates = fields.optional("tls", struct(_tls(namespace, faults)), ())
        if not certificates:
            faults.add(fields.at("tls"), "Invalid", "HTTPS needs certificateRefs")
        return GatewayListener(
            name, port, ListenerProtocol.HTTPS, host, certificates, allowed, faults.first
        )
    if protocol != ListenerProtocol.HTTP:
        protocols = [known.value for known in ListenerProtocol]
        message = f"{protocol} is neither HTTP nor HTTPS{did_you_mean(protocol, protocols)}"
        faults.add(fields.at("protocol"), "UnsupportedProtocol", message)
    elif tls_at is not None:
        faults.add(tls_at, "Invalid", "HTTP has no TLS: make the protocol HTTPS")
    return GatewayListener(
        name, port, ListenerProtocol.HTTP, host, allowed=allowed, problem=faults.first
    )


def _tls(namespace: str, faults: _Faults) -> Build[tuple[CertificateRef, ...]]:
    def build(fields: Fields) -> tuple[CertificateRef, ...]:
        if fields.optional("mode", word("Terminate", "Passthrough"), "Terminate") != "Terminate":
            message = "Passthrough is not supported: requests must be read to be routed"
            faults.add(fields.at("mode"), "UnsupportedValue", message)
        fields.without_effect("options", "none is known")
        client_check = fields.get("frontendValidation")
        if client_check is not None:
            faults.add(client_check, "UnsupportedValue", _NO_CLIENT_CHECK)
        return fields.optional(
            "certificateRefs", list_of(struct(lambda ref: _certificate(namespace, ref)), 0, 64), ()
        )

    return build


def _certificate(namespace: str, ref: Fields) -> CertificateRef:
    group = ref.optional("group", group_name, "")
    kind = ref.optional("kind", kind_name, "Secret")
    name = ObjectName(
        ref.optional("namespace", namespace_name, namespace), ref.required("name", object_name)
    )
    if (group, kind) == ("", "Secret"):
        return CertificateRef(name)
    unknown = f"{group}/{kind}" if group else kind
    ref.place.refuse(f"must name a Secret, not {unknown}; it is left out")
    return CertificateRef(name, unknown)


def _allowed_routes(faults: _Faults) -> Build[AllowedRoutes]:
    def build(fields: Fields) -> AllowedRoutes:
        source, selector = fields.optional(
            "namespaces", struct(_namespaces(faults)), (NamespacesFrom.SAME, LabelSelector())
        )
        kinds_at = fields.get("kinds")
        kinds = fields.optional("kinds", list_of(struct(_route_kind), 0, 8), ())
        others = tuple(f"{group}/{kind}" for group, kind in kinds if (group, kind) != _HTTP_ROUTE)
        if kinds_at is not None and others:
            kinds_at.refuse(f"names {', '.join(others)}, but only HTTPRoute is supported")
        return AllowedRoutes(source, selector, not kinds or _HTTP_ROUTE in kinds, others)

    return build


_HTTP_ROUTE = (GATEWAY_GROUP, "HTTPRoute")


def _route_kind(fields: Fields) -> tuple[str, str]:
    return fields.optional("group", group_name, GATEWAY_GROUP), fields.required("kind", kind_name)


def _namespaces(faults: _Faults) -> Build[tuple[NamespacesFrom, LabelSelector]]:
    def build(fields: Fields) -> tuple[NamespacesFrom, LabelSelector]:
        source = fields.optional("from", choice(NamespacesFrom), NamespacesFrom.SAME)
        selector = fields.optional("selector", struct(_label_selector(faults)), None)
        if source is NamespacesFrom.SELECTOR and selector is None:
            message = "is required, since namespaces are chosen by it"
            faults.add(fields.at("selector"), "Invalid", message)
        return source, selector or LabelSelector()

    return build


def _label_selector(faults: _Faults) -> Build[LabelSelector]:
    def build(fields: Fields) -> LabelSelector:
        equal = fields.optional("matchLabels", string_map, {})
        others = fields.optional("matchExpressions", list_of(struct(_requirement(faults))), ())
        return LabelSelector.of(equal, filter(None, others))

    return build


def _requirement(faults: _Faults) -> Build[LabelRequirement | None]:
    """The API does not check these, so a wrong one must not cost the whole Gateway."""

    def build(fields: Fields) -> LabelRequirement | None:
        key = fields.required("key", text("a label's key", high=317))
        operator = fields.required("operator", text("an operator", high=63))
        values = fields.optional("values", list_of(_label_value), ())
        if operator not in _OPERATORS:
            message = f"{operator!r} is no operator{did_you_mean(operator, _OPERATORS)}"
            faults.add(fields.at("operator"), "Invalid", message)
        elif (needed := LabelOperator(operator).needs_values) != bool(values):
            message = f"{operator} {'needs' if needed else 'takes no'} values"
            faults.add(fields.at("values"), "Invalid", message)
        else:
            return LabelRequirement(key, LabelOperator(operator), values)
        return None

    return build


def _label_value(place: Place) -> str:
    if place.node.value == "":
        return ""
    return text("a label's value")(place)


def reference_grant(meta: Meta, spec: Fields) -> ReferenceGrant:
    return ReferenceGrant(
        meta.name,
        spec.required("from", list_of(struct(_source), 1, 16)),
        spec.required("to", list_of(struct(_target), 1, 16)),
        meta.origin,
    )


def _source(fields: Fields) -> tuple[str, str, str]:
    return (
        fields.required("group", group_name),
        fields.required("kind", kind_name),
        fields.required("namespace", namespace_name),
    )


def _target(fields: Fields) -> tuple[str, str, str | None]:
    name = fields.optional("name", text("a name", high=253), None)
    return fields.required("group", group_name), fields.required("kind", kind_name), name
