"""The page of metrics tells of all that the xDS server gives to Prometheus, and of no more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from poolpilot.logs import count_dropped_lines
from pools.model import World
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.http import HttpConfig

DROPPED = "poolpilot_xds_log_lines_dropped"
PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


class Nothing:
    """A source that yields no state."""

    async def worlds(self) -> AsyncIterator[World]:
        await asyncio.Event().wait()
        yield World()


def plane() -> ControlPlane:
    return ControlPlane(
        Nothing(), server_config=XdsServerConfig(port=0), http_config=HttpConfig(port=0)
    )


def listed() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels, as the page has them."""
    rows = re.findall(r"^\| `(poolpilot_xds_\w+)` \| (\w+) \| ([^|]+) \|", PAGE, flags=re.MULTILINE)
    assert len({name for name, _, _ in rows}) == len(rows)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


async def test_the_page_lists_exactly_what_the_xds_server_exposes() -> None:
    control = plane()
    count_dropped_lines(control.registry, DROPPED)
    await control.start()
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://127.0.0.1:{control.http_port}/metrics")).text
    finally:
        await control.stop(0)
    shown = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")
    }
    assert shown == {name: kind for name, (kind, _) in listed().items()}


def labels_in(registry: CollectorRegistry) -> dict[str, frozenset[str]]:
    """What each metric is labelled with, also those that have no value yet."""
    found = {}
    for metric in registry._collector_to_names:
        assert isinstance(metric, MetricWrapperBase)
        [family] = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = frozenset(metric._labelnames)
    return found


def test_the_page_gives_the_labels_that_there_are() -> None:
    labels = {**labels_in(plane().registry), f"{DROPPED}_total": frozenset()}
    assert labels == {name: of for name, (_, of) in listed().items()}
