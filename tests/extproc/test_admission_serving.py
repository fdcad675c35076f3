"""Admission as it is configured and seen from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from extproc.config.settings import PickerConfig
from extproc.observability.admission import AdmissionCollector
from extproc.observability.debug import application
from extproc.picking.admission.settings import (
    AdmissionSettings,
    BandSettings,
    ConcurrencySettings,
    Fairness,
    Order,
    UtilizationSettings,
)
from extproc.picking.profiles import read_profiles
from extproc.request import Completed, InferenceRequest, Outcome, Refused, Routed
from extproc.service.server import EndpointPickerServer
from pools.model import World
from tests.extproc.admission_pool import POOL, AdmissionPool, endpoints, world

HEAD = "apiVersion: poolpilot.dev/v1alpha1\nkind: SchedulingProfiles\n"


def test_all_of_admission_can_be_written_in_the_profiles_file() -> None:
    text = """\
admission:
  saturation: {concurrency: {maxConcurrency: 32}}
  headroom: 0.1
  maxRequests: 1000
  maxBytes: 5000000
  maxTtlSeconds: 30
  noEndpointsTtlSeconds: 2
  outputWeight: 3
  defaultBand: {fairness: tokens}
  bands:
  - priority: 10
    ttlSeconds: 30
    order: earliest-deadline
  - {priority: 0, ceiling: 0.9, maxRequests: 10, maxBytes: 1000}
"""
    read, problems = read_profiles(HEAD + text, "profiles.yaml")
    assert problems == ()
    assert read is not None
    assert read.admission == AdmissionSettings(
        ConcurrencySettings(32),
        headroom=0.1,
        default_band=BandSettings(fairness=Fairness.TOKENS),
        bands={
            10: BandSettings(ttl=30, order=Order.EARLIEST_DEADLINE),
            0: BandSettings(ceiling=0.9, max_requests=10, max_bytes=1000),
        },
        max_requests=1000,
        max_bytes=5_000_000,
        max_ttl=30,
        no_endpoints_ttl=2,
        output_weight=3,
    )


def test_an_empty_section_turns_admission_on_as_it_is_shipped() -> None:
    read, problems = read_profiles(HEAD + "admission: {}\n", "profiles.yaml")
    assert problems == ()
    assert read is not None
    assert read.admission == AdmissionSettings(UtilizationSettings())


def test_without_the_section_nobody_waits() -> None:
    read, _ = read_profiles(HEAD, "profiles.yaml")
    assert read is not None
    assert read.admission is None


@pytest.mark.parametrize(
    ("section", "line", "says"),
    [
        ("  headrom: 1\n", 4, "headroom"),
        ("  saturation: {}\n", 4, "either utilization or concurrency"),
        ("  maxTtlSeconds: 1\n", 3, "less than the ttl of a band"),
        ("  defaultBand: {fairness: tokens, order: latest}\n", 4, "earliest-deadline"),
        ("  bands: [{priority: 0}, {priority: 0}]\n", 4, "priority 0 is given twice"),
        ("  bands: [{ceiling: 0.5}]\n", 4, "priority"),
        (
            "  bands: [{priority: 1, ceiling: 0.5}, {priority: 0, ceiling: 0.6}]\n",
            3,
            "must not rise as priorities fall",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(section: str, line: int, says: str) -> None:
    read, problems = read_profiles(f"{HEAD}admission:\n{section}", "profiles.yaml")
    assert read is None
    assert any(says in str(problem) for problem in problems), problems
    assert problems[0].line == line


def pool_with_a_queue() -> AdmissionPool:
    pool = AdmissionPool()
    first = pool.send()
    pool.send(flow="a", body=100), pool.send(flow="a"), pool.send("urgent", flow="b")
    pool.send("batch")
    pool.wait(1)
    pool.end(first)
    return pool


async def test_the_queues_can_be_looked_at() -> None:
    pool = pool_with_a_queue()
    app = application(
        pool.director, CollectorRegistry(), lambda: True, lambda: pool.now, admission=pool.picker
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://picker") as client:
        shown = (await client.get("/debug/queues")).json()
    [row] = shown["queues"]
    assert (row["pool"], row["waiting"], row["bytes"]) == ("default/llm", 2, 100)
    assert row["saturation"] == 1.0
    urgent, normal = [band for band in row["bands"] if band["priority"] >= 0]
    assert urgent["longest_flows"][0]["dispatched_and_open"] == 1
    assert normal["longest_flows"] == [
        {
            "flow": "a",
            "waiting": 2,
            "oldest_s": 1.0,
            "dispatched_and_open": 0,
            "virtual_service": 0,
        }
    ]


async def test_where_admission_is_off_the_page_says_so() -> None:
    pool = AdmissionPool()
    app = application(pool.director, CollectorRegistry(), lambda: True)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://picker") as client:
        assert (await client.get("/debug/queues")).json() == {"admission": "off", "queues": []}


def test_the_queues_are_counted() -> None:
    pool = pool_with_a_queue()
    registry = CollectorRegistry()
    registry.register(AdmissionCollector(pool.telemetry.admission_metrics, pool.picker))
    page = generate_latest(registry).decode()
    of = 'pool="default/llm",priority='
    for line in (
        f'poolpilot_queue_requests{{{of}"0"}} 2.0',
        f'poolpilot_queue_requests{{{of}"10"}} 0.0',
        f'poolpilot_queue_bytes{{{of}"0"}} 100.0',
        f'poolpilot_admission_total{{outcome="shed",{of}"-1"}} 1.0',
        f'poolpilot_queue_duration_seconds_bucket{{le="1.0",{of}"10"}} 1.0',
        'poolpilot_pool_saturation{pool="default/llm"} 1.0',
    ):
        assert line in page, page
    pool.update(pools=())
    assert "default/llm" not in generate_latest(registry).decode()


class OneWorld:
    async def worlds(self) -> AsyncIterator[World]:
        yield world(*endpoints(1))
        await asyncio.Event().wait()


def server_with(folder: Path, text: str) -> EndpointPickerServer:
    file = folder / "profiles.yaml"
    file.write_text(HEAD + text)
    config = PickerConfig("127.0.0.1:0", None, None, profiles=file)
    return EndpointPickerServer(OneWorld(), config)


async def test_a_server_whose_file_has_the_section_lets_requests_wait_until_it_stops(
    tmp_path: Path,
) -> None:
    section = "admission:\n  saturation: {concurrency: {maxConcurrency: 1}}\n"
    server = server_with(tmp_path, section)
    await server.start()
    try:
        await until(lambda: server.health.ready)
        admission = server.admission
        assert admission is not None
        answers: list[Outcome] = []
        for number in range(3):
            request = InferenceRequest(str(number), POOL, "/v1/completions", "POST", {}, model="m")
            admission.pick(request, answers.append)
        [first] = answers
        assert isinstance(first, Routed)
        admission.settle(Completed(first.pick_id, code=200, served=first.endpoints[0]))
        assert len(answers) == 2
    finally:
        await server.stop(0)
    last = answers[-1]
    assert isinstance(last, Refused)
    assert (len(answers), last.reason) == (3, "shutting-down")


async def test_a_server_without_a_file_has_nothing_on_the_way() -> None:
    server = EndpointPickerServer(OneWorld(), PickerConfig("127.0.0.1:0", None, None))
    assert server.admission is None


async def test_an_edit_of_the_file_turns_it_on_changes_it_and_turns_it_off(tmp_path: Path) -> None:
    server = server_with(tmp_path, "")
    file = tmp_path / "profiles.yaml"
    await server.start()
    try:
        admission = server.admission
        assert admission is not None
        assert not admission.on
        await until(lambda: server.health.ready)
        answers: list[Outcome] = []

        def ask() -> None:
            request = InferenceRequest("r", POOL, "/v1/completions", "POST", {}, model="m")
            admission.pick(request, answers.append)

        ask()
        file.write_text(f"{HEAD}admission:\n  saturation: {{concurrency: {{maxConcurrency: 1}}}}\n")
        await until(lambda: admission.on)
        for _ in range(3):
            ask()
        assert len(answers) == 1, "what is under way from before counts"
        file.write_text(f"{HEAD}admission:\n  saturation: {{concurrency: {{maxConcurrency: 2}}}}\n")
        await until(lambda: len(answers) == 2)
        file.write_text(f"{HEAD}admission: {{headrom: 1}}\n")
        await until(lambda: server._profiles is not None and bool(server._profiles.problems))
        assert admission.usage.requests == 2, "a mistake changes nothing"
        file.write_text(HEAD)
        await until(lambda: not admission.on)
        assert len(answers) == 4
        ask()
        for outcome in answers:
            assert isinstance(outcome, Routed)
            admission.settle(Completed(outcome.pick_id, code=200))
        assert len(server.director.ledger) == admission.dispatched == 0
    finally:
        await server.stop(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 # nobody sets an event
            await asyncio.sleep(0.01)
