"""The event loop of a simulated fleet.

A request is picked for, charged, served and released as in production: the policy sees scrapes that
are as old as they would be, counts what it sent itself at once, and hears of ends a little late.
Picking takes no time.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from extproc.picking.scheduling import Candidate, Profile, Signals, assume_missing
from extproc.picking.scheduling.load import PREFILL_RATE, Charge, Load, LoadSettings
from extproc.request import Api, InferenceRequest
from sim.engine import EngineConfig
from sim.events import Decoded, Finished, FirstToken, Request
from sim.fleet import prompt
from sim.fleet.pod import Pod
from sim.fleet.record import Outcome, Record, Trace
from sim.fleet.traffic import (
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
CONNECT_FAILURES = 2
"""In a row, after which a pod is left out until it can be scraped again."""


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """What surrounds the pods. Times in seconds; defaults are production's."""

    scrape_interval: float = 0.2
    scrape_delay: float = 0.005
    """How old a sample is when it arrives."""
    report_delay: float = 0.02
    """From the end of a request until the policy hears of it."""
    prefill_rate: float = PREFILL_RATE
    """What the policy takes for the speed of every pod, in prompt tokens a second. The pods' own is
    in their engines."""
    endpoints_per_pick: int = 3
    """The pick and the endpoints that a retry may go to."""

    @property
    def stale_after(self) -> float:
        return 5 * self.scrape_interval + 1.0


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
        self.config = config or FleetConfig()
        self.now = 0.0
        known_adapters: set[str] = set()
        self.pods = [Pod(index, engine, known_adapters) for index, engine in enumerate(engines)]
        self.trace = Trace(pods=[pod.totals for pod in self.pods])
        self._profile = profile
        self._uses_prefix = profile.uses_prefix
        self._load = Load(LoadSettings(prefill_rate=self.config.prefill_rate))
        self._traffic = traffic
        self._rng = rng
        self._pod_of = {pod.candidate.key: pod for pod in self.pods}
        self._candidates = [pod.candidate for pod in self.pods]
        self._eligible = self._candidates
        self._assuming = True
        self._failures = [0] * len(self.pods)
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = itertools.count()
        self._open: dict[str, tuple[Record, Pod, tuple[Charge, ...]]] = {}
        self._expected = 0  # requests on the agenda or under way
        self._measuring = False
        for incident in incidents:
            self._at(incident.at, self._befall, incident)
        self._follow_caches()

    def run(self) -> Trace:
        """Until every request is over."""
        for pod in self.pods:
            self._at(
                self._rng.uniform(0, min(0.02, self.config.scrape_interval)), self._scrape, pod
            )
        self._expect(self._traffic.start())
        agenda = self._agenda
        while self._expected:
            self.now, _, action, arguments = heapq.heappop(agenda)
            action(*arguments)
        # The last ends are still to be heard of.
        while agenda:
            self.now, _, action, arguments = heapq.heappop(agenda)
            if action == self._reported:
                action(*arguments)
        self.trace.left_in_flight = sum(
            abs(c.in_flight) + abs(c.tokens) + abs(c.prefill_tokens) + abs(c.output_tokens)
            for c in self._candidates
        )
        return self.trace

    def _at(self, when: float, action: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), action, arguments))

    def _expect(self, arrivals: Iterable[Arrival]) -> None:
        for when, call in arrivals:
            self._expected += 1
            self._at(max(when, self.now), self._arrive, call)

    # One request

    def _arrive(self, call: Call) -> None:
        if not self._measuring and call.stage != WARM_UP:
            self._measure()
        record = Record(call, self.now)
        self.trace.records.append(record)
        self._send(record)

    def _measure(self) -> None:
        """From now on it counts."""
        self._measuring = True
        for pod in self.pods:
            if pod.alive:
                self._settle(pod)
                self._foresee(pod)
            pod.totals.adapter_loads = pod.totals.preemptions = 0
        self.trace.intervals.clear()

    def _send(self, record: Record) -> None:
        """Pick, charge, and walk down the endpoints until one takes it."""
        call = record.call
        load = self._load
        load.advance(self.now)
        request = _as_sent(call)
        asked = load.ask(
            request, request.model, call.priority, self._rng, self.now, prefix=self._uses_prefix
        )
        decision = self._profile.decide(asked, self._eligible, self.config.endpoints_per_pick)
        if not decision.endpoints:
            self._end(record, Outcome.SHED)
            return
        charges = load.charge_all(asked, decision, self.now)
        pod = self._taker(record, decision.endpoints)
        if pod is None:
            load.served(charges[0], None)
            self._report(charges, answered=False)
            self._end(record, Outcome.LOST)
            return
        load.served(charges[0], pod.candidate)
        record.pod = pod.index
        try:
            pod.engine.submit(_as_computed(call, pod.config.block_size), self.now)
        except ValueError:
            self._report(charges)
            self._end(record, Outcome.TOO_LONG)
            return
        self._open[call.id] = (record, pod, charges)
        self._foresee(pod)

    def _taker(self, record: Record, endpoints: Sequence[Candidate]) -> Pod | None:
        """The first of these that answers."""
        for endpoint in endpoints:
            pod = self._pod_of[endpoint.key]
            record.tries += 1
            if pod.alive:
                return pod
            self._refused(pod)
        return None

    def _report(
        self, charges: tuple[Charge, ...], *, answered: bool = True, output_tokens: int = 0
    ) -> None:
        """Let the policy know, as soon as it would, that a request is over."""
        self._at(
            self.now + self.config.report_delay, self._reported, charges, answered, output_tokens
        )

    def _reported(self, charges: tuple[Charge, ...], answered: bool, output_tokens: int) -> None:
        for charge in charges:
            self._load.end(charge, answered=answered)
        if output_tokens:
            self._load.learn(charges[0], output_tokens)

    def _close(self, request_id: str, outcome: Outcome) -> None:
        record, pod, charges = self._open.pop(request_id)
        served = outcome is Outcome.OK
        self._report(charges, output_tokens=record.call.output_tokens if served else 0)
        if record.call.stage != WARM_UP:
            pod.totals.requests += 1
            pod.totals.in_flight_seconds += self.now - record.arrived
        self._end(record, outcome)

    def _end(self, record: Record, outcome: Outcome) -> None:
        record.ended = self.now
        record.outcome = outcome
        self._expected -= 1
        self._expect(self._traffic.ended(record.call, self.now))

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
                    record = self._open[event.request_id][0]
                    record.first_token = event.at
                    record.cached = event.cached_tokens
                    pod.first_token(event.at - record.arrived)
                case Finished():
                    self._close(event.request_id, Outcome.OK)
                case _:
                    pass
        pod.count()

    # The signals

    def _scrape(self, pod: Pod) -> None:
        pod.candidate.scrape_started()
        self._at(self.now + self.config.scrape_delay / 2, self._sample, pod, self.now)
        interval = self.config.scrape_interval * self._rng.uniform(0.9, 1.1)
        self._at(self.now + self.config.scrape_delay + interval, self._scrape, pod)

    def _sample(self, pod: Pod, began: float) -> None:
        if not pod.alive:
            if pod.candidate.expire(self.now, self.config.stale_after):
                self._assuming = assume_missing(self._candidates)
            return
        self._settle(pod)
        self._foresee(pod)
        arrives = self.now + self.config.scrape_delay / 2
        self._at(arrives, self._observe, pod, pod.signals(), began)

    def _observe(self, pod: Pod, signals: Signals, began: float) -> None:
        candidate = pod.candidate
        was_complete = candidate.complete()
        cache, restarts = candidate.signals.cache, candidate.restarts
        candidate.observe(signals, began, self.config.stale_after)
        if candidate.signals.cache != cache:
            self._follow_caches()
        if candidate.restarts != restarts:
            self._load.forget(candidate)
        self._load.observed(candidate, began)
        if self._assuming or candidate.complete() != was_complete:
            self._assuming = assume_missing(self._candidates)
        if pod.out and pod.alive:
            pod.out = False
            self._failures[pod.index] = 0
            self._reconsider()

    def _follow_caches(self) -> None:
        """Let the prefix index know how much each pod's cache holds."""
        self._load.follow(self._candidates)

    # What can go wrong

    def _refused(self, pod: Pod) -> None:
        self._failures[pod.index] += 1
        if self._failures[pod.index] >= CONNECT_FAILURES and not pod.out:
            pod.out = True
            # Nobody listens there: when somebody does again, it will be with an empty cache.
            self._load.forget(pod.candidate)
            self._reconsider()

    def _reconsider(self) -> None:
        fit = [p.candidate for p in self.pods if not p.out and not p.draining]
        self._eligible = fit or [p.candidate for p in self.pods if not p.out] or self._candidates

    def _befall(self, incident: Incident) -> None:
        match incident:
            case Death():
                pod = self.pods[incident.pod % len(self.pods)]
                self._settle(pod)
                pod.alive, pod.due = False, math.inf
                for request_id in [i for i, (_, where, _) in self._open.items() if where is pod]:
                    self._close(request_id, Outcome.CUT)
                self._at(self.now + incident.away, pod.restart)
            case Drain():
                pod = self.pods[incident.pod % len(self.pods)]
                pod.draining = True
                self._reconsider()
                self._at(self.now + 1.0, self._drained, pod)
            case AbortStorm():
                for request_id in self._rng.sample(
                    sorted(self._open), int(len(self._open) * incident.share)
                ):
                    pod = self._open[request_id][1]
                    self._settle(pod)
                    if request_id in self._open:
                        pod.engine.abort(request_id, self.now)
                        self._close(request_id, Outcome.ABORTED)
                    self._foresee(pod)

    def _drained(self, pod: Pod) -> None:
        if pod.engine.running or pod.engine.waiting:
            self._at(self.now + 1.0, self._drained, pod)
            return
        pod.restart()
        self._reconsider()


def _as_sent(call: Call) -> InferenceRequest:
    """The request as the endpoint picker gets it."""
    model = call.adapter or BASE_MODEL
    text = prompt.text(call.prompt)
    return InferenceRequest(
        id=call.id,
        pool=None,
        path="/v1/completions",
        method="POST",
        headers={},
        api=Api.COMPLETIONS,
        model=model,
        stream=True,
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
