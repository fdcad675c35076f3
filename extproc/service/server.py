"""The endpoint picker as a server: a source, a director, and what they are reached by."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections.abc import AsyncIterable, Callable
from typing import TYPE_CHECKING

import structlog

from extproc.compiled import is_compiled
from extproc.config.memory import give_back
from extproc.config.profiles_file import ProfilesFile
from extproc.config.settings import GRACE, PickerConfig, TransportKind
from extproc.exchange.settings import ExchangeSettings
from extproc.observability.admission import AdmissionCollector
from extproc.observability.debug import application, pulse
from extproc.observability.metrics import registry_of
from extproc.observability.request_log import RequestLog
from extproc.observability.telemetry import Telemetry
from extproc.picking.admission.admitting_picker import TICK_INTERVAL, AdmittingPicker
from extproc.picking.director import Director
from extproc.picking.fleet import Fleet
from extproc.picking.model_index import ModelIndex
from extproc.picking.profiles import builtin
from extproc.picking.profiles.admission import MOST_SECONDS
from extproc.picking.scheduling.load import Load
from extproc.service import state as state_file
from extproc.service.access_log import AccessLog
from extproc.service.collector import spare_the_collector
from extproc.service.ext_proc import ExternalProcessor
from extproc.service.grpc_health import Health
from extproc.service.lasting import LastingStreams
from extproc.service.model_list import ModelList
from extproc.service.state import StateFile
from extproc.signals import pauses
from extproc.signals.active_checks import ActiveChecks
from extproc.signals.fetch import HttpFetch
from extproc.signals.pauses import Pauses
from extproc.signals.polling import Poller
from extproc.signals.scraper import Scraper
from extproc.signals.served_models import ServedModels
from extproc.transport.api import Server, Services
from extproc.transport.grpcio import serve_grpcio
from extproc.transport.listen import TcpAddress, bind, parse_address
from extproc.transport.tls import TlsFiles
from inspection.http import HttpServer
from inspection.live import Live
from pools.addresses import host_port
from pools.extras import install_command
from pools.model import World
from pools.source import Source
from pools.tasks import Parts

if TYPE_CHECKING:
    from extproc.observability.tracing import Traces
    from extproc.request import Picker
    from extproc.signals.kv_events import KVEvents

log = structlog.get_logger(__name__)

EXPIRY_INTERVAL = 1.0
PICK_SLACK = 5.0
"""Seconds that a pick may take beyond the longest wait in a queue."""
LEAST_FOR_TRACES = 0.5
"""Seconds to send the last spans in where the grace period is used up. With a collector that hangs
they come on top of it, so they are few: whoever runs us does not wait much longer than that."""
LEAST_FOR_PARTS = 1.5
"""Seconds in which the parts can always close, whatever requests took of a grace period: a second
of these is what the HTTP server gives to those it answers."""
MOST_FOR_TRACES = 5.0
"""Seconds that sending the last spans may take of a grace period that nobody else needs."""


class TracesNeedPackageError(Exception):
    """Traces were asked for, and what makes them is not installed. The message says what to do."""


class EndpointPickerServer:
    """Picks endpoints for any number of pools.

    Make it inside a running event loop. It is reachable after :meth:`start`, and ready (by gRPC
    health and ``/readyz``) once the first World is there. :meth:`run` does all until cancelled.
    """

    def __init__(
        self,
        source: Source,
        config: PickerConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config = config or PickerConfig()
        self._source = source
        self._clock = clock
        self._profiles = ProfilesFile(config.profiles) if config.profiles is not None else None
        profiles = self._profiles.current if self._profiles else builtin(config.profile)
        self._request_log = (
            RequestLog(config.request_log_share) if config.request_log_share else None
        )
        self._telemetry = Telemetry(self._request_log)
        metrics = self._telemetry.metrics
        fleet = Fleet(
            profiles.for_pool,
            config.health,
            config.scrape.stale_after,
            Load(profiles.load),
            self._telemetry,
        )
        waiting = profiles.admission or config.admission
        # A file that is silent about admission today may turn it on tomorrow.
        may_wait = waiting is not None or self._profiles is not None
        self.director = Director(
            fleet,
            clock,
            random.Random(),
            in_flight_expiry=config.in_flight_expiry,
            endpoints_per_pick=config.endpoints_per_pick,
            remembered=config.remembered_decisions,
            models=ModelIndex(expects_reports=config.models_interval > 0),
            explains=config.explain_header,
        )
        metrics.is_known = self.director.models.names
        self.admission = AdmittingPicker(self.director, waiting) if may_wait else None
        """Who waits; None: nobody ever will."""
        self._picking = self.admission or self.director
        """Makes room for those who wait, if there are any."""
        self.health = Health()
        self._fetch = HttpFetch()
        self._scraper = Scraper(self.admission or fleet, self._fetch, config.scrape, clock=clock)
        self._check = ActiveChecks(fleet, self._fetch, config.checks, clock)
        self._checks = Poller("health check", self._check, config.checks.interval)
        self._pauses = Pauses(fleet, self._fetch, clock)
        self._pausing = Poller("question for pauses", self._pauses, pauses.INTERVAL)
        asking = ServedModels(self.director.models, self._fetch, fleet.troubled)
        self._models = Poller("question for models", asking, config.models_interval)
        self.registry = registry_of(metrics, fleet, clock)
        """What ``/metrics`` shows."""
        if self.admission is not None:
            counts = self._telemetry.admission_metrics
            self.registry.register(AdmissionCollector(counts, self.admission))
        self._live = Live(lambda: pulse(self.director, clock(), self._profiles, self.admission))
        self._http = HttpServer(
            application(
                self.director,
                self.registry,
                lambda: self.health.ready,
                clock,
                self._profiles,
                self.admission,
                config=config.shown(),
                live=self._live,
                names=config.http_names,
            )
        )
        self._state = StateFile(config.state) if config.state is not None else None
        self._traces: Traces | None = None
        self._kv_events: KVEvents | None = None
        self._stopping = False
        self._lasting = LastingStreams()
        self._serving: list[Server] = []
        self._parts = Parts()

    @property
    def address(self) -> str:
        """Where ext-proc is really served."""
        return self._serving[0].address

    @property
    def health_address(self) -> str:
        """Where probes are really answered."""
        return self._serving[-1].address

    @property
    def http_address(self) -> str:
        """Where debug pages and metrics really are."""
        name = self._http.listener.getsockname()
        return name if isinstance(name, str) else host_port(name[0], name[1])

    async def start(self) -> None:
        """Listen and begin to follow the source. Raises OSError when an address is taken."""
        config = self.config
        try:
            await self._fetch.open()
            # Before anybody is told that we are ready, and in a thread: it may be large.
            if self._state is not None and (known := await asyncio.to_thread(self._state.read)):
                self.director.fleet.load.recall(known)
            if config.kv_events_port is not None:
                from extproc.signals.kv_events import KVEvents  # needs a further package

                fleet = self.director.fleet
                self._kv_events = KVEvents(config.kv_events_port, fleet, self._fetch)
            if self._request_log is not None:
                self._request_log.start()
            exchanges = ExternalProcessor(
                ModelList(self._traced(self._picking), self.director),
                self._with_time_to_wait(config.exchange),
                self._telemetry.metrics.refused,
                config.bytes_held,
                give_back,
            )
            self._telemetry.metrics.held_bytes = lambda: exchanges.held.total
            services = {
                **exchanges.services(),
                **self._lasting.track(AccessLog(self._picking, exchanges.sent_picks).services()),
                **self._lasting.track(self.health.services()),
            }
            await self._serve(services, config.address, config.tls)
            if config.health_address is not None:
                probes = self._lasting.track(self.health.services())
                await self._serve(probes, config.health_address, None)
            if config.http_address is not None:
                self._http.listen(bind(parse_address(config.http_address)))
                self._parts.start("HTTP server", self._http.run())
        except BaseException:
            await self.stop(0)
            raise
        self._parts.start("scraper", self._scraper.run())
        self._parts.start("health checks", self._checks.run())
        self._parts.start("questions for models", self._models.run())
        self._parts.start("questions for pauses", self._pausing.run())
        if self._kv_events is not None:
            self._parts.start("KV events", self._kv_events.run())
        self._parts.start("source", self._follow())
        self._parts.start("in-flight expiry", self._expire())
        if self._state is not None:
            self._parts.start("state", self._keep_state(self._state))
        if self.admission is not None:
            self._parts.start("queues", self._follow_queues(self.admission))
        if self._profiles is not None:
            self._parts.start("profiles file", self._follow_profiles(self._profiles))
        log.info(
            "endpoint picker listens",
            address=self.address,
            profile=config.profile,
            compiled=is_compiled(),
        )

    async def stop(self, grace: float = GRACE) -> None:
        """Say "not ready", take no new streams, and let those in progress finish for up to
        ``grace`` seconds, all servers together."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        self._stopping = True
        self.health.ready = False
        if self._serving:
            delay = min(self.config.drain_delay, grace)
            await asyncio.sleep(delay)
            if self.admission is not None:
                self.admission.close()
            async with asyncio.TaskGroup() as stopping:
                # Probes come last: they are answered for as long as there is something to finish.
                for server in self._serving:
                    self._lasting.finish()
                    left = max(0.0, deadline - loop.time())
                    closing = stopping.create_task(server.stop(left))
                    # What overruns its grace must not cost the next one time as well.
                    await asyncio.wait({closing}, timeout=left)
            self._serving.clear()
        self._live.close()
        # One that is slow to close must not add to the time that another takes.
        async with asyncio.TaskGroup() as ending:
            ending.create_task(self._parts.stop(max(LEAST_FOR_PARTS, deadline - loop.time())))
            if self._request_log is not None:
                ending.create_task(asyncio.to_thread(self._request_log.stop))
            if self._state is not None:
                ending.create_task(self._write_state_once(self._state))
            if self._traces is not None:
                within = min(MOST_FOR_TRACES, max(LEAST_FOR_TRACES, deadline - loop.time()))
                ending.create_task(asyncio.to_thread(self._traces.close, within))
                self._traces = None
        self._kv_events = None
        self._http.close()
        await self._fetch.close()

    async def run(self, grace: float = GRACE) -> None:
        """Serve until cancelled, then stop gracefully. Raises PartEndedError if a part ends."""
        await self.start()
        spare_the_collector()
        try:
            await self._parts.first_end()
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await self.stop(grace)

    def _traced(self, picker: Picker) -> Picker:
        """The picker with a span for each pick, if traces are wanted."""
        config = self.config
        if config.trace_collector is None:
            return picker
        try:
            # Heavy, and needed by few.
            from extproc.observability.tracing import TracedPicker, Traces
        except ImportError as error:
            raise TracesNeedPackageError(
                f"traces need a further package ({error.name} is missing): "
                f"{install_command('otel')}"
            ) from error
        self._traces = Traces(config.trace_collector, config.trace_share)
        return TracedPicker(picker, self._traces)

    def _with_time_to_wait(self, exchange: ExchangeSettings) -> ExchangeSettings:
        """A pick may take as long as a request may wait for it."""
        waiting = self.config.admission
        # What a file allows may change, what exchanges allow may not.
        longest = MOST_SECONDS if self._profiles else waiting.max_ttl if waiting else 0.0
        if not longest:
            return exchange
        timeout = max(exchange.pick_timeout, longest + PICK_SLACK)
        return dataclasses.replace(exchange, pick_timeout=timeout)

    async def _serve(self, services: Services, address: str, tls: TlsFiles | None) -> None:
        if self.config.transport is TransportKind.NATIVE:
            from extproc.transport.native import serve_native

            self._serving.append(
                await serve_native(
                    services,
                    address,
                    tls=tls,
                    limits=self.config.transport_limits,
                    upkeep=self.config.upkeep,
                )
            )
            return
        where = parse_address(address)
        if isinstance(where, TcpAddress) and not where.host:
            address = f"[::]:{where.port}"
        self._serving.append(await serve_grpcio(services, address, tls=tls))

    async def _follow(self) -> None:
        async with contextlib.aclosing(self._source.worlds()) as worlds:
            await self._take_over(worlds)

    async def _take_over(self, worlds: AsyncIterable[World]) -> None:
        async for world in worlds:
            try:
                self._picking.update(world)
            except Exception as error:
                # The last good World stays in force.
                self.director.world_error += f": {type(error).__name__}: {error}"
                log.exception("configuration was not taken over", revision=world.revision)
                continue
            self._telemetry.follow(self.director.fleet)
            self._scraper.follow(self.director.fleet.targets())
            if self._kv_events is not None:
                self._kv_events.follow(self.director.fleet.endpoints())
            self._pauses.keep({*self.director.fleet.members})
            self._pausing.follow({key: key for key in self.director.fleet.members})
            self._ask_for_models()
            self._check_health()
            self.health.ready = not self._stopping
            log.info(
                "configuration taken over",
                revision=world.revision,
                pools=len(world.pools),
                endpoints=len(self.director.fleet.members),
                problems=len(world.problems),
            )

    async def _keep_state(self, state: StateFile) -> None:
        load, began = self.director.fleet.load, self._clock()
        while True:
            await asyncio.sleep(state_file.INTERVAL)
            if self._clock() - began >= state_file.RECALLED_FOR:
                load.forget_recalled()
            await state.write(load.known())

    async def _write_state_once(self, state: StateFile) -> None:
        """At the end. A disk that hangs must not keep us."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAST_FOR_PARTS):
                await state.write(self.director.fleet.load.known())

    async def _follow_profiles(self, file: ProfilesFile) -> None:
        async for profiles in file.changes():
            self.director.fleet.use(profiles.for_pool, profiles.load)
            if self.admission is not None:
                self.admission.use(profiles.admission or self.config.admission)
            log.info(
                "profiles taken over", file=str(self.config.profiles), default=profiles.default
            )

    async def _follow_queues(self, admission: AdmittingPicker) -> None:
        while True:
            await asyncio.sleep(TICK_INTERVAL)
            if admission.usage.requests:
                try:
                    admission.tick()
                except Exception:
                    # Whoever waits would wait for ever.
                    log.exception("the queues could not be looked at")

    def _ask_for_models(self) -> None:
        """Only where somebody may have to be told which pool serves a model."""
        fleet = self.director.fleet
        wanted = self.config.models_interval > 0 and len(fleet.pools) > 1
        self._models.follow({key: key for key in fleet.members} if wanted else {})

    def _check_health(self) -> None:
        if self.config.checks.interval:
            endpoints = {key: key for key in self.director.fleet.members}
            self._check.keep(endpoints)
            self._checks.follow(endpoints)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_INTERVAL)
            expired = len(self._picking.expire())
            if expired:
                log.warning(
                    "requests expired without a report of their end",
                    requests=expired,
                    after_s=self.config.in_flight_expiry,
                )
