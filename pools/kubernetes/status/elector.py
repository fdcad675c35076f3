"""The loop around an election: it reads and writes the Lease."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from pools.kubernetes.connection import ApiError, Connection, UnreachableError
from pools.kubernetes.moments import micro_time
from pools.kubernetes.status.document import mapping
from pools.kubernetes.status.election import DURATION, RETRY, Election, Record

log = structlog.get_logger(__name__)

GROUP = "coordination.k8s.io"
FORBIDDEN = 403
NOT_FOUND = 404
CONFLICT = 409
FORBIDDEN_RETRY = 60.0
"""Seconds until what is forbidden is tried again."""
RELEASE_LIMIT = 2.0
"""Seconds that giving the lease back may take."""


class Elector:
    """Holds a lease whenever it can. ``on_change`` is called when this replica begins to lead or
    no longer does."""

    def __init__(
        self,
        connection: Connection,
        election: Election,
        namespace: str,
        name: str,
        *,
        clock: Callable[[], float],
        now: Callable[[], datetime.datetime],
        on_change: Callable[[], None],
        duration: float = DURATION,
    ) -> None:
        self._connection = connection
        self._election = election
        self._namespace = namespace
        self._name = name
        self._clock = clock
        self._now = now
        self._on_change = on_change
        self._answer_limit = duration * RETRY / DURATION
        self._path = f"/apis/{GROUP}/v1/namespaces/{namespace}/leases"
        self._led = False
        self._failing = ""

    def leads(self) -> bool:
        return self._election.leads(self._clock())

    async def run(self) -> None:
        """Run until cancelled; then the lease is given back, for others to take at once."""
        try:
            while True:
                pause = await self._round()
                await asyncio.sleep(pause)
        finally:
            with contextlib.suppress(
                ApiError, UnreachableError, TimeoutError, msgspec.MsgspecError
            ):
                async with asyncio.timeout(RELEASE_LIMIT):
                    await self._release()

    async def _round(self) -> float:
        """Returns the seconds until the next one."""
        began = self._clock()
        pause, failed = 0.0, True
        try:
            async with asyncio.timeout(self._answer_limit):
                if await self._claim(began):
                    self._election.won(began)
            self._failing = ""
            failed = False
        except ApiError as error:
            if error.status == CONFLICT:
                self._election.lost()
            else:
                pause = FORBIDDEN_RETRY if error.status == FORBIDDEN else 0.0
                self._tell(error)
        except (UnreachableError, TimeoutError, msgspec.MsgspecError) as error:
            self._tell(error)
        now = self._clock()
        leads = self._election.leads(now)
        if leads != self._led:
            self._led = leads
            log.info(
                "writes statuses and events" if leads else "no longer writes statuses",
                lease=f"{self._namespace}/{self._name}",
                identity=self._election.identity,
            )
            self._on_change()
        return max(pause, self._election.pause(now, failed=failed))

    async def _claim(self, now: float) -> bool:
        found = await self._read()
        time = micro_time(self._now())
        if found is None:
            claimed = self._election.claim(None, "", now, time)
            if claimed is None:
                return False
            await self._send("POST", self._path, {"name": self._name}, claimed)
            return True
        metadata, record = found
        claimed = self._election.claim(record, str(metadata.get("resourceVersion")), now, time)
        if claimed is None:
            return False
        await self._send("PUT", f"{self._path}/{self._name}", metadata, claimed)
        return True

    async def _release(self) -> None:
        if not self._led:
            return
        found = await self._read()
        if found is None:
            return
        metadata, record = found
        released = self._election.release(record, micro_time(self._now()))
        if released is not None:
            await self._send("PUT", f"{self._path}/{self._name}", metadata, released)

    async def _read(self) -> tuple[dict[str, Any], Record] | None:
        """Metadata and record."""
        try:
            raw = await self._connection.get(f"{self._path}/{self._name}")
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        document = msgspec.json.decode(raw, type=dict[str, Any])
        return dict(mapping(document.get("metadata"))), Record.of(mapping(document.get("spec")))

    async def _send(self, method: str, path: str, metadata: dict[str, Any], record: Record) -> None:
        document = {
            "apiVersion": f"{GROUP}/v1",
            "kind": "Lease",
            "metadata": {**metadata, "namespace": self._namespace},
            "spec": record.spec(),
        }
        await self._connection.send(method, path, msgspec.json.encode(document))

    def _tell(self, error: Exception) -> None:
        """Once, until it works again."""
        advice = ""
        if isinstance(error, ApiError) and error.status == FORBIDDEN:
            advice = (
                f"allow get, create and update on leases ({GROUP}) in namespace {self._namespace},"
                " or say --no-status"
            )
        elif isinstance(error, ApiError) and error.status == NOT_FOUND:
            advice = f"create namespace {self._namespace}, or choose another: --lease-namespace"
        why = str(error) or "no answer in time"
        if why != self._failing:
            self._failing = why
            log.warning("no lease, so no status is written", why=why, fix=advice)
