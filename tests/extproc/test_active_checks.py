"""Active health checks: what takes an endpoint out, and what brings it back."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.picking.endpoint_health import EndpointHealth, Fault, HealthPolicy, Standing
from extproc.picking.fleet import Fleet
from extproc.picking.observer import Unobserved
from extproc.picking.scheduling.profiles import PROFILES
from extproc.signals.active_checks import ActiveChecks, CheckSettings, CheckState
from extproc.signals.fetch import ScrapeError
from extproc.signals.polling import Poller
from pools.model import Endpoint, InferencePool, ObjectName, World
from pools.tasks import Parts

POOL = ObjectName("default", "llama")
SETTINGS = CheckSettings(interval=1.0, failures=3, successes=2)


def states(settings: CheckSettings, checks: str) -> str:
    """``+`` for each passed and ``-`` for each failed check, to what was thought after it."""
    state, seen = CheckState(settings), ""
    for check in checks:
        (state.passed if check == "+" else state.failed)()
        seen += "+" if state.well else "-"
    return seen


@pytest.mark.parametrize(
    ("checks", "seen"),
    [
        ("---", "++-"),
        ("--+--+", "++++++"),
        ("---+-+", "++----"),
        ("---++", "++--+"),
        ("---++---", "++--+++-"),
    ],
)
def test_only_so_many_in_a_row_change_anything(checks: str, seen: str) -> None:
    assert states(SETTINGS, checks) == seen


@given(st.text("+-", max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_whatever_comes_the_last_change_was_earned_in_a_row(
    checks: str, failures: int, successes: int
) -> None:
    seen = states(CheckSettings(failures=failures, successes=successes), checks)
    before = "+"
    for at, now in enumerate(seen):
        if now != before:
            enough = failures if now == "-" else successes
            assert checks[at + 1 - enough : at + 1] == now * enough
        before = now


@pytest.mark.parametrize(
    "wrong", [{"interval": -1}, {"timeout": 0}, {"path": "health"}, {"failures": 0}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="check"):
        CheckSettings(**wrong)  # type: ignore[arg-type]


def test_checks_keep_an_endpoint_out_for_longer_than_its_cool_down() -> None:
    health = EndpointHealth(HealthPolicy(cool_down=2.0))
    assert health.check_failed(until=5.0, now=0.0)
    assert not health.check_failed(until=8.0, now=4.0)
    assert (health.standing(7.9), health.standing(8.0)) == (Standing.OUT, Standing.RETURNING)
    assert health.fault is Fault.CHECK


def test_a_passed_check_ends_what_checks_began_and_nothing_else() -> None:
    health = EndpointHealth(HealthPolicy(connect_failures=1, cool_down=10.0))
    health.check_failed(until=50.0, now=0.0)
    health.check_passed(now=1.0)
    assert health.standing(1.0) is Standing.RETURNING

    health = EndpointHealth(HealthPolicy(connect_failures=1, cool_down=10.0))
    health.failed(Fault.CONNECT, 0.0)
    health.check_passed(now=1.0)
    assert health.standing(1.0) is Standing.OUT, "it answers checks, but not requests"


def test_metrics_that_come_again_do_not_end_what_checks_began() -> None:
    """They may be served by another process than the model."""
    health = EndpointHealth(HealthPolicy())
    health.scrape_succeeded(0.0)
    health.check_failed(until=25.0, now=10.0)
    health.scrape_failed(11.0)
    health.scrape_succeeded(11.2)
    assert health.standing(24.9) is Standing.OUT


def test_where_each_of_many_is_asked_less_often_it_is_kept_out_for_longer() -> None:
    settings = CheckSettings(interval=1.0, timeout=1.0)
    assert settings.hold(10) == 5.0
    assert settings.hold(1000) > 2 * 10.0, "two checks of each, at 100 a second"


class Pods:
    """Answer checks unless they are ill or hang."""

    def __init__(self) -> None:
        self.ill: set[str] = set()
        self.hanging: set[str] = set()
        self.asked: list[str] = []

    async def __call__(self, url: str) -> bytes:
        self.asked.append(url)
        host = url.removeprefix("http://").partition(":")[0]
        if host in self.hanging:
            await asyncio.Event().wait()
        if host in self.ill:
            raise ScrapeError(f"{url} answered 503", alive=False)
        return b""


@pytest.mark.looptime
async def test_an_ill_pod_is_left_out_while_it_is_ill_and_returns_slowly() -> None:
    out: list[tuple[str, Fault]] = []

    class Ejections(Unobserved):
        def ejected(self, endpoint: str, fault: Fault) -> None:
            out.append((endpoint, fault))

    pods, fleet = Pods(), Fleet(lambda pool: PROFILES["random"](), observer=Ejections())
    endpoints = tuple(Endpoint(f"10.0.0.{n}", 8000, f"pod-{n}") for n in (1, 2))
    fleet.update(World(pools={POOL: InferencePool(POOL, (8000,))}, endpoints={POOL: endpoints}))
    clock = asyncio.get_running_loop().time
    checks = ActiveChecks(fleet, pods, SETTINGS, clock)
    poller = Poller("check", checks, SETTINGS.interval, random.Random(1))
    poller.follow({endpoint.key: endpoint.key for endpoint in endpoints})
    parts = Parts()
    parts.start("checks", poller.run())

    def eligible() -> set[str]:
        view = fleet.pools[POOL]
        found = view.eligible(None, clock(), random.Random(1), [])
        return {candidate.endpoint.name for candidate in found}

    await asyncio.sleep(10)
    assert eligible() == {"pod-1", "pod-2"}
    assert "http://10.0.0.1:8000/health" in pods.asked

    for failing in (pods.ill, pods.hanging):
        out.clear()
        failing.add("10.0.0.1")
        await asyncio.sleep(10)
        assert out == [("10.0.0.1:8000", Fault.CHECK)], "once, however long it lasts"
        for _ in range(50):
            await asyncio.sleep(1)
            assert eligible() == {"pod-2"}
        failing.clear()
        await asyncio.sleep(5)
        health = fleet.members["10.0.0.1:8000"].health
        assert health.standing(clock()) is Standing.RETURNING
        await asyncio.sleep(20)
        assert eligible() == {"pod-1", "pod-2"}
    await parts.stop()


@pytest.mark.looptime
async def test_when_checks_end_nobody_stays_out_for_ever() -> None:
    pods, fleet = Pods(), Fleet(lambda pool: PROFILES["random"]())
    endpoint = Endpoint("10.0.0.1", 8000, "pod-1")
    fleet.update(World(pools={POOL: InferencePool(POOL, (8000,))}, endpoints={POOL: (endpoint,)}))
    clock = asyncio.get_running_loop().time
    checks = ActiveChecks(fleet, pods, SETTINGS, clock)
    pods.ill.add("10.0.0.1")
    for _ in range(3):
        await checks(endpoint.key, endpoint.key)
    health = fleet.members[endpoint.key].health
    assert health.standing(clock()) is Standing.OUT
    await asyncio.sleep(SETTINGS.hold(1))
    assert health.standing(clock()) is not Standing.OUT


async def test_an_endpoint_that_left_and_returned_is_a_new_one() -> None:
    pods, told = Pods(), []

    class Sink:
        def check_failed(self, key: str, until: float, now: float) -> None:
            told.append("failed")

        def check_passed(self, key: str, now: float) -> None:
            told.append("passed")

    checks = ActiveChecks(Sink(), pods, SETTINGS)
    pods.ill.add("a")
    for _ in range(2):
        await checks("a:1", "a:1")
    checks.keep(["b:1"])
    await checks("a:1", "a:1")
    assert told == ["passed"] * 3, "below the threshold nothing is held against it"
