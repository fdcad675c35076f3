"""A pool behind an admitting picker, with a clock of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from extproc.observability.telemetry import Telemetry
from extproc.picking.admission.admitting_picker import AdmittingPicker
from extproc.picking.admission.settings import AdmissionSettings, ConcurrencySettings
from extproc.picking.director import Director
from extproc.picking.fleet import Fleet
from extproc.picking.scheduling import PROFILES, Adapters, Signals
from extproc.request import Api, Completed, InferenceRequest, Outcome, Refused, Routed
from pools.model import Endpoint, InferenceObjective, InferencePool, ObjectName, World

POOL = ObjectName("default", "llm")
OBJECTIVES = {"urgent": 10, "normal": 0, "batch": -1, "low": 5}


def endpoints(*numbers: int, draining: bool = False) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"10.0.0.{n}", 8000, f"pod-{n}", draining=draining) for n in numbers)


def world(*pods: Endpoint, pools: tuple[ObjectName, ...] = (POOL,)) -> World:
    return World(
        pools={name: InferencePool(name, (8000,)) for name in pools},
        endpoints=dict.fromkeys(pools, pods),
        objectives=tuple(
            InferenceObjective(ObjectName("default", name), pool, priority)
            for name, priority in OBJECTIVES.items()
            for pool in pools
        ),
    )


@dataclass(eq=False)
class Sent:
    """One request of a client, and what it was told."""

    request: InferenceRequest
    answers: list[Outcome] = field(default_factory=list)
    sent_at: float = 0.0
    withdraw: Callable[[], None] = lambda: None

    @property
    def waits(self) -> bool:
        return not self.answers

    @property
    def routed(self) -> Routed:
        [outcome] = self.answers
        assert isinstance(outcome, Routed), outcome
        return outcome

    @property
    def refused(self) -> Refused:
        [outcome] = self.answers
        assert isinstance(outcome, Refused), outcome
        return outcome


class AdmissionPool:
    """``pods`` endpoints, each of which takes ``capacity`` requests, unless settings say else."""

    def __init__(
        self, pods: int = 1, capacity: int = 1, settings: AdmissionSettings | None = None
    ) -> None:
        self.now = 1000.0
        self.overshoots: list[Sent] = []
        """Those that were let in though the pool was full (where concurrency tells)."""
        self.settings: AdmissionSettings | None
        """None: admission is off."""
        self.settings = settings or AdmissionSettings(ConcurrencySettings(capacity))
        self.telemetry = Telemetry()
        self.director = Director(
            Fleet(lambda pool: PROFILES["least-load"](), observer=self.telemetry),
            lambda: self.now,
            random.Random(1),
        )
        self.picker = AdmittingPicker(self.director, self.settings)
        self.update(*endpoints(*range(pods)))
        self.scrape()

    def update(self, *pods: Endpoint, pools: tuple[ObjectName, ...] = (POOL,)) -> None:
        self.picker.update(world(*pods, pools=pools))
        self.telemetry.follow(self.director.fleet)

    def use(self, settings: AdmissionSettings | None) -> None:
        """The profiles file has changed."""
        self.settings = settings
        self.picker.use(settings)

    def scrape(self, waiting: int = 0, kv_usage: float = 0.0, only: str | None = None) -> None:
        keys = [key for key in self.director.fleet.members if only in (None, key)]
        for key in keys:
            self.director.fleet.scrape_started(key)
        for key in keys:
            signals = Signals(waiting, 0, kv_usage, Adapters(capacity=4))
            self.picker.scraped(key, signals, self.now)

    def send(
        self,
        objective: str = "normal",
        flow: str = "",
        *,
        timeout: str | None = None,
        body: int = 0,
        prompt_bytes: int = 400,
        max_tokens: int | None = None,
        headers: Mapping[str, str] | None = None,
        pool: ObjectName = POOL,
        subset: tuple[str, ...] | None = None,
        on_answer: Callable[[Sent], None] = lambda sent: None,
    ) -> Sent:
        all_headers = dict(headers or {})
        if timeout is not None:
            all_headers["x-poolpilot-queue-timeout"] = timeout
        sent = Sent(
            InferenceRequest(
                id="r",
                pool=pool,
                path="/v1/completions",
                method="POST",
                headers=all_headers,
                api=Api.COMPLETIONS,
                model="m",
                objective=objective,
                fairness_id=flow,
                subset=subset,
                body=b"x" * body,
                prompt_bytes=prompt_bytes,
                max_tokens=max_tokens,
            )
        )

        sent.sent_at = self.now

        def answer(outcome: Outcome) -> None:
            if isinstance(outcome, Routed) and self.in_flight > self.capacity:
                self.overshoots.append(sent)
            sent.answers.append(outcome)
            on_answer(sent)

        sent.withdraw = self.picker.pick(sent.request, answer)
        return sent

    @property
    def capacity(self) -> float:
        settings = self.settings
        if settings is None or not isinstance(settings.saturation, ConcurrencySettings):
            return math.inf
        limit = settings.saturation.max_concurrency * (1 + settings.headroom)
        return limit * len(self.director.fleet.members)

    def abort(self, sent: Sent) -> None:
        """The client of a routed request hung up before any endpoint answered."""
        self.picker.settle(Completed(sent.routed.pick_id))

    def end(
        self, sent: Sent, prompt_tokens: int | None = None, completion_tokens: int | None = None
    ) -> None:
        """A routed request was served."""
        routed = sent.routed
        self.picker.settle(
            Completed(
                routed.pick_id,
                code=200,
                served=routed.endpoints[0],
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
            )
        )

    def wait(self, seconds: float, step: float = 0.05) -> None:
        """Let time pass, with the timer running."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now = min(until, self.now + step)
            self.picker.tick()

    @property
    def in_flight(self) -> int:
        return sum(m.candidate.in_flight for m in self.director.fleet.members.values())

    @property
    def waiting(self) -> int:
        return self.picker.usage.requests
