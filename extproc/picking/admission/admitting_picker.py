"""A picker that lets requests wait until their pool has room for them.

It stands before the :class:`~extproc.picking.director.Director`, which decides for each request
when its turn has come. One pick runs from start to end, and charges the endpoint before the next is
considered: so however many are dispatched at one wake-up, there are never more than fit.

Whatever may make room passes through it to the director and the fleet: the end of a request, a
scrape, another World. Deadlines, and what changes with time alone, need a coarse timer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from extproc.picking.admission.band import Band
from extproc.picking.admission.flow import Flow
from extproc.picking.admission.queue import PoolQueue, Usage
from extproc.picking.admission.saturation import Saturation
from extproc.picking.admission.settings import AdmissionSettings
from extproc.picking.admission.ticket import Ticket
from extproc.picking.decisions import DecisionRecord
from extproc.picking.director import Director, nothing_to_withdraw
from extproc.picking.fleet import PoolView
from extproc.picking.observer import ADMITTED, DISPATCHED, WITHDRAWN
from extproc.picking.scheduling.prefix import BYTES_PER_TOKEN
from extproc.picking.scheduling.profile import PREFILL_HEADER
from extproc.picking.scheduling.signals import Signals
from extproc.reasons import Reason
from extproc.request import Completed, InferenceRequest, Outcome, Refused, Routed, refused
from pools.model import ObjectName, World

TIMEOUT_HEADER = "x-poolpilot-queue-timeout"
"""Seconds that the client is ready to wait in the queue; 0: not at all."""
DEFAULT_FLOW = "default"
"""Of requests that name none."""
TICK_INTERVAL: Final = 0.05
"""Seconds between two looks at who has waited for too long."""
MAX_NAME = 256
"""Characters by which flows are told apart."""


@dataclass(slots=True, eq=False)
class _Gate:
    """One pool: how full it is, and who waits for it."""

    saturation: Saturation
    queue: PoolQueue
    empty_since: float | None = None
    """Since when the pool has no endpoint."""
    draining: bool = False

    @property
    def view(self) -> PoolView:
        return self.saturation.view


@dataclass(slots=True)
class _Dispatched:
    """A request that waited and is under way now."""

    band: Band
    flow: Flow
    input_tokens: float
    output_tokens: float
    tokens: float
    """What it was expected to cost its flow."""


@dataclass(slots=True)
class GateState:
    """One pool at this moment, for pages and metrics."""

    pool: str
    saturation: float | None
    """None: it has no endpoint."""
    measured_by: str
    ends_per_second: float
    bands: list[Band] = field(default_factory=list)


class AdmittingPicker:
    """Implements :class:`extproc.request.Picker`, and takes what scrapes give.

    Whoever owns it must call :meth:`tick` every :data:`TICK_INTERVAL`, and give ends, scrapes and
    Worlds to it in place of the director and the fleet.
    """

    def __init__(self, director: Director, settings: AdmissionSettings | None) -> None:
        """``settings``: None if it is off for now."""
        self.director = director
        self.on = settings is not None
        """Whether anybody may have to wait."""
        self.settings = settings or AdmissionSettings()
        """In force while it is on."""
        self.usage = Usage()
        """What waits, in all pools."""
        self._clock = director.clock
        self._gates: dict[ObjectName, _Gate] = {}
        self._dispatched: dict[str, _Dispatched] = {}
        self._closed = False

    def use(self, settings: AdmissionSettings | None) -> None:
        """Take over other settings. Whoever waits keeps its place and may wait for as long as is
        allowed now; limits are for those who come from now on. None: off, and as nobody waits any
        more, all who do are sent on."""
        if settings is None:
            self.on = False
            gates, self._gates = self._gates, {}
            now = self._clock()
            for gate in gates.values():
                while (ticket := gate.queue.next(-math.inf)) is not None:
                    self._dispatch(gate, ticket, now)
            # Their ends are of no interest: should it be turned on again, all flows begin anew.
            self._dispatched.clear()
            return
        if self.on and settings == self.settings:
            return
        self.on, self.settings = True, settings
        for gate in self._gates.values():
            gate.saturation.use(settings.saturation)
            gate.queue.use(settings)
        for gate in list(self._gates.values()):
            self._drain(gate)

    # Picker

    def pick(
        self, request: InferenceRequest, answer: Callable[[Outcome], None]
    ) -> Callable[[], None]:
        if not self.on:
            return self.director.pick(request, answer)
        view = self.director.view_of(request)
        if isinstance(view, Refused) or (
            # Nothing that it waits for would be for it.
            request.subset is not None and not view.in_subset(request.subset)
        ):
            return self.director.pick(request, answer)
        gate = self._gates.get(view.name) or self._gate(view)
        priority = view.resolver.priority(request.model, request.objective)
        queue = gate.queue
        if queue:
            self._drain(gate)
        now = self._clock()
        level = self._level(gate, now)
        if level is not None and level < queue.limit(priority):
            if not queue or not queue.waiting_before(priority):
                record = self.director.decide(request)
                self._charged(record)
                self.director.fleet.observer.admission(view.label, priority, ADMITTED, None)
                answer(record.outcome)
                return nothing_to_withdraw
        elif level is None and (priority < 0 or not self.settings.no_endpoints_ttl):
            # Nothing here is worth waiting for; the director says why.
            return self.director.pick(request, answer)
        ticket = self._ticket(request, answer, priority, now)
        refusal = self._not_waiting(gate, ticket, now)
        if refusal is None:
            for displaced in queue.make_room(ticket, now):
                self._refuse_ticket(gate, displaced, self._queue_full(gate, displaced, now))
            if queue.add(ticket):
                return functools.partial(self._withdraw, gate, ticket)
            refusal = self._queue_full(gate, ticket, now)
        answer(self._refuse(gate, ticket, refusal, None))
        return nothing_to_withdraw

    # What may make room

    def settle(self, completed: Completed) -> DecisionRecord | None:
        """As the director does, and then let in who fits."""
        record = self.director.settle(completed)
        if record is not None:
            self._ended(record)
        return record

    def expire(self) -> list[DecisionRecord]:
        """As the director does, and then let in who fits."""
        expired = self.director.expire()
        for record in expired:
            self._ended(record)
        return expired

    def _ended(self, record: DecisionRecord) -> None:
        outcome = record.outcome
        if isinstance(outcome, Refused) or not self.on:
            return
        now = self._clock()
        dispatched = self._dispatched.pop(record.id, None)
        if dispatched is not None:
            correction = self._correction(dispatched, record.completed)
            dispatched.band.ended(dispatched.flow, dispatched.tokens, correction, now)
        if (gate := self._gates.get(outcome.pool)) is not None:
            gate.queue.ends.add(now)
        for gate in self._changed(outcome):
            self._drain(gate)

    def scrape_started(self, key: str) -> None:
        self.director.fleet.scrape_started(key)

    def scraped(self, key: str, sample: Signals, began: float) -> None:
        """As the fleet does, and then let in who fits: it shows that queues have become shorter."""
        self.director.fleet.scraped(key, sample, began)
        self._scraped(key)

    def scrape_failed(self, key: str, error: str, alive: bool, now: float) -> None:
        self.director.fleet.scrape_failed(key, error, alive, now)
        self._scraped(key)

    def _scraped(self, key: str) -> None:
        member = self.director.fleet.members.get(key)
        if member is None:
            return
        for view in member.views:
            if (gate := self._gates.get(view.name)) is not None:
                gate.saturation.scraped(member.candidate)
                self._drain(gate)

    def update(self, world: World) -> None:
        """As the director does, and then let in who fits."""
        self.director.update(world)
        pools = self.director.fleet.pools
        for name, gate in list(self._gates.items()):
            view = pools.get(name)
            if view is not None:
                gate.saturation.follow(view)
                self._drain(gate)
                continue
            del self._gates[name]
            for ticket in gate.queue.pop_all(self._clock()):
                self._tell(ticket, self.director.decide(ticket.request).outcome)

    def tick(self) -> None:
        """Time has passed."""
        now = self._clock()
        for gate in self._gates.values():
            if not gate.queue:
                continue
            # First those who can be served: a deadline that is just over is no reason not to.
            self._drain(gate)
            level = self._level(gate, now)
            if level is None and gate.empty_since is not None:
                patience = self.settings.no_endpoints_ttl
                if now - gate.empty_since >= patience:
                    for ticket in gate.queue.pop_arrived_before(now - patience, now):
                        self._refuse_ticket(gate, ticket, self._no_endpoints(gate))
            for ticket in gate.queue.pop_late(now):
                refusal = (
                    self._no_endpoints(gate)
                    if level is None
                    else self._queue_timeout(gate, ticket, now)
                )
                self._refuse_ticket(gate, ticket, refusal)

    def close(self) -> None:
        """The process stops: whoever waits is refused, and nobody waits any more."""
        self._closed = True
        for gate in self._gates.values():
            for ticket in gate.queue.pop_all(self._clock()):
                self._refuse_ticket(gate, ticket, _SHUTTING_DOWN)

    # What can be seen

    def states(self) -> Iterator[GateState]:
        """Every pool that was asked for."""
        now = self._clock()
        for gate in self._gates.values():
            yield GateState(
                gate.view.label,
                self._level(gate, now),
                gate.saturation.measured_by,
                gate.queue.ends.per_second(now),
                list(gate.queue.bands()),
            )

    @property
    def dispatched(self) -> int:
        """Requests that waited and are under way now."""
        return len(self._dispatched)

    # The steps

    def _gate(self, view: PoolView) -> _Gate:
        gate = self._gates[view.name] = _Gate(
            Saturation(self.settings.saturation, view), PoolQueue(self.settings, self.usage)
        )
        return gate

    def _level(self, gate: _Gate, now: float) -> float | None:
        level = gate.saturation.level(now)
        if level is not None:
            gate.empty_since = None
        elif gate.empty_since is None:
            gate.empty_since = now
        return level

    def _ticket(
        self,
        request: InferenceRequest,
        answer: Callable[[Outcome], None],
        priority: int,
        now: float,
    ) -> Ticket:
        settings = self.settings
        header = request.headers.get(TIMEOUT_HEADER)
        asked = _seconds(header) if header is not None else None
        input_tokens = max(1, request.prompt_bytes // BYTES_PER_TOKEN)
        output_tokens = self.director.fleet.load.expected_output(request.model, request.max_tokens)
        return Ticket(
            request,
            answer,
            priority,
            request.fairness_id[:MAX_NAME] or DEFAULT_FLOW,
            input_tokens,
            output_tokens,
            input_tokens + settings.output_weight * output_tokens,
            now,
            asked,
            settings.deadline(priority, now, asked),
        )

    def _correction(self, dispatched: _Dispatched, completed: Completed | None) -> float:
        """Tokens that a request cost more than was expected, as far as the server told."""
        if completed is None:
            return 0.0
        if not completed.answered:
            return -dispatched.tokens  # it got nothing
        correction = 0.0
        if completed.prompt_tokens is not None:
            correction += completed.prompt_tokens - dispatched.input_tokens
        if completed.completion_tokens is not None:
            more = completed.completion_tokens - dispatched.output_tokens
            correction += self.settings.output_weight * more
        return correction

    def _drain(self, gate: _Gate) -> None:
        """Dispatch as many as there is room for."""
        if gate.draining or not gate.queue:
            # An answer may end another request at once; whoever drains then sees the room itself.
            return
        gate.draining = True
        try:
            now = self._clock()
            while (level := self._level(gate, now)) is not None:
                ticket = gate.queue.next(level)
                if ticket is None:
                    break
                self._dispatch(gate, ticket, now)
        finally:
            gate.draining = False

    def _dispatch(self, gate: _Gate, ticket: Ticket, now: float) -> None:
        band, flow = gate.queue.dispatch(ticket, now)
        waited = now - ticket.arrived
        try:
            record = self.director.decide(ticket.request, waited)
        except Exception:
            # Whoever made the room (an end, a scrape, a new World) has other things to do.
            self._failed("a queued request could not be decided", ticket)
            band.ended(flow, ticket.tokens, -ticket.tokens, now)
            self._tell(ticket, _UNDECIDED)
            return
        outcome = record.outcome
        if isinstance(outcome, Routed):
            self._dispatched[record.id] = _Dispatched(
                band, flow, ticket.input_tokens, ticket.output_tokens, ticket.tokens
            )
            self._charged(record)
            self._became(gate, ticket, DISPATCHED, waited)
        else:
            band.ended(flow, ticket.tokens, -ticket.tokens, now)
            self._became(gate, ticket, outcome.reason, waited)
        self._tell(ticket, outcome)

    def _charged(self, record: DecisionRecord) -> None:
        if isinstance(record.outcome, Routed):
            self._changed(record.outcome)

    def _changed(self, routed: Routed) -> list[_Gate]:
        """Let the pools know of which an endpoint was charged or released, and return them."""
        member = self.director.fleet.members.get(routed.endpoints[0])
        if member is None:
            return []
        gates = [gate for view in member.views if (gate := self._gates.get(view.name)) is not None]
        for gate in gates:
            if any(name == PREFILL_HEADER for name, _ in routed.headers):
                # Another endpoint may do the prefill, and was charged too.
                gate.saturation.recount()
            else:
                gate.saturation.changed(member.candidate)
        return gates

    def _withdraw(self, gate: _Gate, ticket: Ticket) -> None:
        if ticket.queued:
            now = self._clock()
            gate.queue.remove(ticket, now)
            self._became(gate, ticket, WITHDRAWN, now - ticket.arrived)

    def _refuse(
        self, gate: _Gate, ticket: Ticket, refusal: Refused, waited: float | None
    ) -> Refused:
        """``waited``: None if it never was in the queue."""
        self._became(gate, ticket, refusal.reason, waited)
        self.director.refuse(ticket.request, refusal, gate.view, ticket.priority, waited or 0.0)
        return refusal

    def _became(self, gate: _Gate, ticket: Ticket, outcome: str, waited: float | None) -> None:
        label, priority = gate.view.label, ticket.priority
        self.director.fleet.observer.admission(label, priority, outcome, waited)

    def _refuse_ticket(self, gate: _Gate, ticket: Ticket, refusal: Refused) -> None:
        waited = self._clock() - ticket.arrived
        self._tell(ticket, self._refuse(gate, ticket, refusal, waited))

    def _tell(self, ticket: Ticket, outcome: Outcome) -> None:
        try:
            ticket.answer(outcome)
        except Exception:
            # The trouble of one stream must not keep others waiting.
            self._failed("a queued request could not be answered", ticket)

    def _failed(self, what: str, ticket: Ticket) -> None:
        self.director.fleet.observer.failed(what, str(ticket.request.pool))

    # What they are told

    def _not_waiting(self, gate: _Gate, ticket: Ticket, now: float) -> Refused | None:
        """Why a request that cannot be served at once does not wait; None if it does."""
        if self._closed:
            return _SHUTTING_DOWN
        if ticket.priority < 0:
            return refused(
                Reason.SHED,
                gate.queue.retry_after(len(gate.queue) + 1, now),
                pool=gate.view.name,
                priority=ticket.priority,
            )
        return self._queue_timeout(gate, ticket, now) if ticket.deadline <= now else None

    def _queue_full(self, gate: _Gate, ticket: Ticket, now: float) -> Refused:
        queue = gate.queue
        return refused(
            Reason.QUEUE_FULL,
            queue.retry_after(queue.waiting_before(ticket.priority) + 1, now),
            pool=gate.view.name,
        )

    def _queue_timeout(self, gate: _Gate, ticket: Ticket, now: float) -> Refused:
        queue = gate.queue
        return refused(
            Reason.QUEUE_TIMEOUT,
            queue.retry_after(queue.waiting_before(ticket.priority) + 1, now),
            pool=gate.view.name,
            seconds=now - ticket.arrived,
        )

    def _no_endpoints(self, gate: _Gate) -> Refused:
        return refused(
            Reason.NO_READY_ENDPOINTS,
            pool=gate.view.name,
            problem="has had no endpoint while this request waited",
        )


_SHUTTING_DOWN: Final = refused(Reason.SHUTTING_DOWN)
_UNDECIDED: Final = refused(
    Reason.PICK_TIMEOUT, problem="for this request; the picker's log says why"
)


def _seconds(text: str) -> float | None:
    """What a client wrote; what is no number of seconds does not count."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
