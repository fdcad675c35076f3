"""What happens in the picking core shows in metrics, log lines and the request log."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from extproc.observability.request_log import RequestLog
from extproc.observability.telemetry import Telemetry
from extproc.picking.director import Director
from extproc.picking.fleet import Fleet
from extproc.picking.scheduling import PROFILES
from extproc.reasons import Reason
from extproc.request import Completed, InferenceRequest, Routed
from pools.model import Endpoint, InferencePool, ObjectName, World

POOL = ObjectName("default", "llm")
NOWHERE = ObjectName("default", "nowhere")
PODS = (Endpoint("10.0.0.1", 8000, "pod-1"), Endpoint("10.0.0.2", 8000, "pod-2"))


class Site:
    """A director that is watched."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log = RequestLog(1.0)
        self.telemetry = Telemetry(self.log)
        fleet = Fleet(lambda pool: PROFILES["round-robin"](), observer=self.telemetry)
        self.director = Director(fleet, lambda: self.now, random.Random(1))
        self.configure(*PODS)

    def configure(self, *pods: Endpoint) -> None:
        self.director.update(
            World(pools={POOL: InferencePool(POOL, (8000,))}, endpoints={POOL: pods})
        )
        self.telemetry.follow(self.director.fleet)

    def ask(self, pool: ObjectName = POOL) -> str:
        request = InferenceRequest("r", pool, "/", "POST", {}, model="m")
        return self.director.decide(request).id

    def fail(self) -> None:
        outcome = self.director.decide(
            InferenceRequest("r", POOL, "/", "POST", {}, model="m")
        ).outcome
        assert isinstance(outcome, Routed)
        flags = frozenset({"UF"})
        first = outcome.endpoints[0]
        self.director.settle(Completed(outcome.pick_id, 503, tried=first, flags=flags))


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    site.log.start()
    yield site
    site.log.stop()


def test_the_request_log_has_each_request_that_ended_expired_or_was_refused(site: Site) -> None:
    with capture_logs() as lines:
        refused, served, forgotten = site.ask(NOWHERE), site.ask(), site.ask()
        site.director.settle(Completed(served, 200, served="10.0.0.1:8000"))
        site.now += 1000
        site.director.expire()
        site.log.stop()
    assert [line["id"] for line in lines] == [refused, served, forgotten]
    assert [line["outcome"] for line in lines] == [Reason.UNKNOWN_POOL, "routed", "routed"]
    assert [bool(line["completed"]) for line in lines] == [False, True, False]


def test_metrics_count_what_was_decided_and_how_it_ended(site: Site) -> None:
    metrics = site.telemetry.metrics
    site.ask(NOWHERE)
    served = site.ask()
    site.ask()
    site.director.settle(Completed(served, 200, served="10.0.0.1:8000"))
    site.now += 1000
    site.director.expire()
    # Of a pool that nobody knows the name is not a label: clients could make up any number.
    assert dict(metrics.requests) == {
        ("", "m", "", "unknown-pool"): 1,
        ("default/llm", "m", "m", "routed"): 2,
    }
    assert dict(metrics.completed) == {("default/llm", "m", "200"): 1}
    assert metrics.expired == 1


def test_an_endpoint_that_is_taken_out_is_counted_and_told_until_it_is_gone(site: Site) -> None:
    with capture_logs() as lines:
        for _ in range(4):
            site.fail()
    taken_out = [line for line in lines if line["event"] == "endpoint taken out of picks"]
    assert {(line["endpoint"], line["fault"]) for line in taken_out} == {
        (pod.key, "connect-failure") for pod in PODS
    }
    ejections = site.telemetry.metrics.ejections
    assert {endpoint for endpoint, _ in ejections} == {pod.key for pod in PODS}
    site.configure(PODS[0])
    assert {endpoint for endpoint, _ in ejections} == {PODS[0].key}


def test_what_waiting_came_to_is_counted_until_the_pool_is_gone(site: Site) -> None:
    telemetry, counts = site.telemetry, site.telemetry.admission_metrics
    for pool in ("default/llm", "default/gone"):
        telemetry.admission(pool, 0, "admitted", None)
        telemetry.admission(pool, 0, "dispatched", 1.5)
    telemetry.follow(site.director.fleet)
    assert dict(counts.outcomes) == {
        ("default/llm", 0, "admitted"): 1,
        ("default/llm", 0, "dispatched"): 1,
    }
    assert [key for key, one in counts.queue_seconds.items() if one.count == 1] == [
        ("default/llm", 0)
    ]


def test_a_request_that_had_trouble_is_told_with_what_went_wrong(site: Site) -> None:
    with capture_logs() as lines:
        try:
            raise RuntimeError("the stream is gone")
        except RuntimeError:
            site.telemetry.failed("a queued request could not be answered", "default/llm")
    [line] = lines
    assert (line["log_level"], line["pool"], line["exc_info"]) == ("error", "default/llm", True)
