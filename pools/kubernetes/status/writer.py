"""The loop that writes statuses and Events, beside the servers and never in their way."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import random
import re
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import structlog

from pools.attachment import AttachedWorld
from pools.kubernetes.backoff import delay
from pools.kubernetes.connection import MERGE_PATCH, ApiError, Connection, UnreachableError
from pools.kubernetes.credentials import Credentials
from pools.kubernetes.moments import micro_time, rfc3339
from pools.kubernetes.status.composition import compose
from pools.kubernetes.status.document import mapping
from pools.kubernetes.status.election import DURATION, Election
from pools.kubernetes.status.elector import CONFLICT, FORBIDDEN, NOT_FOUND, Elector
from pools.kubernetes.status.events import Grievance, Telling, events_path, grievances
from pools.kubernetes.status.inputs import StatusInputs
from pools.kubernetes.status.ledger import Ledger
from pools.kubernetes.status.pace import Pace
from pools.kubernetes.status.reports import Ours, Report
from pools.kubernetes.status.target import Target, collection
from pools.model import ObjectName
from pools.well_known import CONTROLLER

log = structlog.get_logger(__name__)

OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Kubernetes mounts this into every pod."""
CONFLICTS = 5
"""Tries to write one status that others write at the same time."""
PAGE_SIZE = 250
TERMINATING = "being terminated"
"""What the API server says of Events in a namespace that goes away, with 403."""


@dataclass(frozen=True, slots=True)
class StatusTiming:
    """Times in seconds."""

    lease: float = DURATION
    debounce: float = 0.1
    """After a change, until it is looked at: more may follow."""
    resync: float = 300.0
    """Between two looks at all statuses, give or take a quarter: others may have changed them."""
    longest_retry: float = 60.0
    rate: float = 20.0
    """Requests a second, after a burst."""
    burst: int = 60


@dataclass(frozen=True, slots=True)
class StatusSettings:
    """What is written, and by whom."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespaces: tuple[str, ...] = ()
    """Those that are watched; empty: all."""
    controller: str = CONTROLLER
    lease_namespace: str = ""
    """Empty: that of the pod, else ``default``."""
    addresses: tuple[tuple[str, str], ...] = ()
    """Type (``IPAddress``, ``Hostname``) and value: where clients reach the Envoys."""
    timing: StatusTiming = field(default_factory=StatusTiming)

    @property
    def lease_name(self) -> str:
        """One for each controller's name: installations under different names do not compete."""
        return re.sub(r"[^a-z0-9.-]", "-", f"poolpilot-status-{self.controller.lower()}")[:253]


def own_namespace() -> str:
    """The namespace of the pod that this runs in, else ``default``."""
    with contextlib.suppress(OSError):
        return OWN_NAMESPACE.read_text().strip() or "default"
    return "default"


class StatusWriter:
    """Writes what :func:`compose` and :func:`grievances` say of the newest World, while this
    replica holds the lease.

    ``connect`` opens the way to the API server, by default that of the settings; ``clock`` counts
    seconds, ``now`` tells the time of day.
    """

    def __init__(
        self,
        settings: StatusSettings,
        *,
        identity: str = "",
        connect: Callable[[], Connection] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._connect = connect or (
            lambda: Connection(Credentials(settings.kubeconfig, settings.context))
        )
        self._identity = identity or f"{socket.gethostname()}_{uuid.uuid4().hex[:12]}"
        self._clock = clock
        self._now = now
        self._chance = chance
        self._inputs: StatusInputs | None = None
        self._changed = asyncio.Event()
        self._composed: _Composed | None = None
        self._gateways: frozenset[ObjectName] = frozenset()
        """Those that are ours, and those that were until all was written that follows from it."""
        self._pace = Pace(settings.timing.rate, settings.timing.burst)
        self._telling = Telling()
        self._ledger = Ledger()
        self._denied: set[str] = set()
        """Resources that may not be written, as seen since everything was last looked at."""
        self._told_denied: set[str] = set()
        self._resync_at = 0.0
        self.looks = 0
        """How often it has compared all statuses."""

    def offer(self, attached: AttachedWorld) -> None:
        """This is the newest World. Returns at once."""
        inputs = StatusInputs.of(attached)
        if inputs != self._inputs:
            self._inputs = inputs
            self._changed.set()

    async def run(self) -> None:
        """Run until cancelled. Nothing is asked of the API server before the first World is there.
        Whatever goes wrong is logged and tried again."""
        await self._changed.wait()
        failures = 0
        while True:
            began = self._clock()
            try:
                await self._connected()
            except Exception:
                failures = failures + 1 if self._clock() - began < self._longest else 1
                log.exception("statuses cannot be written, trying again")
            await asyncio.sleep(delay(failures, self._longest, self._chance()))

    @property
    def _longest(self) -> float:
        return self._settings.timing.longest_retry

    async def _connected(self) -> None:
        settings = self._settings
        async with self._connect() as connection:
            elector = Elector(
                connection,
                Election(self._identity, settings.timing.lease),
                settings.lease_namespace or own_namespace(),
                settings.lease_name,
                clock=self._clock,
                now=self._now,
                on_change=self._lead_changed,
                duration=settings.timing.lease,
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(elector.run(), name="status lease")
                group.create_task(self._work(connection, elector), name="status")

    def _lead_changed(self) -> None:
        self._resync_at = self._clock()
        self._changed.set()

    async def _work(self, connection: Connection, elector: Elector) -> None:
        failures, pause = 0, 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause or None):
                    await self._changed.wait()
            await asyncio.sleep(self._settings.timing.debounce)
            self._changed.clear()
            if self._inputs is None or not elector.leads():
                pause = 0.0
                continue
            try:
                await self._round(connection, elector, self._inputs)
                failures = 0
                pause = self._next_round()
            except (ApiError, UnreachableError, msgspec.MsgspecError) as error:
                failures += 1
                if failures == 1:
                    log.warning("statuses cannot be written, trying again", error=str(error))
                retry_after = error.retry_after if isinstance(error, ApiError) else 0.0
                await asyncio.sleep(delay(failures, self._longest, self._chance(), retry_after))
                self._changed.set()

    def _next_round(self) -> float:
        """Seconds until something is due, whatever else changes. Never 0."""
        now = self._clock()
        due = [self._resync_at]
        retry = self._ledger.next_retry()
        if retry is not None:
            due.append(retry)
        if self._composed is not None and self._telling.due(self._composed.grievances, now):
            due.append(now + 1.0)
        return max(min(due) - now, 0.01)

    async def _round(self, connection: Connection, elector: Elector, inputs: StatusInputs) -> None:
        """Write what differs; leave off as soon as there is a newer World."""
        composed = self._compose(inputs)
        ours = Ours(
            self._settings.controller,
            frozenset(one.name.name for one in inputs.gateway_classes),
            self._gateways,
        )
        if self._clock() >= self._resync_at:
            await self._look_at_all(connection, composed, ours)
            self.looks += 1
            spread = 0.75 + self._chance() / 2
            self._resync_at = self._clock() + self._settings.timing.resync * spread
        for target, report in list(self._ledger.due(self._clock())):
            if self._changed.is_set() or not elector.leads():
                return
            await self._write(connection, target, report, ours)
        self._gateways = frozenset(gateway.name for gateway in inputs.gateways)
        for grievance in self._telling.due(composed.grievances, self._clock()):
            if not elector.leads():
                return
            await self._tell(connection, grievance)

    def _compose(self, inputs: StatusInputs) -> _Composed:
        last = self._composed
        if last is not None and last.inputs is inputs:
            return last
        reports = compose(inputs, self._settings.addresses)
        self._gateways |= {gateway.name for gateway in inputs.gateways}
        self._composed = _Composed(inputs, reports, grievances(inputs))
        self._ledger.want(reports)
        return self._composed

    async def _look_at_all(self, connection: Connection, composed: _Composed, ours: Ours) -> None:
        """Find out which statuses are as they should be, without asking for each object."""
        self._ledger.start_over()
        self._denied.clear()
        kinds = {(one.kind, one.api_version, one.resource) for one in composed.reports}
        for kind, version, resource in sorted(kinds):
            within = self._settings.namespaces if kind != "GatewayClass" else ()
            for namespace in within or (None,):
                path = collection(version, resource, namespace)
                async for current in self._objects(connection, path):
                    self._compare(kind, version, current, ours)

    async def _objects(self, connection: Connection, path: str) -> Any:
        token = ""
        while True:
            await self._go()
            parameters = {"limit": str(PAGE_SIZE), **({"continue": token} if token else {})}
            page = msgspec.json.decode(await connection.get(path, parameters), type=_Page)
            for current in page.items or ():
                yield current
            token = page.metadata.next_page
            if not token:
                return

    def _compare(self, kind: str, version: str, current: dict[str, Any], ours: Ours) -> None:
        metadata = mapping(current.get("metadata"))
        name = ObjectName(str(metadata.get("namespace") or ""), str(metadata.get("name")))
        target = Target(kind, version, name)
        report = self._ledger.expected(target, str(metadata.get("uid")))
        if report is not None:
            said = report.patch(current, ours, rfc3339(self._now())) is None
            self._ledger.found(target, report, said=said)

    async def _write(
        self, connection: Connection, target: Target, report: Report, ours: Ours
    ) -> None:
        try:
            await self._update(connection, target, report, ours)
        except ApiError as error:
            if error.status == NOT_FOUND:
                self._ledger.done(target, report)
            elif error.status == FORBIDDEN:
                self._forbidden(f"{target.resource}/status", target.group, "patch")
                self._ledger.done(target, report)  # until everything is looked at again
            else:
                self._failed(target, error)
        else:
            self._ledger.done(target, report)

    async def _update(
        self, connection: Connection, target: Target, report: Report, ours: Ours
    ) -> None:
        for attempt in range(1, CONFLICTS + 1):
            await self._go()
            current = msgspec.json.decode(await connection.get(target.path), type=dict[str, Any])
            metadata = mapping(current.get("metadata"))
            if metadata.get("uid") != report.uid:
                return  # Another object by now, of which a newer World tells.
            patch = report.patch(current, ours, rfc3339(self._now()))
            if patch is None:
                return
            document = {
                "metadata": {"resourceVersion": metadata.get("resourceVersion")},
                "status": patch,
            }
            try:
                await self._go()
                await connection.send(
                    "PATCH", f"{target.path}/status", msgspec.json.encode(document), MERGE_PATCH
                )
            except ApiError as error:
                if error.status != CONFLICT or attempt == CONFLICTS:
                    raise
            else:
                return

    def _failed(self, target: Target, error: ApiError) -> None:
        failures = self._ledger.failed(target)
        if failures == 1:
            log.warning("status cannot be written", what=str(target), error=str(error))
        wait = delay(failures, self._settings.timing.resync, self._chance(), error.retry_after)
        self._ledger.retry(target, failures, self._clock() + wait)

    def _forbidden(self, resource: str, group: str, verb: str) -> None:
        self._denied.add(resource)
        if resource not in self._told_denied:
            self._told_denied.add(resource)
            log.warning(
                "may not be written, going on without",
                what=resource,
                fix=f"allow {verb} on {resource} ({group}), or say --no-status",
            )

    async def _tell(self, connection: Connection, grievance: Grievance) -> None:
        if "events" in self._denied:
            return
        event = grievance.event(self._settings.controller, self._identity, micro_time(self._now()))
        await self._go()
        try:
            path = events_path(grievance.namespace)
            await connection.send("POST", path, msgspec.json.encode(event))
        except ApiError as error:
            if error.status == FORBIDDEN and TERMINATING not in str(error):
                self._forbidden("events", "events.k8s.io", "create")
                return
            if error.status not in (CONFLICT, NOT_FOUND, FORBIDDEN):
                log.warning("Event cannot be written", of=str(grievance.name), error=str(error))
        self._telling.told(grievance, self._clock())

    async def _go(self) -> None:
        wait = self._pace.wait(self._clock())
        if wait > 0:
            await asyncio.sleep(wait)


@dataclass(frozen=True, slots=True)
class _Composed:
    inputs: StatusInputs
    reports: dict[Target, Report]
    grievances: tuple[Grievance, ...]


class _PageMetadata(msgspec.Struct):
    next_page: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    metadata: _PageMetadata
    items: list[dict[str, Any]] | None = None
