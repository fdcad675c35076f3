"""What is put into the statuses of objects, and what of others is left as it is."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pools.attachment import Condition, attach
from pools.kubernetes.status.composition import FEATURES, compose
from pools.kubernetes.status.inputs import StatusInputs
from pools.kubernetes.status.reports import (
    ClassReport,
    GatewayReport,
    ListenerReport,
    Ours,
    PoolReport,
    RefusedRouteReport,
    Report,
    RouteReport,
)
from pools.kubernetes.status.target import Target
from pools.model import (
    AllowedRoutes,
    Gateway,
    GatewayClass,
    GatewayListener,
    HTTPRoute,
    InferencePool,
    NamespacesFrom,
    ObjectName,
    Origin,
    ParentRef,
    Problem,
    RouteBackend,
    RouteRule,
    Severity,
    World,
)

US = "poolpilot.dev/gateway-controller"
GATEWAY = ObjectName("infra", "gateway")
OURS = Ours(US, frozenset({"poolpilot"}), frozenset({GATEWAY}))
NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
GOOD = Condition("Accepted", True, "Accepted")
BAD = Condition("Accepted", False, "NoMatchingParent", "there is none")
ROUTE = {"metadata": {"namespace": "models", "name": "llm"}}


def written(report: Report, current: dict[str, Any], now: str = NOW) -> dict[str, Any]:
    """The object after the report was put into it."""
    patch = report.patch(current, OURS, now)
    return {**current, "status": {**(current.get("status") or {}), **(patch or {})}}


def route_report(*conditions: Condition, **parent: Any) -> RouteReport:
    return RouteReport("uid", 3, ((ParentRef(GATEWAY, **parent), conditions or (GOOD,)),))


class TestConditions:
    def test_one_keeps_its_time_until_its_status_flips(self) -> None:
        report = route_report(GOOD)
        first = written(report, ROUTE)
        [condition] = first["status"]["parents"][0]["conditions"]
        assert condition == {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "observedGeneration": 3,
            "lastTransitionTime": NOW,
        }
        told = written(route_report(replace(GOOD, message="more")), first, LATER)
        [condition] = told["status"]["parents"][0]["conditions"]
        assert (condition["message"], condition["lastTransitionTime"]) == ("more", NOW)
        [condition] = written(route_report(BAD), first, LATER)["status"]["parents"][0]["conditions"]
        assert (condition["status"], condition["lastTransitionTime"]) == ("False", LATER)

    def test_what_is_said_already_is_not_written_again(self) -> None:
        report = route_report(GOOD, Condition("ResolvedRefs", True, "ResolvedRefs"))
        said = written(report, ROUTE)
        assert report.patch(said, OURS, LATER) is None
        said["status"]["parents"][0]["conditions"].reverse()
        assert report.patch(said, OURS, LATER) is None

    def test_a_newer_generation_is_written(self) -> None:
        said = written(route_report(), ROUTE)
        assert replace(route_report(), generation=4).patch(said, OURS, LATER) is not None

    def test_a_huge_message_is_cut(self) -> None:
        report = route_report(replace(BAD, message="x" * 100_000))
        [condition] = written(report, ROUTE)["status"]["parents"][0]["conditions"]
        assert len(condition["message"]) == 32768

    def test_conditions_of_others_on_a_class_or_gateway_stay(self) -> None:
        theirs = {"type": "Audited", "status": "True", "reason": "X", "lastTransitionTime": NOW}
        pending = {"type": "Accepted", "status": "Unknown", "reason": "Pending"}
        current = {"status": {"conditions": [theirs, pending]}}
        after = written(ClassReport("uid", 1, (GOOD,), FEATURES), current, LATER)["status"]
        assert theirs in after["conditions"]
        assert pending not in after["conditions"]
        assert {"name": "InferencePool"} in after["supportedFeatures"]
        assert after["supportedFeatures"] == sorted(
            after["supportedFeatures"], key=lambda one: str(one["name"])
        )


class TestRoutes:
    def test_entries_of_other_controllers_stay_first_and_untouched(self) -> None:
        theirs = {
            "parentRef": {"name": "gateway", "namespace": "infra"},
            "controllerName": "example.com/theirs",
            "conditions": [{"type": "Accepted", "status": "True"}],
        }
        current = {**ROUTE, "status": {"parents": [theirs]}}
        parents = written(route_report(), current)["status"]["parents"]
        assert parents[0] == theirs
        assert [one["controllerName"] for one in parents] == ["example.com/theirs", US]

    def test_ours_goes_when_the_route_names_us_no_more(self) -> None:
        theirs = {"parentRef": {"name": "x"}, "controllerName": "example.com/theirs"}
        current = {**ROUTE, "status": {"parents": [theirs]}}
        both = written(route_report(), current)
        gone = written(RouteReport("uid", 4), both)
        assert gone["status"]["parents"] == [theirs]
        assert RouteReport("uid", 4).patch(ROUTE, OURS, NOW) is None

    def test_each_section_has_its_own_entry_and_its_own_times(self) -> None:
        one = (ParentRef(GATEWAY, "http"), (GOOD,))
        two = (ParentRef(GATEWAY, "https", 443), (BAD,))
        said = written(RouteReport("uid", 1, (one, two)), ROUTE)
        refs = [entry["parentRef"] for entry in said["status"]["parents"]]
        assert [ref.get("sectionName") for ref in refs] == ["http", "https"]
        assert refs[1]["port"] == 443
        flipped = RouteReport("uid", 1, ((one[0], (BAD,)), (two[0], (BAD,))))
        parents = written(flipped, said, LATER)["status"]["parents"]
        times = [entry["conditions"][0]["lastTransitionTime"] for entry in parents]
        assert times == [LATER, NOW]

    def test_the_list_does_not_grow_beyond_what_the_api_allows(self) -> None:
        theirs = [
            {"parentRef": {"name": f"g{i}"}, "controllerName": "example.com/theirs"}
            for i in range(31)
        ]
        current = {**ROUTE, "status": {"parents": theirs}}
        many = tuple((ParentRef(GATEWAY, f"s{i}"), (GOOD,)) for i in range(5))
        parents = written(RouteReport("uid", 1, many), current)["status"]["parents"]
        assert parents[:31] == theirs
        assert len(parents) == 32

    def test_of_a_route_that_cannot_be_read_its_own_words_say_whom_it_names(self) -> None:
        report = RefusedRouteReport("uid", 5, BAD)
        current = {
            **ROUTE,
            "spec": {
                "parentRefs": [
                    {"name": "gateway", "namespace": "infra", "sectionName": "http"},
                    {"name": "gateway"},
                    {"name": "gateway", "namespace": "infra", "kind": "Service", "group": ""},
                    "nonsense",
                ]
            },
        }
        [parent] = written(report, current)["status"]["parents"]
        assert parent["parentRef"]["sectionName"] == "http"
        assert parent["conditions"][0]["observedGeneration"] == 5


POOL = {"metadata": {"namespace": "models", "name": "llama"}}


class TestPools:
    report = PoolReport("uid", 2, "parents", ((GATEWAY, (GOOD,)),))

    def test_v1_has_parents_with_our_name(self) -> None:
        [parent] = written(self.report, POOL)["status"]["parents"]
        assert parent["controllerName"] == US
        assert parent["parentRef"] == {
            "group": "gateway.networking.k8s.io",
            "kind": "Gateway",
            "namespace": "infra",
            "name": "gateway",
        }

    def test_v1alpha2_has_parent(self) -> None:
        report = replace(self.report, field="parent")
        assert list(written(report, POOL)["status"]) == ["parent"]

    def test_a_definition_without_controller_names_is_written_once(self) -> None:
        """It drops what it does not know, and nothing else is then to be done."""
        said = written(self.report, POOL)
        [parent] = said["status"]["parents"]
        del parent["controllerName"]
        del parent["parentRef"]["group"]
        assert self.report.patch(said, OURS, LATER) is None
        [parent] = written(replace(self.report, parents=()), said)["status"]["parents"] or [None]
        assert parent is None

    def test_the_placeholder_of_the_api_server_goes_when_there_is_something_to_say(self) -> None:
        placeholder = {"parentRef": {"kind": "Status", "name": "default"}, "conditions": []}
        current = {**POOL, "status": {"parents": [placeholder]}}
        [parent] = written(self.report, current)["status"]["parents"]
        assert parent["parentRef"]["name"] == "gateway"
        assert replace(self.report, parents=()).patch(current, OURS, NOW) is None

    def test_without_a_name_an_entry_is_ours_if_the_gateway_is(self) -> None:
        theirs = {"parentRef": {"name": "theirs", "namespace": "infra"}, "conditions": []}
        ours = {"parentRef": {"name": "gateway", "namespace": "infra"}, "conditions": []}
        current = {**POOL, "status": {"parents": [theirs, ours]}}
        assert written(replace(self.report, parents=()), current)["status"]["parents"] == [theirs]


class TestGateways:
    report = GatewayReport(
        "uid",
        1,
        (GOOD,),
        (ListenerReport("http", 2, True, (GOOD,)), ListenerReport("tcp", 0, False, (BAD,))),
    )
    current: ClassVar = {
        "metadata": {"name": "gateway"},
        "spec": {"gatewayClassName": "poolpilot"},
    }

    def test_listeners_are_told_by_name(self) -> None:
        http, tcp = written(self.report, self.current)["status"]["listeners"]
        assert http["attachedRoutes"] == 2
        assert http["supportedKinds"][0]["kind"] == "HTTPRoute"
        assert tcp["supportedKinds"] == []

    def test_addresses_that_nobody_gave_us_are_left_alone(self) -> None:
        current = {**self.current, "status": {"addresses": [{"value": "192.0.2.1"}]}}
        assert written(self.report, current)["status"]["addresses"] == [{"value": "192.0.2.1"}]
        given = replace(self.report, addresses=(("Hostname", "llm.example.com"),))
        assert written(given, current)["status"]["addresses"] == [
            {"type": "Hostname", "value": "llm.example.com"}
        ]

    def test_one_that_was_given_to_another_class_meanwhile_is_left_alone(self) -> None:
        current = {"spec": {"gatewayClassName": "theirs"}}
        assert self.report.patch(current, OURS, NOW) is None


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["conditions", "parentRef", "controllerName", "name", "type", "status", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
ENTRY = JUNK | st.fixed_dictionaries(
    {
        "parentRef": st.fixed_dictionaries(
            {"name": st.sampled_from(["gateway", "theirs"]), "namespace": st.just("infra")}
        ),
        "controllerName": st.sampled_from([US, "example.com/theirs", "example.org/more"]),
        "conditions": JUNK,
    }
)


def _is_ours(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    name = entry.get("controllerName")
    ref = entry.get("parentRef")
    named = isinstance(ref, dict) and (ref.get("name"), ref.get("namespace")) == (
        "gateway",
        "infra",
    )
    return name == US or (not name and named)


@given(
    st.lists(ENTRY, max_size=6),
    st.sampled_from(
        [
            route_report(),
            RouteReport("uid", 1),
            TestPools.report,
            replace(TestPools.report, parents=()),
        ]
    ),
)
def test_whatever_others_wrote_is_there_afterwards_as_it_was(
    entries: list[Any], report: Report
) -> None:
    current = {**ROUTE, "status": {"parents": entries, "other": {"kept": True}}}
    before = copy.deepcopy(current)
    after = written(report, current)
    assert current == before, "what was read is not changed"
    theirs = [one for one in entries if not _is_ours(one)]
    assert after["status"]["parents"][: len(theirs)] == theirs
    assert after["status"]["other"] == {"kept": True}
    assert report.patch(after, OURS, LATER) is None, "once is enough"


@given(JUNK | st.fixed_dictionaries({"conditions": st.lists(JUNK), "parents": st.lists(ENTRY)}))
@example({"conditions": [{"type": []}], "listeners": [{"name": {}, "conditions": 3}]})
def test_no_status_is_too_strange(status: Any) -> None:
    for report in (
        route_report(),
        TestPools.report,
        TestGateways.report,
        ClassReport("uid", 1, (GOOD,), FEATURES),
        RefusedRouteReport("uid", 1, BAD),
    ):
        current = {**TestGateways.current, "status": status}
        report.patch(current, OURS, NOW)


# From a World.


def origin(kind: str, name: ObjectName, generation: int = 1, version: str = "") -> Origin:
    return Origin(kind, name, "kubernetes", None, version, f"uid of {name}", generation)


def a_world(**fields: Any) -> World:
    pool, route = ObjectName("models", "llama"), ObjectName("models", "llm")
    listener = GatewayListener("http", 80, allowed=AllowedRoutes(NamespacesFrom.ALL))
    rules = (RouteRule(backends=(RouteBackend(pool),)),)
    world = World(
        of_cluster=True,
        gateway_classes=(
            GatewayClass(
                ObjectName("", "poolpilot"), US, origin("GatewayClass", ObjectName("", "poolpilot"))
            ),
        ),
        gateways=(Gateway(GATEWAY, (listener,), origin("Gateway", GATEWAY), "poolpilot"),),
        routes=(
            HTTPRoute(
                route, parents=(ParentRef(GATEWAY),), rules=rules, origin=origin("HTTPRoute", route)
            ),
        ),
        pools={pool: InferencePool(pool, (8000,), origin=origin("InferencePool", pool))},
    )
    return replace(world, **fields)


def reports_of(world: World) -> dict[str, Report]:
    return {
        str(target): report for target, report in compose(StatusInputs.of(attach(world))).items()
    }


def test_every_object_of_an_api_server_has_a_report() -> None:
    assert sorted(reports_of(a_world())) == [
        "Gateway infra/gateway",
        "GatewayClass poolpilot",
        "HTTPRoute models/llm",
        "InferencePool models/llama",
    ]


def test_objects_of_files_have_none() -> None:
    world = a_world()
    files = replace(world, gateways=(replace(world.gateways[0], origin=None),), pools={}, routes=())
    assert list(reports_of(files)) == ["GatewayClass poolpilot"]


def test_paths_are_those_of_the_version_that_was_read() -> None:
    pool = ObjectName("models", "llama")
    old = origin("InferencePool", pool, version="inference.networking.x-k8s.io/v1alpha2")
    target = Target.of(old)
    assert (
        target.path
        == "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/models/inferencepools/llama"
    )
    assert target.parents_field == "parent"
    assert Target.of(origin("GatewayClass", ObjectName("", "c"))).path == (
        "/apis/gateway.networking.k8s.io/v1/gatewayclasses/c"
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_route_whose_newest_version_cannot_be_read_says_which_field(known: bool) -> None:
    route = ObjectName("models", "llm")
    problem = Problem(
        Severity.ERROR,
        "'(' is not a regular expression",
        origin("HTTPRoute", route, 2),
        field="spec.rules[0].matches[0].path.value",
    )
    world = a_world(problems=(problem,))
    if not known:
        world = replace(world, routes=())
    report = reports_of(world)["HTTPRoute models/llm"]
    assert isinstance(report, RefusedRouteReport)
    assert report.generation == 2
    assert report.condition == Condition(
        "Accepted",
        False,
        "UnsupportedValue",
        "spec.rules[0].matches[0].path.value: '(' is not a regular expression",
    )


def test_a_problem_of_the_version_that_is_in_effect_refuses_nothing() -> None:
    route = ObjectName("models", "llm")
    problem = Problem(Severity.ERROR, "is left out", origin("HTTPRoute", route, 1))
    report = reports_of(a_world(problems=(problem,)))["HTTPRoute models/llm"]
    assert isinstance(report, RouteReport)


def test_a_gateway_whose_newest_version_cannot_be_read_goes_on_as_before() -> None:
    problem = Problem(Severity.ERROR, "is wrong", origin("Gateway", GATEWAY, 7), field="spec.x")
    report = reports_of(a_world(problems=(problem,)))["Gateway infra/gateway"]
    assert isinstance(report, GatewayReport)
    assert report.generation == 7
    assert report.conditions == (
        Condition("Accepted", False, "Invalid", "spec.x: is wrong"),
        Condition("Programmed", True, "Programmed"),
    )
    assert report.listeners is not None


def test_a_pool_that_cannot_be_read_says_so_to_the_gateways_whose_routes_name_it() -> None:
    pool = ObjectName("models", "llama")
    problem = Problem(
        Severity.ERROR, "must be a port", origin("InferencePool", pool), field="spec.targetPorts"
    )
    report = reports_of(a_world(problems=(problem,), pools={}))["InferencePool models/llama"]
    assert isinstance(report, PoolReport)
    [(gateway, [condition])] = report.parents
    assert gateway == GATEWAY
    assert (condition.status, condition.reason) == (False, "NotSupportedByParent")
    assert condition.message.startswith("spec.targetPorts: ")
