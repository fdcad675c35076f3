"""The page of metrics tells of all that the picker gives to Prometheus, and of no more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from extproc.config.settings import PickerConfig
from extproc.observability.admission import AdmissionCollector
from extproc.observability.metrics import registry_of
from extproc.picking.admission.settings import AdmissionSettings
from extproc.picking.endpoint_health import Fault
from extproc.reasons import Reason
from extproc.request import Completed, Refused
from extproc.service.server import EndpointPickerServer
from poolpilot.log_queue import DroppedLines
from poolpilot.logs import count_dropped_lines
from pools.model import World
from tests.extproc.admission_pool import AdmissionPool

DROPPED = "poolpilot_log_lines_dropped"
PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def listed() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels, as the page has them."""
    rows = re.findall(r"^\| `(poolpilot_\w+)` \| (\w+) \| ([^|]+) \|", PAGE, flags=re.MULTILINE)
    names = [name for name, _, _ in rows]
    assert len(set(names)) == len(names)
    return {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in rows
        if not name.startswith("poolpilot_xds_")
    }


def name_of(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


class Nothing:
    """A source that yields no state."""

    async def worlds(self) -> AsyncIterator[World]:
        await asyncio.Event().wait()
        yield World()


async def test_the_page_lists_exactly_what_the_picker_exposes() -> None:
    config = PickerConfig(
        address="127.0.0.1:0",
        health_address=None,
        http_address="127.0.0.1:0",
        admission=AdmissionSettings(),
    )
    server = EndpointPickerServer(Nothing(), config)
    count_dropped_lines(server.registry, DROPPED)
    await server.start()
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://{server.http_address}/metrics")).text
    finally:
        await server.stop(grace=0)
    shown = {name_of(family): family.type for family in text_string_to_metric_families(text)}
    assert shown == {name: kind for name, (kind, _) in listed().items()}


def everything_once() -> Iterable[Metric]:
    """One request was served, by another endpoint than the first; one waits; one is refused."""
    pool = AdmissionPool(pods=2)
    metrics = pool.telemetry.metrics
    first = pool.send()
    pool.send(), pool.send()
    pool.wait(1)
    pool.end(first)
    done = Completed("", 200, 0.3, 0.1, attempts=2, served="10.0.0.9:8000", prompt_tokens=1)
    metrics.ended("default/llm", "m", "10.0.0.1:8000", done)
    metrics.ejected("10.0.0.1:8000", Fault.CONNECT)
    metrics.refused(Refused(Reason.BODY_TOO_LARGE, ""))
    pool.director.fleet.troubled("10.0.0.1:8000", "models", "answered 401")
    yield from registry_of(metrics, pool.director.fleet, lambda: pool.now).collect()
    yield from AdmissionCollector(pool.telemetry.admission_metrics, pool.picker).collect()
    yield from DroppedLines(DROPPED, lambda: None).collect()


def test_the_page_gives_the_labels_that_there_are() -> None:
    labels = {}
    for family in everything_once():
        assert family.samples, f"{family.name} has nothing to show"
        found = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        [labels[name_of(family)]] = found
    assert labels == {name: of for name, (_, of) in listed().items()}


def test_alerts_name_metrics_that_there_are() -> None:
    rows = set(re.findall(r"^\| `(poolpilot_\w+)` \|", PAGE, flags=re.MULTILINE))
    named = set(re.findall(r"poolpilot_\w+", PAGE.partition("\n## Alerts")[2]))
    assert named
    assert {name.removesuffix("_bucket") for name in named} <= rows
