"""A clock, pods and a network around the picking core of production.

Who gets a request, who has to wait, who is refused and which pod is left out is decided by the code
that serves real requests: it is asked, scraped for and told of ends as the server does it. Here is
what surrounds it: engines that compute, an Envoy that walks down the endpoints of a pick, scrapes
that are as old as they would be, and ends that are heard of a little late. Picking takes no time.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from extproc.picking import fleet as picking
from extproc.picking.admission.admitting_picker import TICK_INTERVAL, AdmittingPicker
from extproc.picking.admission.settings import AdmissionSettings
from extproc.picking.director import ENDPOINTS_PER_PICK, IN_FLIGHT_EXPIRY, Director
from extproc.picking.endpoint_health import HealthPolicy
from extproc.picking.scheduling import Profile, Signals
from extproc.picking.scheduling.load import Load, LoadSettings
from extproc.picking.scraping import ScrapeSettings
from extproc.request import Api, Completed, InferenceRequest, Refused, Routed
from extproc.request import Outcome as Answer
from pools.model import InferenceObjective, InferencePool, ObjectName, World
from sim.engine import EngineConfig
from sim.events import Decoded, Finished, FirstToken, Request
from sim.fleet import prompt
from sim.fleet.pod import Pod
from sim.fleet.record import Outcome, Record, Trace
from sim.fleet.traffic import (
    OBJECTIVES,
    WARM_UP,
    AbortStorm,
    Arrival,
    Call,
    Death,
    Drain,
    Incident,
    Traffic,
)

BASE_MODEL = "base"
POOL = ObjectName("default", "simulated")
EXPIRY_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """What surrounds the pods. Times in seconds; defaults are production's."""

    scrape: ScrapeSettings = field(default_factory=ScrapeSettings)
    scrape_delay: float = 0.005
    """How old a sample is when it arrives."""
    report_delay: float = 0.02
    """From the end of a request until the picker hears of it."""
    load: LoadSettings = field(default_factory=LoadSettings)
    """What the picker takes pods for. Their own speed is in their engines."""
    health: HealthPolicy = field(default_factory=HealthPolicy)
    admission: AdmissionSettings | None = None
    """None: nobody waits, all requests are sent on at once."""
    in_flight_expiry: float = IN_FLIGHT_EXPIRY
    endpoints_per_pick: int = ENDPOINTS_PER_PICK


@dataclass(slots=True, eq=False)
class _Open:
    """A request that a pod has taken."""

    record: Record
    pod: Pod
    routed: Routed


class Fleet:
    """Runs one traffic over one fleet with one policy."""

    def __init__(
        self,
        engines: Sequence[EngineConfig],
        profile: Profile,
        traffic: Traffic,
        rng: random.Random,
        config: FleetConfig | None = None,
        incidents: Iterable[Incident] = (),
    ) -> None:
        if not engines:
            raise ValueError("a fleet needs at least one pod")
        self.config = config = config or FleetConfig()
        self.now = 0.0
        self.pods = [Pod(index, engine) for index, engine in enumerate(engines)]
        self.trace = Trace(pods=[pod.totals for pod in self.pods])
        self._traffic = traffic
        self._rng = rng
        self._agenda: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []
        self._order = itertools.count()
        self._open: dict[str, _Open] = {}
        self._waiting: dict[str, tuple[Record, Callable[[], None]]] = {}
        """Those in the picker's queue, and how each is withdrawn."""
        self._expected = 0  # requests on the agenda or under way
        self._measuring = False
        self._pod_at: dict[str, Pod] = {}
        self._revisions = itertools.count(1)
        self._director = Director(
            picking.Fleet(
                lambda pool: profile, config.health, config.scrape.stale_after, Load(config.load)
            ),
            lambda: self.now,
            rng,
            in_flight_expiry=config.in_flight_expiry,
            endpoints_per_pick=config.endpoints_per_pick,
        )
        self._admission = (
            AdmittingPicker(self._director, config.admission)
            if config.admission is not None
            else None
        )
        self._picker = self._admission or self._director
        self._sink = self._admission or self._director.fleet
        for incident in incidents:
            self._at(incident.at, self._befall, incident)

    def run(self) -> Trace:
        """Until every request is over."""
        self._configure()
        self._every(EXPIRY_INTERVAL, self._picker.expire)
        if self._admission is not None:
            self._every(TICK_INTERVAL, self._admission.tick)
        self._expect(self._traffic.start())
        agenda = self._agenda
        while self._expected:
            self.now, _, action, arguments = heapq.heappop(agenda)
            action(*arguments)
        # The last ends are still to be heard of.
        while agenda:
            self.now, _, action, arguments = heapq.heappop(agenda)
            if arguments and isinstance(arguments[0], Completed):
                action(*arguments)
        self.trace.left_in_flight = self._left()
        return self.trace

    def _left(self) -> int:
        """What the picker still counts."""
        left = len(self._director.ledger)
        if self._admission is not None:
            left += self._admission.usage.requests + self._admission.dispatched
        for member in self._director.fleet.members.values():
            c = member.candidate
            left += abs(c.in_flight) + abs(c.tokens) + abs(c.prefill_tokens) + abs(c.output_tokens)
        return left

    def _at(self, when: float, action: Callable[..., object], *arguments: object) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), action, arguments))

    def _every(self, interval: float, action: Callable[[], object]) -> None:
        def again() -> None:
            action()
            self._at(self.now + interval, again)

        self._at(self.now + interval, again)

    def _expect(self, arrivals: Iterable[Arrival]) -> None:
        for when, call in arrivals:
            self._expected += 1
            self._at(max(when, self.now), self._arrive, call)

    # The clients

    def _arrive(self, call: Call) -> None:
        if not self._measuring and call.stage != WARM_UP:
            self._measure()
        record = Record(call, self.now)
        self.trace.records.append(record)
        withdraw = self._picker.pick(_as_sent(call), lambda answer: self._answered(record, answer))
        if record.tries == 0 and record.outcome is None:
            self._waiting[call.id] = (record, withdraw)

    def _measure(self) -> None:
        """From now on it counts."""
        self._measuring = True
        for pod in self.pods:
            if pod.alive:
                self._settle(pod)
                self._foresee(pod)
            pod.totals.adapter_loads = pod.totals.preemptions = 0
        self.trace.intervals.clear()

    def _end(self, record: Record, outcome: Outcome) -> None:
        record.ended = self.now
        record.outcome = outcome
        self._expected -= 1
        self._expect(self._traffic.ended(record.call, self.now))

    # The network

    def _answered(self, record: Record, answer: Answer) -> None:
        """Envoy has its answer: it refuses the client, or walks down the endpoints until one takes
        the request."""
        self._waiting.pop(record.call.id, None)
        if isinstance(answer, Refused):
            record.refused = answer.reason
            self._end(record, Outcome.REFUSED)
            return
        for key in answer.endpoints:
            record.tries += 1
            pod = self._pod_at.get(key)
            if pod is not None and pod.alive:
                self._serve(record, pod, answer)
                return
        self._report(record, answer, 503, flags=("UF", "URX"))
        self._end(record, Outcome.LOST)

    def _serve(self, record: Record, pod: Pod, routed: Routed) -> None:
        call = record.call
        record.pod = pod.index
        try:
            pod.engine.submit(_as_computed(call, pod.config.block_size), self.now)
        except ValueError:
            self._report(record, routed, 400, pod)
            self._end(record, Outcome.TOO_LONG)
            return
        self._open[call.id] = _Open(record, pod, routed)
        self._foresee(pod)

    def _report(
        self,
        record: Record,
        routed: Routed,
        code: int,
        served: Pod | None = None,
        *,
        flags: Iterable[str] = (),
        output_tokens: int | None = None,
    ) -> None:
        """Let the picker know, as soon as it would, that a request is over: Envoy's access log."""
        key = served.endpoint.key if served is not None else ""
        completed = Completed(
            routed.pick_id,
            code,
            self.now - record.arrived,
            served=key,
            tried=key or routed.endpoints[record.tries - 1],
            attempts=record.tries,
            flags=frozenset(flags),
            prompt_tokens=record.call.prompt_tokens if output_tokens is not None else None,
            cached_tokens=record.cached if output_tokens is not None else None,
            completion_tokens=output_tokens,
        )
        self._at(self.now + self.config.report_delay, self._picker.settle, completed)

    def _close(self, request_id: str, outcome: Outcome) -> None:
        """A request that a pod has taken is over."""
        taken = self._open.pop(request_id)
        record, pod, call = taken.record, taken.pod, taken.record.call
        # The server's headers came at once: whatever happens later does not change its 200.
        self._report(
            record,
            taken.routed,
            200,
            pod,
            flags=_FLAGS.get(outcome, ()),
            output_tokens=call.output_tokens if outcome is Outcome.OK else None,
        )
        if call.stage != WARM_UP:
            pod.totals.requests += 1
            pod.totals.in_flight_seconds += self.now - record.arrived
        self._end(record, outcome)

    # The pods

    def _foresee(self, pod: Pod) -> None:
        due = pod.engine.next_event_time()
        if due != pod.due:
            pod.due = due
            if due < math.inf:
                self._at(due, self._advance, pod, due)

    def _advance(self, pod: Pod, due: float) -> None:
        if pod.due != due:
            return  # something came in between
        pod.due = math.inf
        self._settle(pod)
        self._foresee(pod)

    def _settle(self, pod: Pod) -> None:
        engine = pod.engine
        intervals = self.trace.intervals
        for event in engine.advance(self.now):
            match event:
                case Decoded():
                    intervals[round(event.interval, 4)] += event.tokens
                case FirstToken():
                    record = self._open[event.request_id].record
                    record.first_token = event.at
                    record.cached = event.cached_tokens
                    pod.first_token(event.at - record.arrived)
                case Finished():
                    self._close(event.request_id, Outcome.OK)
                case _:
                    pass
        pod.count()

    # The source of Worlds

    def _configure(self) -> None:
        """Tell of the pods as they are; those that are new are scraped from now on."""
        pods = {pod.endpoint.key: pod for pod in self.pods}
        new = [key for key in pods if key not in self._pod_at]
        self._pod_at = pods
        self._picker.update(
            World(
                revision=next(self._revisions),
                pools={POOL: InferencePool(POOL, (8000,))},
                endpoints={POOL: tuple(pods[key].endpoint for key in sorted(pods))},
                objectives=tuple(
                    InferenceObjective(ObjectName(POOL.namespace, name), POOL, priority)
                    for name, priority in OBJECTIVES.items()
                ),
            )
        )
        for key in new:
            self._at(
                self.now + self.config.scrape.delay_before_first(self._rng), self._scrape, key, 0
            )

    # The scraper

    def _scrape(self, key: str, failures: int) -> None:
        pod = self._pod_at.get(key)
        if pod is None:
            return  # another has taken its place
        self._sink.scrape_started(key)
        self._at(self.now + self.config.scrape_delay / 2, self._sample, key, pod, failures)

    def _sample(self, key: str, pod: Pod, failures: int) -> None:
        """The pod writes its metrics, if it is there."""
        began = self.now - self.config.scrape_delay / 2
        signals = None
        if pod.alive:
            self._settle(pod)
            self._foresee(pod)
            signals = pod.signals()
        arrives = self.now + self.config.scrape_delay / 2
        self._at(arrives, self._scraped, key, signals, began, failures)

    def _scraped(self, key: str, signals: Signals | None, began: float, failures: int) -> None:
        if signals is not None:
            failures = 0
            self._sink.scraped(key, signals, began)
        else:
            failures += 1
            self._sink.scrape_failed(key, "connection refused", False, self.now)
        delay = self.config.scrape.delay_before_next(len(self._pod_at), failures, self._rng)
        self._at(self.now + delay, self._scrape, key, failures)

    # What can go wrong

    def _befall(self, incident: Incident) -> None:
        match incident:
            case Death():
                pod = self.pods[incident.pod % len(self.pods)]
                self._settle(pod)
                pod.alive, pod.due = False, math.inf
                for request_id in [i for i, taken in self._open.items() if taken.pod is pod]:
                    self._close(request_id, Outcome.CUT)
                self._at(self.now + incident.away, pod.restart)
            case Drain():
                pod = self.pods[incident.pod % len(self.pods)]
                pod.draining = True
                self._configure()
                self._at(self.now + 1.0, self._drained, pod)
            case AbortStorm():
                clients = sorted([*self._open, *self._waiting])
                for request_id in self._rng.sample(clients, int(len(clients) * incident.share)):
                    self._hang_up(request_id)

    def _hang_up(self, request_id: str) -> None:
        if request_id in self._waiting:
            record, withdraw = self._waiting.pop(request_id)
            withdraw()
            self._end(record, Outcome.ABORTED)
        elif request_id in self._open:
            pod = self._open[request_id].pod
            self._settle(pod)
            if request_id in self._open:
                pod.engine.abort(request_id, self.now)
                self._close(request_id, Outcome.ABORTED)
            self._foresee(pod)

    def _drained(self, pod: Pod) -> None:
        if pod.engine.running or pod.engine.waiting:
            self._at(self.now + 1.0, self._drained, pod)
            return
        pod.replace()
        self._configure()


_FLAGS = {Outcome.CUT: ("UC",), Outcome.ABORTED: ("DC",)}
"""What Envoy's access log says of answers that were broken off."""


def _as_sent(call: Call) -> InferenceRequest:
    """The request as the endpoint picker gets it."""
    model = call.adapter or BASE_MODEL
    text = prompt.text(call.prompt)
    return InferenceRequest(
        id=call.id,
        pool=POOL,
        path="/v1/completions",
        method="POST",
        headers={},
        api=Api.COMPLETIONS,
        model=model,
        stream=True,
        objective=call.objective,
        document={"model": model, "prompt": text, "max_tokens": call.output_tokens},
        prompt_bytes=len(text),
        max_tokens=call.output_tokens,
    )


def _as_computed(call: Call, block_size: int) -> Request:
    """The request as the engine gets it."""
    segments = (*call.prompt, prompt.Segment(call.output, call.output_tokens))
    root = hash(tuple(call.adapter.encode())) if call.adapter else 0
    return Request(
        call.id,
        call.prompt_tokens,
        call.output_tokens,
        prompt.block_hashes(segments, block_size, root),
        call.adapter,
    )
