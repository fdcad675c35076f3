"""The endpoint picker as a server: a source, a director, and what they are reached by."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterable, Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from extproc.compiled import is_compiled
from extproc.config.settings import PickerConfig, TransportKind
from extproc.exchange.settings import ExchangeSettings
from extproc.observability.debug import application, pulse
from extproc.observability.metrics import registry_of
from extproc.observability.request_log import RequestLog
from extproc.picking.admission.admitting_picker import AdmittingPicker
from extproc.picking.admission.scrapes import AdmittingSink
from extproc.picking.admission.views import AdmissionCollector
from extproc.picking.decisions import DecisionRecord
from extproc.picking.director import Director
from extproc.picking.fleet import Fleet
from extproc.picking.model_index import ModelIndex
from extproc.picking.profiles import ProfilesFile, builtin
from extproc.picking.profiles.admission import MOST_SECONDS
from extproc.picking.scheduling.load import Load
from extproc.service.access_log import AccessLog
from extproc.service.collector import spare_the_collector
from extproc.service.ext_proc import ExternalProcessor
from extproc.service.grpc_health import Health
from extproc.service.lasting import LastingStreams
from extproc.service.model_list import ModelList
from extproc.signals.active_checks import ActiveChecks
from extproc.signals.fetch import HttpFetch
from extproc.signals.polling import Poller
from extproc.signals.scraper import Scraper, SignalSink
from extproc.signals.served_models import ServedModels
from extproc.transport.api import Server, Services
from extproc.transport.grpcio import serve_grpcio
from extproc.transport.listen import TcpAddress, bind, join_host_port, parse_address
from extproc.transport.tls import TlsFiles
from inspection.http import HttpServer
from inspection.live import Live
from pools.model import World
from pools.source import Source

if TYPE_CHECKING:
    from extproc.observability.tracing import Traces
    from extproc.request import Picker
    from extproc.signals.kv_events import KVEvents

log = structlog.get_logger(__name__)

EXPIRY_INTERVAL = 1.0
QUEUE_INTERVAL = 0.05
"""Seconds between two looks at who has waited for too long."""
PICK_SLACK = 5.0
"""Seconds that a pick may take beyond the longest wait in a queue."""
LEAST_FOR_TRACES = 0.5
"""Seconds to send the last spans in where the grace period is used up. With a collector that hangs
they come on top of it, so they are few: whoever runs us does not wait much longer than that."""
MOST_FOR_TRACES = 5.0
"""Seconds that sending the last spans may take of a grace period that nobody else needs."""


class SourceEndedError(Exception):
    """The source of Worlds came to an end, which it never should."""


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
        self._profiles = ProfilesFile(config.profiles) if config.profiles is not None else None
        profiles = self._profiles.current if self._profiles else builtin(config.profile)
        fleet = Fleet(
            profiles.for_pool, config.health, config.scrape.stale_after, Load(profiles.load)
        )
        self._request_log = (
            RequestLog(config.request_log_share) if config.request_log_share else None
        )
        on_end: list[Callable[[DecisionRecord], None]] = []
        if self._request_log is not None:
            on_end.append(self._request_log.ended)
        waiting = profiles.admission or config.admission
        # A file that is silent about admission today may turn it on tomorrow.
        may_wait = waiting is not None or self._profiles is not None
        self.director = Director(
            fleet,
            in_flight_expiry=config.in_flight_expiry,
            endpoints_per_pick=config.endpoints_per_pick,
            remembered=config.remembered_decisions,
            clock=clock,
            on_end=_tell_all(on_end) if on_end or may_wait else None,
            models=ModelIndex(expects_reports=config.models_interval > 0),
            explains=config.explain_header,
        )
        self.admission: AdmittingPicker | None = None
        """Who waits; None: nobody ever will."""
        scrapes: SignalSink = fleet
        if may_wait:
            self.admission = AdmittingPicker(self.director, waiting, clock)
            on_end.append(self.admission.ended)
            scrapes = AdmittingSink(fleet, self.admission)
        self.health = Health()
        self._fetch = HttpFetch()
        self._scraper = Scraper(scrapes, self._fetch, config.scrape, clock=clock)
        self._check = ActiveChecks(fleet, self._fetch, config.checks, clock)
        self._checks = Poller("health check", self._check, config.checks.interval)
        asking = ServedModels(self.director.models, self._fetch)
        self._models = Poller("question for models", asking, config.models_interval)
        registry = registry_of(self.director.metrics, fleet, clock)
        if self.admission is not None:
            registry.register(AdmissionCollector(self.admission))
        self._live = Live(lambda: pulse(self.director, clock(), self._profiles, self.admission))
        self._http = HttpServer(
            application(
                self.director,
                registry,
                lambda: self.health.ready,
                clock,
                self._profiles,
                self.admission,
                config=config.shown(),
                live=self._live,
                names=config.http_names,
            )
        )
        self._traces: Traces | None = None
        self._kv_events: KVEvents | None = None
        self._stopping = False
        self._lasting = LastingStreams()
        self._serving: list[Server] = []
        self._tasks: list[asyncio.Task[None]] = []

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
        return name if isinstance(name, str) else join_host_port(name[0], name[1])

    async def start(self) -> None:
        """Listen and begin to follow the source. Raises OSError when an address is taken."""
        config = self.config
        try:
            await self._fetch.open()
            if config.kv_events_port is not None:
                from extproc.signals.kv_events import KVEvents  # needs a further package

                fleet = self.director.fleet
                self._kv_events = KVEvents(config.kv_events_port, fleet.heard, fleet.events_lost)
            if self._request_log is not None:
                self._request_log.start()
            exchanges = ExternalProcessor(
                ModelList(self._traced(self.admission or self.director), self.director),
                self._with_time_to_wait(config.exchange),
                self.director.metrics.refused,
            )
            services = {
                **exchanges.services(),
                **self._lasting.track(AccessLog(self.director, exchanges.sent_picks).services()),
                **self._lasting.track(self.health.services()),
            }
            await self._serve(services, config.address, config.tls)
            if config.health_address is not None:
                probes = self._lasting.track(self.health.services())
                await self._serve(probes, config.health_address, None)
            if config.http_address is not None:
                self._http.start(bind(parse_address(config.http_address)))
        except BaseException:
            await self.stop(0)
            raise
        self._tasks = [
            asyncio.create_task(self._follow(), name="source"),
            asyncio.create_task(self._expire(), name="in-flight expiry"),
        ]
        if self.admission is not None:
            waiting = self._follow_queues(self.admission)
            self._tasks.append(asyncio.create_task(waiting, name="queues"))
        if self._profiles is not None:
            following = self._follow_profiles(self._profiles)
            self._tasks.append(asyncio.create_task(following, name="profiles file"))
        log.info(
            "endpoint picker listens",
            address=self.address,
            profile=config.profile,
            compiled=is_compiled(),
        )

    async def stop(self, grace: float = 10.0) -> None:
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._scraper.stop()
        if self._kv_events is not None:
            await self._kv_events.stop()
            self._kv_events = None
        await self._models.stop()
        await self._checks.stop()
        await self._fetch.close()
        self._live.close()
        # One that is slow to close must not add to the time that another takes.
        async with asyncio.TaskGroup() as ending:
            ending.create_task(self._http.stop())
            if self._request_log is not None:
                ending.create_task(asyncio.to_thread(self._request_log.stop))
            if self._traces is not None:
                within = min(MOST_FOR_TRACES, max(LEAST_FOR_TRACES, deadline - loop.time()))
                ending.create_task(asyncio.to_thread(self._traces.close, within))
                self._traces = None

    async def run(self, grace: float = 10.0) -> None:
        """Serve until cancelled, then stop gracefully. Raises what a part of it died of."""
        await self.start()
        spare_the_collector()
        try:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
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
                "pip install 'poolpilot[otel]'"
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
        raise SourceEndedError("the source of pools ended; restart the endpoint picker")

    async def _take_over(self, worlds: AsyncIterable[World]) -> None:
        async for world in worlds:
            try:
                self.director.update(world)
            except Exception as error:
                # The last good World stays in force.
                self.director.world_error += f": {type(error).__name__}: {error}"
                log.exception("configuration was not taken over", revision=world.revision)
                continue
            if self.admission is not None:
                self.admission.updated()
            self._scraper.follow(self.director.fleet.targets())
            if self._kv_events is not None:
                self._kv_events.follow(self.director.fleet.addresses())
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
            await asyncio.sleep(QUEUE_INTERVAL)
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
            expired = self.director.expire()
            if expired:
                log.warning(
                    "requests expired without a report of their end",
                    requests=expired,
                    after_s=self.config.in_flight_expiry,
                )


def _tell_all(
    listeners: Sequence[Callable[[DecisionRecord], None]],
) -> Callable[[DecisionRecord], None]:
    """``listeners`` may still get longer."""

    def tell(record: DecisionRecord) -> None:
        for listener in listeners:
            listener(record)

    return tell
