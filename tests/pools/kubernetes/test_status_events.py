"""Events: what a user must mend, told once, by name of the field, and never in a storm."""

from __future__ import annotations

from dataclasses import replace

from pools.attachment import attach
from pools.kubernetes.status.events import (
    BURST,
    PACE,
    REPEAT,
    Grievance,
    Telling,
    events_path,
    grievances,
)
from pools.kubernetes.status.inputs import StatusInputs
from pools.kubernetes.status.ledger import Ledger
from pools.kubernetes.status.pace import Pace
from pools.kubernetes.status.reports import PoolReport, RouteReport
from pools.kubernetes.status.target import Target
from pools.model import (
    Gateway,
    GatewayListener,
    HTTPRoute,
    InferencePool,
    ListenerProblem,
    ObjectName,
    Origin,
    ParentRef,
    PickerRef,
    Problem,
    RouteBackend,
    RouteRule,
    Severity,
    World,
)

GATEWAY, ROUTE, POOL = (ObjectName("models", name) for name in ("gateway", "llm", "llama"))


def origin(kind: str, name: ObjectName) -> Origin:
    return Origin(kind, name, "kubernetes", uid=f"uid-{name.name}", generation=1)


def a_world() -> World:
    """A listener that cannot be, a route to nothing, and a pool without its picker."""
    bad = GatewayListener("tcp", 81, problem=ListenerProblem("UnsupportedProtocol", "TCP is not"))
    return World(
        of_cluster=True,
        gateways=(
            Gateway(GATEWAY, (GatewayListener("http", 80), bad), origin("Gateway", GATEWAY)),
        ),
        routes=(
            HTTPRoute(
                ROUTE,
                parents=(ParentRef(GATEWAY),),
                rules=(
                    RouteRule(
                        backends=(RouteBackend(POOL), RouteBackend(ObjectName("models", "gone")))
                    ),
                ),
                origin=origin("HTTPRoute", ROUTE),
            ),
        ),
        pools={
            POOL: InferencePool(
                POOL, (8000,), picker=PickerRef("epp", 9002), origin=origin("InferencePool", POOL)
            )
        },
        problems=(
            Problem(
                Severity.WARNING,
                "there is no InferencePool models/gone",
                origin("HTTPRoute", ROUTE),
                field="spec.rules[0].backendRefs[1]",
            ),
            Problem(
                Severity.ERROR,
                "must be a number",
                origin("InferencePool", POOL),
                field="spec.targetPorts[0].number",
            ),
            Problem(Severity.ERROR, "the API server cannot be reached", source="kubernetes"),
            Problem(Severity.ERROR, "of a file", Origin("HTTPRoute", ROUTE, "a.yaml")),
        ),
    )


def told(world: World) -> dict[tuple[str, str], str]:
    return {(g.kind, g.reason): g.note for g in grievances(StatusInputs.of(attach(world)))}


def test_what_is_refused_and_what_is_invalid_is_told_once_each_with_its_field() -> None:
    found = told(a_world())
    assert found == {
        ("Gateway", "UnsupportedProtocol"): "spec.listeners[tcp]: TCP is not",
        ("HTTPRoute", "BackendNotFound"): (
            "spec.rules[0].backendRefs[1]: InferencePool models/gone does not exist; create it or"
            " correct the name"
        ),
        ("InferencePool", "InvalidExtensionRef"): (
            "spec.endpointPickerRef.name: there is no Service models/epp"
        ),
        ("InferencePool", "Invalid"): "spec.targetPorts[0].number: must be a number",
    }


def test_what_is_well_is_not_spoken_of() -> None:
    world = a_world()
    route = replace(world.routes[0], rules=(RouteRule(backends=(RouteBackend(POOL),)),))
    pools = {POOL: replace(world.pools[POOL], picker=None)}
    gateways = (replace(world.gateways[0], listeners=world.gateways[0].listeners[:1]),)
    well = replace(world, routes=(route,), pools=pools, gateways=gateways, problems=())
    assert told(well) == {}


GRIEVANCE = Grievance(
    "HTTPRoute", "gateway.networking.k8s.io/v1", ROUTE, "uid-llm", "BackendNotFound", "gone"
)


def test_an_event_has_what_the_api_demands() -> None:
    event = GRIEVANCE.event("example.com/us", "host_1", "2026-01-01T00:00:00.000000Z")
    assert event["metadata"]["namespace"] == "models"
    assert event["regarding"]["uid"] == "uid-llm"
    assert event["type"] == "Warning"
    assert event["action"]
    assert events_path("models") == "/apis/events.k8s.io/v1/namespaces/models/events"


def test_the_same_has_the_same_name_in_every_process_and_anything_else_another() -> None:
    assert GRIEVANCE.event_name == replace(GRIEVANCE).event_name
    others = [
        replace(GRIEVANCE, uid="other"),
        replace(GRIEVANCE, reason="Other"),
        replace(GRIEVANCE, note="other"),
    ]
    names = {one.event_name for one in [GRIEVANCE, *others]}
    assert len(names) == 4
    long = replace(GRIEVANCE, name=ObjectName("models", "x" * 253))
    assert len(long.event_name) <= 253


def test_a_long_note_is_cut_at_a_whole_character() -> None:
    note = replace(GRIEVANCE, note="ü" * 2000).event("c", "i", "t")["note"]
    assert len(note.encode()) <= 1024
    assert note.endswith("...")


def test_what_has_no_namespace_is_told_of_in_the_default_one() -> None:
    on_class = replace(GRIEVANCE, kind="GatewayClass", name=ObjectName("", "poolpilot"))
    event = on_class.event("c", "i", "t")
    assert event["metadata"]["namespace"] == "default"
    assert "namespace" not in event["regarding"]


def many(count: int) -> list[Grievance]:
    return [replace(GRIEVANCE, note=str(i)) for i in range(count)]


def test_each_is_told_once_and_again_after_an_hour() -> None:
    telling = Telling()
    assert telling.due([GRIEVANCE], 0.0) == [GRIEVANCE]
    telling.told(GRIEVANCE, 0.0)
    assert telling.due([GRIEVANCE], REPEAT - 1) == []
    assert telling.due([GRIEVANCE], REPEAT) == [GRIEVANCE]


def test_a_thousand_at_once_are_told_one_after_the_other() -> None:
    telling, wanted = Telling(), many(1000)
    first = telling.due(wanted, 0.0)
    assert len(first) == BURST
    for one in first:
        telling.told(one, 0.0)
    assert telling.due(wanted, 0.0) == []
    later = telling.due(wanted, 10 * PACE)
    assert len(later) == 10
    assert not set(later) & set(first)


def test_memory_is_that_of_one_hour() -> None:
    telling = Telling()
    now = 0.0
    for one in many(10_000):
        now += 5.0
        for due in telling.due([one], now):
            telling.told(due, now)
    assert len(telling) <= REPEAT / 5 + 1


def test_a_pace_lets_a_burst_through_and_then_holds_its_rate() -> None:
    pace = Pace(rate=10.0, burst=5)
    assert [pace.wait(100.0) for _ in range(5)] == [0.0] * 5
    assert round(pace.wait(100.0), 6) == 0.1
    assert round(pace.wait(100.0), 6) == 0.2
    assert pace.wait(200.0) == 0.0


# Which reports are to be written.

ROUTE_AT = Target("HTTPRoute", "gateway.networking.k8s.io/v1", ROUTE)
GATEWAY_AT = Target("Gateway", "gateway.networking.k8s.io/v1", GATEWAY)
POOL_AT = Target("InferencePool", "inference.networking.k8s.io/v1", POOL)
REPORT = RouteReport("uid", 1)


def test_a_report_is_due_until_it_is_written_and_when_it_changes() -> None:
    ledger = Ledger()
    ledger.want({ROUTE_AT: REPORT})
    assert list(ledger.due(0.0)) == [(ROUTE_AT, REPORT)]
    ledger.done(ROUTE_AT, REPORT)
    ledger.want({ROUTE_AT: replace(REPORT)})
    assert list(ledger.due(0.0)) == []
    newer = replace(REPORT, generation=2)
    ledger.want({ROUTE_AT: newer})
    assert list(ledger.due(0.0)) == [(ROUTE_AT, newer)]


def test_what_failed_is_due_when_its_time_has_come() -> None:
    ledger = Ledger()
    ledger.want({ROUTE_AT: REPORT})
    assert ledger.failed(ROUTE_AT) == 1
    ledger.retry(ROUTE_AT, 1, 10.0)
    assert list(ledger.due(9.0)) == []
    assert ledger.next_retry() == 10.0
    assert list(ledger.due(10.0)) == [(ROUTE_AT, REPORT)]
    assert ledger.failed(ROUTE_AT) == 2
    ledger.done(ROUTE_AT, REPORT)
    assert ledger.next_retry() is None


def test_what_nobody_reports_of_any_more_is_taken_back_once() -> None:
    ledger = Ledger()
    ledger.want({ROUTE_AT: REPORT, POOL_AT: PoolReport("pool", 1, "parents")})
    for target, report in list(ledger.due(0.0)):
        ledger.done(target, report)
    ledger.want({})
    due = dict(ledger.due(0.0))
    assert due == {ROUTE_AT: RouteReport("uid", 0), POOL_AT: PoolReport("pool", 0, "parents")}
    for target, report in due.items():
        ledger.done(target, report)
    assert list(ledger.due(0.0)) == []


def test_of_a_gateway_that_is_gone_or_of_others_now_nothing_is_written() -> None:
    ledger = Ledger()
    ledger.want({GATEWAY_AT: REPORT})
    ledger.done(GATEWAY_AT, REPORT)
    ledger.want({})
    assert list(ledger.due(0.0)) == []


def test_starting_over_writes_only_what_the_objects_do_not_say() -> None:
    ledger = Ledger()
    ledger.want({ROUTE_AT: REPORT, POOL_AT: PoolReport("pool", 1, "parents")})
    ledger.start_over()
    expected = ledger.expected(ROUTE_AT, "uid")
    assert expected is REPORT
    ledger.found(ROUTE_AT, expected, said=True)
    assert [target for target, _ in ledger.due(0.0)] == [POOL_AT]


def test_a_foreign_route_that_still_has_an_entry_of_ours_loses_it() -> None:
    ledger = Ledger()
    ledger.want({})
    nothing = ledger.expected(ROUTE_AT, "uid")
    assert nothing == RouteReport("uid", 0)
    ledger.found(ROUTE_AT, nothing, said=True)
    assert list(ledger.due(0.0)) == []
    ledger.found(ROUTE_AT, nothing, said=False)
    assert list(ledger.due(0.0)) == [(ROUTE_AT, nothing)]
    ledger.want({ROUTE_AT: REPORT})
    assert list(ledger.due(0.0)) == [(ROUTE_AT, REPORT)], "it is ours again"
