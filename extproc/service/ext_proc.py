"""The ext-proc service: exchanges on gRPC streams, with a clock, deadlines and a picker."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from extproc.exchange import Action, Exchange, ExchangeSettings, Waiting, Withdraw
from extproc.request import Answer, Completed, InferenceRequest, Picker, Refused, Routed
from extproc.service.deadlines import Deadlines
from extproc.service.held_bodies import HeldBodies
from extproc.service.sent_picks import SentPicks
from extproc.transport.api import Deaf, GrpcStatus, Handler, Services, Stream
from pools.contract import POOL_METADATA
from pools.model import ObjectName

log = structlog.get_logger(__name__)

HELD_LIMIT: Final = 256 << 20
"""Bytes."""
METHOD: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


_COMPLAINTS: Final = 100
_FOR_NOTHING: Final = Waiting.NOTHING
_FOR_UPLOAD: Final = Waiting.UPLOAD
_FOR_PICK: Final = Waiting.PICK


class ExternalProcessor:
    """Serves :data:`METHOD`. Needs a running event loop; one object serves any number of streams.

    ``on_refused`` is told of each request that is answered without a pod, for counting.
    ``held_limit``: bytes of all request bodies that are held at the same time. ``give_back`` is
    called when a good part of them was let go.
    """

    def __init__(
        self,
        picker: Picker,
        settings: ExchangeSettings | None = None,
        on_refused: Callable[[Refused], None] | None = None,
        held_limit: int = HELD_LIMIT,
        give_back: Callable[[], None] = lambda: None,
    ) -> None:
        self.picker = picker
        self.settings = settings or ExchangeSettings()
        self.on_refused = on_refused
        self.sent_picks = SentPicks()
        self.held: HeldBodies[_Process] = HeldBodies(held_limit, give_back)
        self.open = 0
        """Exchanges in progress."""
        self._complaints: set[str] = set()
        """What was logged about routes, once."""
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._uploads = _Clock(self._loop, self.settings.upload_timeout)
        self._picks = _Clock(self._loop, self.settings.pick_timeout)

    def services(self) -> Services:
        return {METHOD: self.process}

    def process(self, stream: Stream) -> Handler:
        try:
            pool = _pool_named(stream.metadata.get(POOL_METADATA, ""))
        except ValueError as error:
            if str(error) not in self._complaints and len(self._complaints) < _COMPLAINTS:
                self._complaints.add(str(error))
                log.error(
                    "a route names its pool wrongly", metadata=POOL_METADATA, error=str(error)
                )
            stream.finish(GrpcStatus.INVALID_ARGUMENT, f"metadata {POOL_METADATA}: {error}")
            return Deaf()
        return _Process(self, stream, pool)

    def moved(self, process: _Process, before: Waiting, after: Waiting) -> None:
        """An exchange waits for something else than it did."""
        if before is _FOR_UPLOAD:
            self._uploads.deadlines.end(process)
        elif before is _FOR_PICK:
            self._picks.deadlines.end(process)
        if after is _FOR_UPLOAD:
            self._uploads.begin(process)
        elif after is _FOR_PICK:
            self._picks.begin(process)

    def hold(self, process: _Process, size: int) -> None:
        """An exchange holds so many bytes of its body now."""
        held = self.held
        held.holds(process, size)
        while (largest := held.too_many()) is not None:
            largest.shed()


class _Clock:
    """Ends the waiting of one kind, with a single timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.deadlines: Deadlines[_Process] = Deadlines(timeout)
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, process: _Process) -> None:
        self.deadlines.begin(process, self._loop.time())
        if self._timer is None:
            self._set()

    def _set(self) -> None:
        due = self.deadlines.next_due()
        # Looking once for many that are due closely one after another is soon enough.
        self._timer = self._loop.call_at(due + _SLACK, self._expire) if due is not None else None

    def _expire(self) -> None:
        for process in self.deadlines.pop_late(self._loop.time()):
            try:
                process.expire()
            except Exception:
                log.exception("an exchange that took too long could not be ended")
        self._set()


_SLACK: Final = 0.05


@functools.lru_cache(maxsize=1024)
def _pool_named(text: str) -> ObjectName | None:
    return ObjectName.parse(text) if text else None


class _Process:
    """One stream: an exchange, and what its actions do."""

    __slots__ = (
        "_asking",
        "_exchange",
        "_held",
        "_picked",
        "_service",
        "_stream",
        "_waiting",
        "_withdraw",
    )

    def __init__(self, service: ExternalProcessor, stream: Stream, pool: ObjectName | None) -> None:
        self._service = service
        self._stream = stream
        self._exchange = Exchange(pool, service.settings, service.time())
        self._waiting = _FOR_NOTHING
        self._held = 0
        self._withdraw: Callable[[], None] | None = None
        self._picked = False
        self._asking = False
        """The picker is being asked: what it answers now, it answers before it goes on."""
        service.open += 1

    def on_message(self, message: bytes) -> None:
        self._perform(self._exchange.receive(message, self._service.time()))

    def on_half_close(self) -> None:
        self._perform(self._exchange.close(self._service.time()))
        self._stream.finish()

    def on_closed(self) -> None:
        service, exchange = self._service, self._exchange
        service.open -= 1
        now = service.time()
        self._perform(exchange.close(now))
        if not self._picked:
            service.sent_picks.ended_without(exchange.request_id, now)

    def expire(self) -> None:
        self._waiting = _FOR_NOTHING
        self._perform(self._exchange.expire())

    def shed(self) -> None:
        """Let go of the body: there is no memory for it."""
        self._perform(self._exchange.shed())

    def _answered(self, outcome: Answer) -> None:
        self._withdraw = None  # it holds the request, body and all, and the response may take long
        self._perform(self._exchange.answer(outcome))
        if self._asking:
            self._stream.flush()  # Envoy waits for this, and nobody for the rest
        if isinstance(outcome, Routed):
            self._picked = True
            service, request_id = self._service, self._exchange.request_id
            if not service.sent_picks.sent(request_id, outcome.pick_id, service.time()):
                service.picker.settle(Completed(outcome.pick_id))

    def _perform(self, actions: Sequence[Action]) -> None:
        service = self._service
        for action in actions:
            if isinstance(action, bytes):
                self._stream.send(action)
            elif isinstance(action, InferenceRequest):
                action.trace_parent = self._stream.metadata.get("traceparent", "")
                self._asking = True
                try:
                    withdraw = service.picker.pick(action, self._answered)
                finally:
                    self._asking = False
                if self._exchange.waiting is _FOR_PICK:
                    self._withdraw = withdraw
            elif isinstance(action, Completed):
                service.picker.settle(action)
            elif isinstance(action, Refused):
                if service.on_refused is not None:
                    service.on_refused(action)
            elif action is Withdraw.WITHDRAW and self._withdraw is not None:
                self._withdraw()
                self._withdraw = None
        waiting = self._exchange.waiting
        if waiting is not self._waiting:
            before, self._waiting = self._waiting, waiting
            service.moved(self, before, waiting)
        held = self._exchange.held
        if held != self._held:
            self._held = held
            service.hold(self, held)
