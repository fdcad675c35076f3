"""Each field of a World is changed in turn: what depends on it changes, and nothing is stale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from pools.attachment import Attacher, Attachments, attach
from pools.kubernetes.status.composition import compose
from pools.kubernetes.status.events import grievances
from pools.kubernetes.status.inputs import StatusInputs
from pools.model import (
    AbsentEndpoint,
    AllowedRoutes,
    BackendKind,
    CertificateRef,
    Endpoint,
    Gateway,
    GatewayClass,
    GatewayListener,
    HTTPRoute,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    InferencePool,
    LabelOperator,
    LabelRequirement,
    LabelSelector,
    ListenerProtocol,
    NamespacesFrom,
    ObjectName,
    Origin,
    ParentRef,
    PickerRef,
    Problem,
    ReferenceGrant,
    RouteBackend,
    RouteMatch,
    RouteRule,
    Service,
    ServicePort,
    Severity,
    TlsCertificate,
    World,
)
from xds.provider import WorldProvider
from xds.translate import ALL, TranslateSettings, Translator, translate

GATEWAY = ObjectName("infra", "gateway")
ROUTE = ObjectName("models", "llm")
POOL = ObjectName("models", "llama")
WEB = ObjectName("models", "web")
CERTIFICATE = ObjectName("certs", "tls")
MISSING = ObjectName("infra", "missing")
NOT_GRANTED = ObjectName("others", "tls")


def origin(kind: str, name: ObjectName) -> Origin:
    return Origin(kind, name, "kubernetes", uid=f"{kind}/{name}", generation=1)


def https(name: str, *certificates: ObjectName) -> GatewayListener:
    return GatewayListener(
        name,
        443,
        ListenerProtocol.HTTPS,
        f"{name}.example.com",
        tuple(map(CertificateRef, certificates)),
        AllowedRoutes(
            NamespacesFrom.SELECTOR,
            LabelSelector((LabelRequirement("team", LabelOperator.IN, ("llm",)),)),
        ),
    )


CHAT = Gateway(
    GATEWAY,
    (https("chat", CERTIFICATE), https("lost", MISSING, NOT_GRANTED)),
    origin("Gateway", GATEWAY),
    "poolpilot",
)
POOL_AND_WEB = RouteRule(
    (RouteMatch(),),
    (RouteBackend(POOL), RouteBackend(WEB, BackendKind.SERVICE, port=80)),
)
LLM = HTTPRoute(
    ROUTE, (), (ParentRef(GATEWAY),), (POOL_AND_WEB,), origin=origin("HTTPRoute", ROUTE)
)
LLAMA = InferencePool(
    POOL, (8000,), {"app": "llama"}, PickerRef("epp", 9002), origin=origin("InferencePool", POOL)
)
CLASS = ObjectName("", "poolpilot")
BASE = World(
    revision=1,
    pools={POOL: LLAMA},
    endpoints={POOL: (Endpoint("10.0.0.1", 8000, "pod-1"),)},
    routes=(LLM,),
    gateways=(CHAT,),
    gateway_classes=(
        GatewayClass(CLASS, "poolpilot.dev/gateway-controller", origin("GatewayClass", CLASS)),
    ),
    certificates={CERTIFICATE: TlsCertificate(CERTIFICATE, b"chain", b"key")},
    services={
        WEB: Service(WEB, (ServicePort(80, addresses=(("10.0.1.1", 8080),)),)),
        ObjectName("models", "epp"): Service(
            ObjectName("models", "epp"), (ServicePort(9002, addresses=(("10.0.2.1", 9002),)),)
        ),
    },
    grants=(
        ReferenceGrant(
            ObjectName("certs", "grant"),
            (("gateway.networking.k8s.io", "Gateway", "infra"),),
            (("", "Secret", None),),
        ),
    ),
    namespaces={"models": {"team": "llm"}},
    of_cluster=True,
)

ATTACHMENTS, CONFIGURATION, STATUS = "attachments", "configuration", "status"
EVERYTHING = {ATTACHMENTS, CONFIGURATION, STATUS}
CHANGES: dict[str, tuple[Any, set[str]]] = {
    "revision": (2, set()),
    "pools": ({}, EVERYTHING),
    "endpoints": ({}, {CONFIGURATION}),
    # What only the endpoint picker reads.
    "models": ((InferenceModel(ObjectName("models", "m"), POOL, "m"),), set()),
    "objectives": ((InferenceObjective(ObjectName("models", "o"), POOL, 1),), set()),
    "rewrites": ((InferenceModelRewrite(ObjectName("models", "r"), POOL, ()),), set()),
    "routes": ((replace(LLM, hostnames=("elsewhere.org",)),), EVERYTHING),
    "gateways": ((replace(CHAT, listeners=CHAT.listeners[:1]),), EVERYTHING),
    "problems": ((Problem(Severity.WARNING, "is doubtful", LLAMA.origin),), {STATUS}),
    # What only pages show.
    "endpoint_origins": ({"10.0.0.1:8000": origin("Pod", ObjectName("models", "pod-1"))}, set()),
    "absent": ((AbsentEndpoint("pod-2", "not Ready", POOL),), set()),
    "gateway_classes": ((), {STATUS}),
    "certificates": ({}, EVERYTHING),
    "services": ({}, EVERYTHING),
    "grants": ((), EVERYTHING),
    "namespaces": ({"models": {}}, EVERYTHING),
    "of_cluster": (False, EVERYTHING),
    "unread": (frozenset({"Secret"}), EVERYTHING),
}


def test_every_field_has_a_case() -> None:
    assert CHANGES.keys() == {field.name for field in fields(World)}


def attachments(*worlds: World) -> Attachments:
    attacher = Attacher()
    return [attacher.attach(world).attachments for world in worlds][-1]


def configuration(*worlds: World) -> object:
    provider = WorldProvider(Translator(TranslateSettings()))
    for world in worlds:
        provider.offer(world)
    [variant] = provider.variants()
    assert variant.snapshot is not None
    assert not variant.problem
    return variant.snapshot.version, variant.snapshot.notes


def status(*worlds: World) -> object:
    attacher = Attacher()
    inputs: StatusInputs | None = None
    told: object = None
    for world in worlds:
        newest = StatusInputs.of(attacher.attach(world))
        if newest != inputs:
            inputs, told = newest, (compose(newest), grievances(newest))
    return told


VIEWS: dict[str, Callable[..., object]] = {
    ATTACHMENTS: attachments,
    CONFIGURATION: configuration,
    STATUS: status,
}


@pytest.mark.parametrize("field", CHANGES)
def test_what_depends_on_a_field_changes_with_it_and_nothing_else(field: str) -> None:
    value, expected = CHANGES[field]
    changed = replace(BASE, **{field: value})
    assert changed != BASE
    assert {what for what, view in VIEWS.items() if view(changed) != view(BASE)} == expected


@pytest.mark.parametrize("field", CHANGES)
def test_what_is_remembered_of_the_world_before_makes_no_difference(field: str) -> None:
    changed = replace(BASE, **{field: CHANGES[field][0]})
    for view in VIEWS.values():
        assert view(BASE, changed) == view(changed)
        assert view(BASE, changed, BASE) == view(BASE)


def test_that_world_serves_what_it_describes() -> None:
    """Or none of its fields would matter."""
    attached = attach(BASE).attachments
    assert [one.served for one in attached.gateways[GATEWAY].listeners] == [True, False]
    assert attached.routes[ROUTE].sections(GATEWAY) == {"chat"}
    assert attached.pools[POOL].picker is not None
    assert translate(BASE, gateway=CHAT, features=ALL).resources
