"""Who belongs to whom, as the Gateway API tells it: conditions, reasons, and what is served."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pools.attachment import AttachedParent, Attacher, Condition, ServiceRef, attach
from pools.model import (
    AllowedRoutes,
    BackendKind,
    CertificateRef,
    Filters,
    Gateway,
    GatewayListener,
    HeaderChanges,
    HTTPRoute,
    InferencePool,
    LabelOperator,
    LabelRequirement,
    LabelSelector,
    ListenerProblem,
    ListenerProtocol,
    NamespacesFrom,
    ObjectName,
    Origin,
    ParentRef,
    PathChange,
    PathChangeType,
    PathMatch,
    PathMatchType,
    PickerRef,
    Redirect,
    ReferenceGrant,
    RouteBackend,
    RouteMatch,
    RouteRule,
    Service,
    ServicePort,
    TlsCertificate,
    UrlRewrite,
    World,
)

GATEWAY = ObjectName("infra", "gateway")
POOL = ObjectName("models", "llama")
ROUTE = ObjectName("models", "llm")
ALL = AllowedRoutes(NamespacesFrom.ALL)
GROUP = "gateway.networking.k8s.io"
HTTP = GatewayListener("http", 80, allowed=ALL)
HTTPS = GatewayListener(
    "https",
    443,
    ListenerProtocol.HTTPS,
    certificates=(CertificateRef(ObjectName("infra", "tls")),),
    allowed=ALL,
)
TLS = TlsCertificate(ObjectName("infra", "tls"), b"chain", b"key")


def a_route(*backends: RouteBackend, name: ObjectName = ROUTE, **fields: Any) -> HTTPRoute:
    fields.setdefault("parents", (ParentRef(GATEWAY),))
    return HTTPRoute(name, rules=(RouteRule(backends=backends or (RouteBackend(POOL),)),), **fields)


def a_pool(name: ObjectName = POOL, picker: PickerRef | None = None) -> InferencePool:
    return InferencePool(name, (8000,), {"app": "llama"}, picker)


def a_world(*listeners: GatewayListener, routes: tuple[HTTPRoute, ...] = (), **rest: Any) -> World:
    rest.setdefault("pools", {POOL: a_pool()})
    rest.setdefault("of_cluster", True)
    gateway = Gateway(GATEWAY, listeners or (HTTP,))
    return World(gateways=(gateway,), routes=routes or (a_route(),), **rest)


def the(conditions: tuple[Condition, ...], kind: str) -> tuple[bool, str]:
    [found] = [one for one in conditions if one.type == kind]
    return found.status, found.reason


def told(conditions: tuple[Condition, ...], kind: str) -> str:
    [found] = [one for one in conditions if one.type == kind]
    return found.message


def parent_of(world: World, route: ObjectName = ROUTE) -> AttachedParent:
    [parent] = attach(world).attachments.routes[route].parents
    return parent


class TestListeners:
    def listeners(self, *listeners: GatewayListener, **rest: Any) -> dict[str, Any]:
        attached = attach(a_world(*listeners, **rest)).attachments.gateways[GATEWAY]
        return {one.listener.name: one for one in attached.listeners}

    def test_one_that_is_well_is_served_and_says_so(self) -> None:
        one = self.listeners(HTTP)["http"]
        assert one.served
        assert the(one.conditions, "Accepted") == (True, "Accepted")
        assert the(one.conditions, "Programmed") == (True, "Programmed")
        assert the(one.conditions, "ResolvedRefs") == (True, "ResolvedRefs")
        assert the(one.conditions, "Conflicted") == (False, "NoConflicts")

    def test_of_two_with_one_port_and_hostname_neither_is_served(self) -> None:
        found = self.listeners(
            replace(HTTP, name="a", hostname="x.example.com"),
            replace(HTTP, name="b", hostname="X.example.com"),
            replace(HTTP, name="c", hostname="y.example.com"),
        )
        for name in "ab":
            assert not found[name].served
            assert the(found[name].conditions, "Conflicted") == (True, "HostnameConflict")
            assert the(found[name].conditions, "Accepted") == (False, "HostnameConflict")
            assert "x.example.com" in told(found[name].conditions, "Conflicted").lower()
        assert found["c"].served

    def test_http_and_https_cannot_share_a_port(self) -> None:
        found = self.listeners(replace(HTTP, port=443), HTTPS, certificates={TLS.name: TLS})
        for one in found.values():
            assert not one.served
            assert the(one.conditions, "Conflicted") == (True, "ProtocolConflict")
            assert "443" in told(one.conditions, "Conflicted")

    def test_what_no_listener_can_be_takes_no_place_from_another(self) -> None:
        tcp = replace(HTTP, name="tcp", problem=ListenerProblem("UnsupportedProtocol", "TCP"))
        found = self.listeners(HTTP, tcp)
        assert found["http"].served
        assert not found["tcp"].served
        assert the(found["tcp"].conditions, "Accepted") == (False, "UnsupportedProtocol")

    def test_https_shows_its_certificate(self) -> None:
        one = self.listeners(HTTPS, certificates={TLS.name: TLS})["https"]
        assert one.served
        assert one.certificates == (TLS,)

    @pytest.mark.parametrize(
        ("certificates", "says"),
        [
            ({}, "there is no Secret infra/tls"),
            ({TLS.name: TlsCertificate(TLS.name, b"", b"", "tls.key is not PEM")}, "is not PEM"),
        ],
    )
    def test_https_without_a_certificate_is_not_served(
        self, certificates: dict[ObjectName, TlsCertificate], says: str
    ) -> None:
        one = self.listeners(HTTPS, certificates=certificates)["https"]
        assert not one.served
        assert the(one.conditions, "Accepted") == (True, "Accepted")
        assert the(one.conditions, "ResolvedRefs") == (False, "InvalidCertificateRef")
        assert the(one.conditions, "Programmed") == (False, "Invalid")
        assert says in told(one.conditions, "ResolvedRefs")
        assert "tls.certificateRefs[0]" in told(one.conditions, "ResolvedRefs")

    def test_that_secrets_may_not_be_read_is_said_instead_of_that_there_are_none(self) -> None:
        one = self.listeners(HTTPS, unread=frozenset({"Secret"}))["https"]
        assert "may not be read" in told(one.conditions, "ResolvedRefs")

    def test_a_certificate_of_another_kind_is_refused(self) -> None:
        ref = CertificateRef(TLS.name, "example.com/Vault")
        one = self.listeners(replace(HTTPS, certificates=(ref,)))["https"]
        assert the(one.conditions, "ResolvedRefs") == (False, "InvalidCertificateRef")
        assert "example.com/Vault" in told(one.conditions, "ResolvedRefs")

    def test_one_bad_certificate_of_two_does_not_stop_the_listener(self) -> None:
        both = (CertificateRef(ObjectName("infra", "gone")), CertificateRef(TLS.name))
        listener = replace(HTTPS, certificates=both)
        one = self.listeners(listener, certificates={TLS.name: TLS})["https"]
        assert one.served
        assert one.certificates == (TLS,)
        assert the(one.conditions, "ResolvedRefs") == (False, "InvalidCertificateRef")

    def test_a_certificate_of_another_namespace_needs_a_grant(self) -> None:
        foreign = TlsCertificate(ObjectName("secrets", "tls"), b"chain", b"key")
        listener = replace(HTTPS, certificates=(CertificateRef(foreign.name),))
        grant = ReferenceGrant(
            ObjectName("secrets", "grant"), ((GROUP, "Gateway", "infra"),), (("", "Secret", "tls"),)
        )
        certificates = {foreign.name: foreign}
        one = self.listeners(listener, certificates=certificates)["https"]
        assert not one.served
        assert the(one.conditions, "ResolvedRefs") == (False, "RefNotPermitted")
        one = self.listeners(listener, certificates=certificates, grants=(grant,))["https"]
        assert one.served
        other = replace(grant, targets=(("", "Secret", "another"),))
        assert not self.listeners(listener, certificates=certificates, grants=(other,))[
            "https"
        ].served

    def test_kinds_of_routes_that_are_none_of_ours_are_refused_and_http_routes_served(self) -> None:
        allowed = AllowedRoutes(NamespacesFrom.ALL, unknown_kinds=(f"{GROUP}/TCPRoute",))
        one = self.listeners(replace(HTTP, allowed=allowed))["http"]
        assert one.served
        assert the(one.conditions, "ResolvedRefs") == (False, "InvalidRouteKinds")

    def test_a_gateway_counts_as_valid_while_one_listener_is(self) -> None:
        bad = replace(HTTP, name="tcp", problem=ListenerProblem("UnsupportedProtocol", "TCP"))
        some = attach(a_world(HTTP, bad)).attachments.gateways[GATEWAY].conditions
        assert the(some, "Accepted") == (True, "ListenersNotValid")
        assert the(some, "Programmed") == (True, "Programmed")
        assert "tcp" in told(some, "Accepted")
        none = attach(a_world(bad)).attachments.gateways[GATEWAY].conditions
        assert the(none, "Accepted") == (False, "ListenersNotValid")
        assert the(none, "Programmed") == (False, "Invalid")

    def test_attached_routes_are_counted_whether_the_listener_is_served_or_not(self) -> None:
        routes = (
            a_route(),
            a_route(name=ObjectName("models", "two"), parents=(ParentRef(GATEWAY, "http"),)),
            a_route(name=ObjectName("models", "far"), parents=(ParentRef(GATEWAY, "nope"),)),
        )
        found = self.listeners(HTTP, HTTPS, routes=routes)
        assert found["http"].routes == 2
        assert not found["https"].served
        assert found["https"].routes == 1


class TestRoutes:
    def test_one_that_is_well_is_served_by_every_listener_of_its_gateway(self) -> None:
        world = a_world(HTTP, replace(HTTP, name="other", port=81))
        parent = parent_of(world)
        assert the(parent.conditions, "Accepted") == (True, "Accepted")
        assert the(parent.conditions, "ResolvedRefs") == (True, "ResolvedRefs")
        assert attach(world).attachments.routes[ROUTE].sections(GATEWAY) == {"http", "other"}

    def test_gateways_of_others_are_not_spoken_of(self) -> None:
        theirs = ParentRef(ObjectName("infra", "theirs"))
        route = a_route(parents=(theirs, ParentRef(GATEWAY)))
        assert parent_of(a_world(routes=(route,))).parent == ParentRef(GATEWAY)
        alone = attach(a_world(routes=(a_route(parents=(theirs,)),))).attachments.routes[ROUTE]
        assert alone.parents == ()
        assert (
            attach(a_world(routes=(a_route(parents=()),))).attachments.routes[ROUTE].parents == ()
        )

    @pytest.mark.parametrize("ref", [ParentRef(GATEWAY, "nope"), ParentRef(GATEWAY, None, 8443)])
    def test_a_section_or_port_that_is_not_there(self, ref: ParentRef) -> None:
        parent = parent_of(a_world(routes=(a_route(parents=(ref,)),)))
        assert the(parent.conditions, "Accepted") == (False, "NoMatchingParent")
        assert "it has http (port 80)" in told(parent.conditions, "Accepted")
        assert parent.sections == frozenset()

    def test_a_hostname_that_no_listener_has(self) -> None:
        listener = replace(HTTP, hostname="*.example.com")
        route = a_route(hostnames=("example.org",))
        parent = parent_of(a_world(listener, routes=(route,)))
        assert the(parent.conditions, "Accepted") == (False, "NoMatchingListenerHostname")
        assert "*.example.com" in told(parent.conditions, "Accepted")
        route = a_route(hostnames=("example.org", "LLM.example.com"))
        assert parent_of(a_world(listener, routes=(route,))).sections == {"http"}

    @pytest.mark.parametrize(
        ("allowed", "serves"),
        [
            (AllowedRoutes(NamespacesFrom.SAME), False),
            (AllowedRoutes(NamespacesFrom.ALL), True),
            (AllowedRoutes(NamespacesFrom.NONE), False),
            (AllowedRoutes(NamespacesFrom.ALL, http_routes=False), False),
            (
                AllowedRoutes(
                    NamespacesFrom.SELECTOR,
                    LabelSelector((LabelRequirement("team", LabelOperator.IN, ("llm",)),)),
                ),
                True,
            ),
            (
                AllowedRoutes(
                    NamespacesFrom.SELECTOR,
                    LabelSelector((LabelRequirement("team", LabelOperator.NOT_IN, ("llm",)),)),
                ),
                False,
            ),
        ],
    )
    def test_who_may_attach_is_the_listeners_word(
        self, allowed: AllowedRoutes, serves: bool
    ) -> None:
        world = a_world(replace(HTTP, allowed=allowed), namespaces={"models": {"team": "llm"}})
        parent = parent_of(world)
        reason = "Accepted" if serves else "NotAllowedByListeners"
        assert the(parent.conditions, "Accepted") == (serves, reason)

    def test_a_listener_that_is_not_served_takes_the_route_and_says_so(self) -> None:
        parent = parent_of(a_world(HTTPS))
        assert the(parent.conditions, "Accepted") == (True, "Accepted")
        assert "https" in told(parent.conditions, "Accepted")
        assert parent.sections == frozenset()

    def test_a_filter_that_we_have_not_refuses_the_route_if_every_rule_has_one(self) -> None:
        mirror = RouteRule(
            backends=(RouteBackend(POOL),), filters=Filters(unsupported=("RequestMirror",))
        )
        route = replace(a_route(), rules=(mirror,))
        attached = attach(a_world(routes=(route,))).attachments.routes[ROUTE]
        [parent] = attached.parents
        assert the(parent.conditions, "Accepted") == (False, "UnsupportedValue")
        assert "spec.rules[0].filters: RequestMirror" in told(parent.conditions, "Accepted")
        assert attached.sections(GATEWAY) == frozenset()

    def test_and_only_the_rule_if_others_have_none(self) -> None:
        plain = RouteRule(backends=(RouteBackend(POOL),))
        both = replace(
            plain, filters=Filters(redirect=Redirect(hostname="x"), rewrite=UrlRewrite("y"))
        )
        attached = attach(
            a_world(routes=(replace(a_route(), rules=(plain, both)),))
        ).attachments.routes[ROUTE]
        [parent] = attached.parents
        assert the(parent.conditions, "Accepted") == (True, "Accepted")
        assert the(parent.conditions, "PartiallyInvalid") == (True, "IncompatibleFilters")
        assert told(parent.conditions, "PartiallyInvalid").startswith("Dropped Rule")
        assert list(attached.refused) == [1]
        assert attached.sections(GATEWAY) == {"http"}

    @pytest.mark.parametrize(
        ("filters", "says"),
        [
            (Filters(request_headers=HeaderChanges(remove=("Host",))), "Host can only be set"),
            (Filters(response_headers=HeaderChanges(set=(("x y", "z"),))), "'x y' is not a header"),
            (Filters(response_headers=HeaderChanges(add=(("x", "\n"),))), "value of the header x"),
            (Filters(redirect=Redirect(status=305)), "cannot have the status 305"),
            (
                Filters(rewrite=UrlRewrite(path=PathChange(PathChangeType.FULL, "x"))),
                "begin with /",
            ),
            (
                Filters(rewrite=UrlRewrite(path=PathChange(PathChangeType.PREFIX, "/x"))),
                "needs a match of type PathPrefix",
            ),
        ],
    )
    def test_a_filter_that_cannot_be_applied_is_told(self, filters: Filters, says: str) -> None:
        exact = RouteMatch(PathMatch(PathMatchType.EXACT, "/v1"))
        rule = RouteRule((exact,), (RouteBackend(POOL),), filters=filters)
        parent = parent_of(a_world(routes=(replace(a_route(), rules=(rule,)),)))
        assert the(parent.conditions, "Accepted") == (False, "UnsupportedValue")
        assert says in told(parent.conditions, "Accepted")

    def test_a_backends_filter_that_we_have_not_costs_its_share_alone(self) -> None:
        odd = RouteBackend(POOL, filters=Filters(unsupported=("RequestMirror",)))
        route = a_route(RouteBackend(POOL), odd)
        attached = attach(a_world(routes=(route,))).attachments.routes[ROUTE]
        assert list(attached.lost) == [odd]
        assert the(attached.parents[0].conditions, "PartiallyInvalid")[1] == "UnsupportedValue"


SERVICE = ObjectName("models", "web")
WEB = Service(
    SERVICE,
    (
        ServicePort(80),
        ServicePort(443, app_protocol="https"),
        ServicePort(81, app_protocol="kubernetes.io/h2c"),
        ServicePort(82, app_protocol="kubernetes.io/wss"),
        ServicePort(83, app_protocol="example.com/mine"),
    ),
)


def to_web(port: int | None = 80, name: ObjectName = SERVICE) -> RouteBackend:
    return RouteBackend(name, BackendKind.SERVICE, port=port)


class TestBackends:
    def refusal(self, backend: RouteBackend, **rest: Any) -> str:
        """The reason of ResolvedRefs; empty: it is well."""
        rest.setdefault("services", {SERVICE: WEB})
        attached = attach(a_world(routes=(a_route(backend),), **rest)).attachments.routes[ROUTE]
        [parent] = attached.parents
        status, reason = the(parent.conditions, "ResolvedRefs")
        assert the(parent.conditions, "Accepted") == (True, "Accepted")
        assert status == (backend not in attached.lost)
        if not status:
            message = told(parent.conditions, "ResolvedRefs")
            assert message == f"spec.rules[0].backendRefs[0]: {attached.lost[backend]}"
        return "" if status else reason

    def test_kinds_that_are_no_backends(self) -> None:
        odd = RouteBackend(POOL, unknown_kind="storage.example.com/Bucket")
        assert self.refusal(odd) == "InvalidKind"

    def test_pools_and_services_that_do_not_exist(self) -> None:
        assert self.refusal(RouteBackend(ObjectName("models", "gone"))) == "BackendNotFound"
        assert self.refusal(to_web(name=ObjectName("models", "gone"))) == "BackendNotFound"

    @pytest.mark.parametrize(
        ("port", "reason"),
        [
            (80, ""),
            (81, ""),
            (83, ""),
            (82, "UnsupportedProtocol"),
            (443, "UnsupportedProtocol"),
            (9999, "BackendNotFound"),
            (None, "BackendNotFound"),
        ],
    )
    def test_ports_of_services(self, port: int | None, reason: str) -> None:
        assert self.refusal(to_web(port)) == reason

    def test_nothing_is_sent_to_an_external_name(self) -> None:
        external = {SERVICE: replace(WEB, external=True)}
        assert self.refusal(to_web(), services=external) == "UnsupportedValue"

    def test_what_may_not_be_read_is_believed_to_be_there(self) -> None:
        assert self.refusal(to_web(), services={}, unread=frozenset({"Service"})) == ""

    @pytest.mark.parametrize(
        ("grant", "permits"),
        [
            (None, False),
            ((("HTTPRoute", "models"), ("inference.networking.k8s.io", None)), True),
            ((("HTTPRoute", "models"), ("inference.networking.k8s.io", "shared")), True),
            ((("HTTPRoute", "models"), ("inference.networking.k8s.io", "other")), False),
            ((("HTTPRoute", "models"), ("inference.networking.x-k8s.io", None)), False),
            ((("HTTPRoute", "others"), ("inference.networking.k8s.io", None)), False),
            ((("GRPCRoute", "models"), ("inference.networking.k8s.io", None)), False),
        ],
    )
    def test_pools_of_other_namespaces_need_a_grant(self, grant: Any, permits: bool) -> None:
        shared = ObjectName("shared", "shared")
        origin = Origin("InferencePool", shared, api_version="inference.networking.k8s.io/v1")
        grants: tuple[ReferenceGrant, ...] = ()
        if grant is not None:
            (kind, namespace), (group, name) = grant
            grants = (
                ReferenceGrant(
                    ObjectName("shared", "grant"),
                    ((GROUP, kind, namespace),),
                    ((group, "InferencePool", name),),
                ),
            )
        pools = {shared: replace(a_pool(shared), origin=origin)}
        reason = self.refusal(RouteBackend(shared), pools=pools, grants=grants)
        assert reason == ("" if permits else "RefNotPermitted")

    def test_a_grant_of_another_namespace_is_none(self) -> None:
        shared = ObjectName("shared", "web")
        grant = ReferenceGrant(
            ObjectName("elsewhere", "grant"),
            ((GROUP, "HTTPRoute", "models"),),
            (("", "Service", None),),
        )
        services = {shared: replace(WEB, name=shared)}
        given = {"services": services, "grants": (grant,)}
        assert self.refusal(to_web(name=shared), **given) == "RefNotPermitted"
        given["grants"] = (replace(grant, name=ObjectName("shared", "grant")),)
        assert self.refusal(to_web(name=shared), **given) == ""

    def test_whether_a_pool_exists_is_not_told_without_a_grant(self) -> None:
        assert self.refusal(RouteBackend(ObjectName("shared", "gone"))) == "RefNotPermitted"


class TestPools:
    def pool(self, picker: PickerRef | None = None, **rest: Any) -> Any:
        rest.setdefault("pools", {POOL: a_pool(picker=picker)})
        return attach(a_world(**rest)).attachments.pools[POOL]

    def test_a_pool_that_a_route_leads_to_is_accepted_by_the_gateway(self) -> None:
        found = self.pool()
        assert list(found.parents) == [GATEWAY]
        assert the(found.parents[GATEWAY], "Accepted") == (True, "Accepted")
        assert the(found.parents[GATEWAY], "ResolvedRefs") == (True, "ResolvedRefs")
        assert found.picker is None
        assert not found.invalid

    def test_a_pool_that_no_route_leads_to_has_no_parents(self) -> None:
        elsewhere = a_route(RouteBackend(ObjectName("models", "other")))
        assert self.pool(routes=(elsewhere,)).parents == {}

    def test_a_pool_whose_only_route_is_refused_says_so_until_another_is_accepted(self) -> None:
        refused = a_route(parents=(ParentRef(GATEWAY, "nope"),))
        found = self.pool(routes=(refused,))
        assert the(found.parents[GATEWAY], "Accepted") == (False, "HTTPRouteNotAccepted")
        good = a_route(name=ObjectName("models", "zz"))
        found = self.pool(routes=(refused, good))
        assert the(found.parents[GATEWAY], "Accepted") == (True, "Accepted")

    def test_a_route_that_may_not_name_a_pool_gives_it_no_parent(self) -> None:
        stranger = a_route(name=ObjectName("strangers", "llm"))
        assert self.pool(routes=(stranger,)).parents == {}

    @pytest.mark.parametrize(
        ("picker", "field"),
        [
            (PickerRef("gone", 9002), "spec.endpointPickerRef.name"),
            (PickerRef("external", 9002), "ExternalName"),
            (PickerRef("epp", 9999), "spec.endpointPickerRef.port.number"),
            (PickerRef("epp", 9002, "example.com", "Picker"), "example.com/Picker"),
        ],
    )
    def test_a_picker_that_cannot_be_had(self, picker: PickerRef, field: str) -> None:
        epp, external = ObjectName("models", "epp"), ObjectName("models", "external")
        ports = (ServicePort(9002),)
        services = {epp: Service(epp, ports), external: Service(external, ports, external=True)}
        found = self.pool(picker, services=services)
        assert the(found.parents[GATEWAY], "ResolvedRefs") == (False, "InvalidExtensionRef")
        assert the(found.parents[GATEWAY], "Accepted") == (True, "Accepted")
        assert field in found.invalid
        assert found.picker is None

    def test_somebody_elses_picker_is_named_to_the_translation(self) -> None:
        epp = ObjectName("models", "epp")
        services = {epp: Service(epp, (ServicePort(9002),))}
        assert self.pool(PickerRef("epp", 9002), services=services).picker == ServiceRef(epp, 9002)
        assert self.pool(PickerRef("epp"), services=services).picker == ServiceRef(epp, 9002)

    def test_our_own_picker_need_not_have_a_service_beside_the_pool(self) -> None:
        assert not self.pool(PickerRef("poolpilot-extproc", 9002)).invalid
        world = a_world(pools={POOL: a_pool(picker=PickerRef("mine", 9002))})
        assert attach(world).attachments.pools[POOL].invalid
        assert not attach(world, own_pickers={"mine"}).attachments.pools[POOL].invalid
        assert not attach(world, own_pickers={"models/mine"}).attachments.pools[POOL].invalid
        assert attach(world, own_pickers={"elsewhere/mine"}).attachments.pools[POOL].invalid


class TestFiles:
    """In a directory of manifests everything is one person's."""

    def test_everything_may_name_everything(self) -> None:
        shared = ObjectName("shared", "shared")
        route = a_route(RouteBackend(shared), to_web(), name=ObjectName("anywhere", "llm"))
        world = a_world(
            replace(HTTP, allowed=AllowedRoutes()),
            routes=(route,),
            pools={shared: a_pool(shared, PickerRef("unknown", 9002))},
            of_cluster=False,
        )
        attached = attach(world).attachments
        assert attached.routes[route.name].sections(GATEWAY) == {"http"}
        assert not attached.routes[route.name].lost
        assert attached.pools[shared].picker is None
        assert not attached.pools[shared].invalid

    def test_a_route_without_parents_belongs_to_every_gateway(self) -> None:
        route = a_route(parents=())
        world = replace(a_world(routes=(route,), of_cluster=False))
        second = Gateway(ObjectName("infra", "second"), (HTTP,))
        world = replace(world, gateways=(*world.gateways, second))
        attached = attach(world).attachments.routes[ROUTE]
        assert attached.sections(GATEWAY) == {"http"}
        assert attached.sections(second.name) == {"http"}

    def test_without_gateways_what_is_lost_is_still_known(self) -> None:
        world = replace(a_world(pools={}, of_cluster=False), gateways=())
        attached = attach(world).attachments
        assert attached.gateways == {}
        assert list(attached.routes[ROUTE].lost) == [RouteBackend(POOL)]


class TestSuccession:
    """What did not change is not made anew, and is never wrong for that."""

    def test_endpoints_that_come_and_go_change_nothing(self) -> None:
        attacher = Attacher()
        world = a_world(
            routes=(a_route(to_web()),), services={SERVICE: WEB}, namespaces={"models": {}}
        )
        first = attacher.attach(world).attachments
        moved = replace(
            WEB, ports=(replace(WEB.ports[0], addresses=(("10.0.0.1", 80),)), *WEB.ports[1:])
        )
        assert (
            attacher.attach(replace(world, revision=2, services={SERVICE: moved})).attachments
            is first
        )

    def test_every_change_that_matters_is_seen(self) -> None:
        attacher = Attacher()
        route = a_route(to_web(), hostnames=("a.example.com",))
        world = a_world(routes=(route,), services={SERVICE: WEB})
        steps = [
            world,
            replace(world, services={}),
            replace(world, services={SERVICE: replace(WEB, ports=WEB.ports[1:])}),
            replace(world, routes=(route, a_route(name=ObjectName("models", "two")))),
            replace(world, routes=(replace(route, hostnames=()),)),
            replace(world, pools={}),
            replace(world, services={}, unread=frozenset({"Service"})),
            replace(world, gateways=()),
            replace(world, gateways=(Gateway(GATEWAY, (replace(HTTP, hostname="b.c"),)),)),
            world,
        ]
        for step in [*steps, *reversed(steps)]:
            assert attacher.attach(step) == attach(step)
