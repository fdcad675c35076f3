"""What the HTTP side shows."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from extproc.observability.debug import application
from extproc.observability.metrics import OTHER, Metrics, registry_of
from extproc.observability.telemetry import Telemetry
from extproc.picking.director import Director
from extproc.picking.endpoint_health import Fault
from extproc.picking.fleet import Fleet
from extproc.picking.scheduling import PROFILES, Adapters, CacheConfig, Signals
from extproc.reasons import Reason
from extproc.request import Completed, InferenceRequest, Refused, Routed
from pools.model import (
    AbsentEndpoint,
    Endpoint,
    InferencePool,
    ObjectName,
    Origin,
    Problem,
    Severity,
    World,
)

LLAMA = ObjectName("default", "llama")
EMPTY = ObjectName("default", "empty")
A, B = "10.0.0.1:8000", "10.0.0.2:8000"


@dataclass
class Served:
    director: Director
    client: TestClient
    metrics: Metrics
    now: float = 100.0
    ready: bool = True

    def get(self, path: str, status: int = 200) -> Any:
        response = self.client.get(path)
        assert response.status_code == status, response.text
        return response.json()

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        text = self.client.get("/metrics").text
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def ask(self, model: str = "m", pool: ObjectName = LLAMA, request_id: str = "r") -> Any:
        request = InferenceRequest(request_id, pool, "/", "POST", {}, model=model)
        return self.director.decide(request).outcome


@pytest.fixture
def served() -> Served:
    shared: dict[str, Served] = {}
    telemetry = Telemetry()
    director = Director(
        Fleet(lambda pool: PROFILES["filter-tree"](), observer=telemetry),
        lambda: shared[""].now if shared else 0.0,
        random.Random(1),
    )
    registry = registry_of(telemetry.metrics, director.fleet, lambda: shared[""].now)
    app = application(director, registry, lambda: shared[""].ready, lambda: 100.0)
    served = shared[""] = Served(director, TestClient(app), telemetry.metrics)
    director.update(
        World(
            revision=7,
            pools={
                LLAMA: InferencePool(
                    LLAMA, (8000,), origin=Origin("InferencePool", LLAMA, "p.yaml")
                ),
                EMPTY: InferencePool(EMPTY, (8000,)),
            },
            endpoints={
                LLAMA: (
                    Endpoint("10.0.0.1", 8000, "pod-1", {"zone": "a"}),
                    Endpoint("10.0.0.2", 8000, "pod-2"),
                )
            },
            problems=(Problem(Severity.ERROR, "It is broken.", source="x.yaml", line=3),),
            absent=(AbsentEndpoint("pod-9", "not Ready since 12:03", LLAMA, "10.0.0.9"),),
        )
    )
    director.fleet.scrape_started(A)
    adapters = Adapters(frozenset({"x", "b"}), frozenset({"w"}), 4)
    director.fleet.scraped(A, Signals(3, 5, 0.25, adapters, CacheConfig(16, 2810)), 99.5)
    director.fleet.scrape_started(B)
    director.fleet.scrape_failed(B, "http://10.0.0.2:8000/metrics: refused", False, 99.8)
    director.fleet.troubled(A, "models", "answered 503")
    director.fleet.troubled(A, "models", "")
    director.fleet.troubled(B, "models", "answered 401")
    director.fleet.events_followed(A, [0])
    director.fleet.events_began(A, 0)
    return served


def test_the_index_shows_what_there_is_and_where_to_look(served: Served) -> None:
    shown = served.get("/debug")
    assert shown["world"]["revision"] == 7
    assert shown["world"]["problems"] == ["x.yaml:3: It is broken."]
    assert "/debug/endpoints" in shown["see"]
    assert [pool["pool"] for pool in shown["pools"]] == ["default/llama", "default/empty"]


def test_an_endpoint_is_shown_with_what_it_says_and_what_picks_make_of_it(served: Served) -> None:
    first, second = served.get("/debug/endpoints")["endpoints"]
    assert first["name"] == "pod-1"
    assert first["pools"] == ["default/llama"]
    assert (first["waiting"], first["running"], first["kv_usage"]) == (3, 5, 0.25)
    assert (first["adapters"], first["max_adapters"]) == (["b", "x"], 4)
    assert first["age_s"]["waiting"] == 0.5
    assert first["fresh"]
    assert second["waiting"] is None
    assert not second["fresh"]
    assert second["queue"] == 3  # assumed from its peer
    assert "refused" in second["scrape_error"]
    assert (first["troubles"], second["troubles"]) == ({}, {"models": "answered 401"})
    served.ask()
    rows = served.get("/debug/endpoints")["endpoints"]
    assert sum(row["picked"] for row in rows) == sum(row["in_flight"] for row in rows) == 1


def test_endpoints_of_one_pool(served: Served) -> None:
    assert served.get("/debug/endpoints?pool=default/empty")["endpoints"] == []
    assert len(served.get("/debug/endpoints?pool=llama")["endpoints"]) == 2
    served.get("/debug/endpoints?pool=default/none", 404)
    served.get("/debug/endpoints?pool=a/b/c", 400)


def test_decisions_are_listed_newest_first_and_can_be_narrowed(served: Served) -> None:
    for model in ("a", "b", "a"):
        served.ask(model)
    served.ask(pool=EMPTY)
    listed = served.get("/debug/decisions")["decisions"]
    assert [row["model"] for row in listed] == ["m", "a", "b", "a"]
    assert len(served.get("/debug/decisions?limit=2")["decisions"]) == 2
    assert len(served.get("/debug/decisions?model=a")["decisions"]) == 2
    assert len(served.get("/debug/decisions?pool=default/empty")["decisions"]) == 1
    refused = served.get("/debug/decisions?outcome=no-ready-endpoints")["decisions"]
    assert [row["status"] for row in refused] == [503]
    served.get("/debug/decisions?limit=many", 400)


def test_one_decision_is_found_by_its_pick_id_or_its_request_id(served: Served) -> None:
    outcome = served.ask(request_id="abc-123")
    assert isinstance(outcome, Routed)
    by_pick = served.get(f"/debug/decisions/{outcome.pick_id}")
    assert by_pick == served.get("/debug/decisions/abc-123")
    assert by_pick["steps"][0]["name"] == "not-sheddable"
    assert by_pick["at"].startswith("20")
    served.get("/debug/decisions/unknown", 404)


def test_probes_tell_life_and_readiness_apart(served: Served) -> None:
    assert served.client.get("/healthz").status_code == 200
    assert served.client.get("/readyz").status_code == 200
    served.ready = False
    assert served.client.get("/healthz").status_code == 200
    assert served.client.get("/readyz").status_code == 503


def test_a_picker_without_a_pool_is_ready_and_warns(served: Served) -> None:
    assert served.client.get("/readyz").text == "ready\n"
    served.director.update(World())
    answer = served.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.text == "ready\nwarning: no pool is described\n"


def test_metrics_tell_what_was_decided_and_how_it_ended(served: Served) -> None:
    outcome = served.ask()
    assert isinstance(outcome, Routed)
    served.ask(pool=EMPTY)
    served.metrics.refused(Refused(Reason.BODY_TOO_LARGE, ""))
    served.director.settle(
        Completed(
            outcome.pick_id,
            200,
            0.3,
            0.1,
            served=outcome.endpoints[0],
            prompt_tokens=12,
            completion_tokens=30,
            request_bytes=2000,
        )
    )
    served.metrics.ejected(B, Fault.CONNECT)
    samples = served.samples()

    def value(name: str, **labels: str) -> float:
        return samples[name, tuple(sorted(labels.items()))]

    llama = {"pool": "default/llama"}
    model = {"model": "m", "target_model": "m"}
    assert value("poolpilot_requests_total", **llama, **model, outcome="routed") == 1
    assert value("poolpilot_refusals_total", status="413", reason="body-too-large") == 1
    assert value("poolpilot_responses_total", **llama, model="m", code="200") == 1
    assert value("poolpilot_tokens_total", **llama, model="m", kind="completion") == 30
    assert value("poolpilot_request_duration_seconds_bucket", **llama, le="0.4") == 1
    assert value("poolpilot_request_duration_seconds_bucket", **llama, le="0.2") == 0
    assert value("poolpilot_request_duration_seconds_sum", **llama) == 0.3
    assert value("poolpilot_pick_duration_seconds_count") == 2
    assert value("poolpilot_picks_total", endpoint=outcome.endpoints[0]) == 1
    assert value("poolpilot_endpoint_kv_usage", endpoint=A) == 0.25
    assert value("poolpilot_endpoint_signal_age_seconds", endpoint=A) == 0.5
    assert value("poolpilot_scrapes_total", endpoint=B, result="failed") == 1
    assert value("poolpilot_endpoint_trouble", endpoint=B, question="models") == 1
    assert value("poolpilot_endpoint_cache_told", endpoint=A) == 1
    assert value("poolpilot_endpoint_cache_told", endpoint=B) == 0
    assert value("poolpilot_ejections_total", endpoint=B, fault="connect-failure") == 1
    assert value("poolpilot_pool_ready_endpoints", **llama) == 2
    assert value("poolpilot_pool_ready_endpoints", pool="default/empty") == 0
    assert ("poolpilot_endpoint_signal_age_seconds", (("endpoint", B),)) not in samples


def test_clients_cannot_make_up_ever_more_label_values() -> None:
    metrics = Metrics(max_models=3)
    for number in range(50):
        metrics.decided("p", f"model-{number}", f"model-{number}", "routed", 1e-5)
    metrics.decided("p", "x" * 1000, "model-0", "routed", 1e-5)
    assert {labels[1] for labels in metrics.requests} == {"model-0", "model-1", "model-2", OTHER}


def test_clients_that_make_up_names_take_no_label_from_models_that_exist() -> None:
    metrics = Metrics(max_models=3)
    metrics.is_known = {"llama"}.__contains__
    for model in ("a", "b", "c", "d", "llama"):
        metrics.decided("p", model, model, "routed", 1e-5)
    assert {labels[1] for labels in metrics.requests} == {"a", "b", "c", "llama", OTHER}


def test_names_that_clients_have_rewritten_are_not_told_apart_by_pairs_without_end() -> None:
    metrics = Metrics(max_models=10)
    for model in range(20):
        for target in range(20):
            metrics.decided("default/llm", f"m{model}", f"m{target}", "routed", 0.0)
    assert sum(metrics.requests.values()) == 400
    assert len(metrics.requests) <= 10 + 10 + 11


def test_the_fleet_is_shown_at_one_moment_with_those_that_get_nothing(served: Served) -> None:
    served.ask()
    shown = served.get("/debug/fleet")
    assert (shown["ready"], shown["revision"], shown["decisions"]) == (True, 7, 1)
    assert [one["endpoint"] for one in shown["endpoints"]] == [A, B]
    assert sum(one["in_flight"] for one in shown["endpoints"]) == shown["open_requests"] == 1
    assert {"prefix_entries", "prefix_capacity", "standing"} <= shown["endpoints"][0].keys()
    assert shown["absent"] == [
        {
            "name": "pod-9",
            "reason": "not Ready since 12:03",
            "pool": "default/llama",
            "address": "10.0.0.9",
            "origin": None,
        }
    ]
    assert shown["problems"][0]["line"] == 3
    assert served.get("/debug")["world"]["absent"] == shown["absent"]


def test_the_fleet_is_not_made_again_for_everyone_who_looks_at_once(served: Served) -> None:
    before = served.get("/debug/fleet")
    served.ask()
    # The clock of the pages stands still.
    assert served.get("/debug/fleet") == before


def test_decisions_can_be_looked_through_by_endpoint_and_by_how_they_came_out(
    served: Served,
) -> None:
    outcomes = [served.ask(request_id=str(n)) for n in range(8)]
    served.ask(pool=EMPTY)
    ok, failed, open_ = outcomes[0], outcomes[1], outcomes[2:]
    served.director.settle(Completed(ok.pick_id, 200, served=ok.endpoints[0]))
    other = B if failed.endpoints[0] == A else A
    served.director.settle(Completed(failed.pick_id, 503, served=other, attempts=2))

    def ids(query: str) -> set[str]:
        return {one["id"] for one in served.get(f"/debug/decisions?{query}")["decisions"]}

    assert ids("outcome=failed") == {failed.pick_id}
    assert ids("outcome=in-progress") == {one.pick_id for one in open_}
    assert ids("outcome=routed") == {one.pick_id for one in outcomes}
    assert len(ids("outcome=refused")) == len(ids("outcome=no-ready-endpoints")) == 1
    assert ids("outcome=shed") == set()
    picked_a = {one.pick_id for one in outcomes if one.endpoints[0] == A}
    assert ids(f"endpoint={A}") == picked_a | ({failed.pick_id} if other == A else set())
    assert len(ids("limit=3")) == 3


def test_the_steps_before_the_profile_say_why_as_well(served: Served) -> None:
    for _ in range(3):
        served.director.fleet.failed(B, Fault.CONNECT, 100.0)
    pick = served.ask()
    (healthy,) = [
        step
        for step in served.get(f"/debug/decisions/{pick.pick_id}")["steps"]
        if step["name"] == "healthy"
    ]
    assert healthy["removed"] == [B]
    assert "failed too often" in healthy["because"]


def test_the_profile_in_force_is_shown_step_by_step(served: Served) -> None:
    shown = served.get("/debug/profiles")
    assert shown["file"] is None
    profile = shown["in_force"]["default/llama"]
    assert profile["name"] == "filter-tree"
    assert profile["filters"][0]["reasons"]


def test_pages_are_served_with_all_they_need_and_let_nothing_else_in(served: Served) -> None:
    for path in ("/ui", "/ui/fleet/10.0.0.1:8000"):
        page = served.client.get(path)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
    # Its own views, and what both servers share.
    for name in ("app.js", "fleet.js", "frame.js", "style.css"):
        assert served.client.get(f"/assets/{name}").status_code == 200
    assert served.client.get("/assets/secrets.txt").status_code == 404
    assert served.client.get("/debug", headers={"accept": "text/html"}).text.startswith("<!doctype")


def test_a_name_that_anybody_can_own_is_refused_except_by_machines(served: Served) -> None:
    foreign = {"host": "attacker.example"}
    assert served.client.get("/debug/decisions", headers=foreign).status_code == 421
    for path in ("/metrics", "/healthz", "/readyz"):
        assert served.client.get(path, headers=foreign).status_code == 200
