"""The xDS server as a whole: a source of Worlds, what is made of them, and who is told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Protocol

import structlog
from prometheus_client import CollectorRegistry, Gauge, Histogram

from inspection.http import HttpServer
from inspection.live import Live
from pools.attachment import AttachedWorld
from pools.model import Severity, World
from pools.source import Source
from pools.tasks import Parts
from xds.config import GRACE, XdsServerConfig
from xds.debug import ChangeLog, app, pulse
from xds.http import HttpConfig, bind
from xds.metrics import XdsMetrics
from xds.provider import WorldProvider
from xds.server import XdsServer
from xds.status import XdsStatus
from xds.translate import TranslateSettings, Translator

log = structlog.get_logger(__name__)

CLOSING = 1.5
"""Seconds in which the parts close after the streams; a second of these is what the HTTP server
gives to those it answers."""


class Reporter(Protocol):
    """Tells users what became of what they described, such as in the statuses of a cluster."""

    def offer(self, attached: AttachedWorld) -> None:
        """This is the newest World. Must return at once."""

    async def run(self) -> None:
        """Report until cancelled."""


class ControlPlane:
    """Serves Envoys what a source says, until it is told to stop.

    It listens from the start, but is not ready, and tells Envoys nothing, before the first World is
    there: an empty answer would delete what they have. ``reporter`` runs beside it.
    """

    def __init__(
        self,
        source: Source,
        settings: TranslateSettings | None = None,
        server_config: XdsServerConfig | None = None,
        http_config: HttpConfig | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self._source = source
        self._reporter = reporter
        self.registry = CollectorRegistry()
        self._metrics = _Metrics(self.registry)
        self.provider = WorldProvider(Translator(settings or TranslateSettings()))
        self.server = XdsServer(self.provider, server_config, metrics=XdsMetrics(self.registry))
        self.change_log = ChangeLog()
        self.live = Live(lambda: pulse(self.provider, self.server.changes))
        self._http_config = http_config = http_config or HttpConfig()
        self._http = HttpServer(
            app(
                self,
                names=(http_config.host, *http_config.names),
                envoy_admins=http_config.envoy_admins,
            )
        )
        self._parts = Parts()
        self._following: asyncio.Task[None] | None = None
        self._reporting: asyncio.Task[None] | None = None
        self._noted: frozenset[str] = frozenset()

    @property
    def port(self) -> int:
        """Of the xDS gRPC server."""
        return self.server.port

    @property
    def http_port(self) -> int:
        """The real one, also where any free port was asked for."""
        return int(self._http.listener.getsockname()[1])

    def status(self) -> XdsStatus:
        return self.server.status()

    def not_ready(self) -> str:
        """Why Envoys cannot be served yet; empty: they can."""
        if self.provider.world is None:
            return "nothing was read from the source yet"
        for variant in self.provider.variants():
            if variant.snapshot is None:
                return f"no configuration for {variant.group}: {variant.problem}"
        return ""

    async def run(self, *, grace: float = GRACE) -> None:
        """Serve until cancelled. Raises PartEndedError if a part ends, such as the source, and
        OSError for a taken port."""
        try:
            await self.start()
            await self._parts.first_end()
        finally:
            await self.stop(grace)

    async def start(self) -> None:
        self._http.listen(bind(self._http_config))
        await self.server.start()
        self._parts.start("HTTP server", self._http.run())
        self._following = self._parts.start("source", self._follow())
        if self._reporter is not None:
            self._reporting = self._parts.start("status writer", self._reporter.run())

    async def stop(self, grace: float = GRACE) -> None:
        """Stop what was started; streams in progress get ``grace`` seconds."""
        for task in (self._following, self._reporting):
            if task is not None:
                # Nothing new for streams that are to end, nor written about them.
                self._parts.cancel(task)
        self.live.close()
        await self.server.stop(grace)
        await self._parts.stop(CLOSING)
        self._http.close()

    async def _follow(self) -> None:
        async with contextlib.aclosing(self._source.worlds()) as worlds:
            async for world in worlds:
                self.take(world)

    def take(self, world: World) -> None:
        """Make ``world`` what Envoys get."""
        started = time.perf_counter()
        self.change_log.note(self.provider.world, world, time.time())
        cause = self.provider.offer(world)
        self._metrics.took(world, self.provider, time.perf_counter() - started)
        self._log_notes()
        if cause:
            log.info("new configuration", cause=cause, revision=world.revision)
            self.server.refresh(cause)
        if self._reporter is not None and self.provider.attached is not None:
            self._reporter.offer(self.provider.attached)

    def _log_notes(self) -> None:
        """What cannot be had, once, when it is new. Sources log their own problems."""
        notes = frozenset(
            note for v in self.provider.variants() if v.snapshot for note in v.snapshot.notes
        )
        for note in sorted(notes - self._noted):
            log.warning("not as described", why=note)
        self._noted = notes


class _Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "poolpilot_xds_translate_seconds",
            "Time to make all configurations from a new state of the source.",
            registry=registry,
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
        )
        self._pools = Gauge("poolpilot_xds_pools", "Pools that are described.", registry=registry)
        self._endpoints = Gauge(
            "poolpilot_xds_endpoints", "Endpoints of all pools.", registry=registry
        )
        self._problems = Gauge(
            "poolpilot_xds_problems",
            "Problems in what was read, which someone must mend.",
            ("severity",),
            registry=registry,
        )
        self._kept = Gauge(
            "poolpilot_xds_outdated_configurations",
            "Configurations for which the last good one stays, since the newest cannot be made.",
            registry=registry,
        )
        self._read = Gauge(
            "poolpilot_xds_last_change_timestamp_seconds",
            "When the source last yielded a state.",
            registry=registry,
        )

    def took(self, world: World, provider: WorldProvider, seconds: float) -> None:
        self._seconds.observe(seconds)
        self._pools.set(len(world.pools))
        self._endpoints.set(sum(map(len, world.endpoints.values())))
        for severity in Severity:
            count = sum(problem.severity is severity for problem in world.problems)
            self._problems.labels(severity.value).set(count)
        self._kept.set(sum(bool(variant.problem) for variant in provider.variants()))
        self._read.set_to_current_time()
