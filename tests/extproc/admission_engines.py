"""Admission in front of simulated vLLM engines, in virtual time: what clients feel is the time to
the first token, which batching and prefill decide as much as the queue does."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from extproc.picking.admission.settings import AdmissionSettings
from extproc.request import Refused
from sim.engine import Engine, EngineConfig
from sim.events import Finished, FirstToken, Request
from tests.extproc.admission_pool import AdmissionPool, Sent

STEP = 0.01
SCRAPE_STEPS, TICK_STEPS = 20, 5
"""A scrape each 0.2 s and a look at the queues each 0.05 s, as in production."""
PODS = 2
SEQUENCES = 16
"""That a pod decodes at once."""
PROMPT, OUTPUT = 600, 100
"""Tokens, on the average."""


@dataclass
class EngineSimulation:
    """Two pods, and clients of several flows and priorities."""

    settings: AdmissionSettings
    seed: int = 1
    first_token: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds until it, of every request that was served, by flow."""
    queued: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.pool = AdmissionPool(PODS, settings=self.settings)
        self._rng = random.Random(self.seed)
        self._engines = {
            key: Engine(EngineConfig(max_num_seqs=SEQUENCES))
            for key in self.pool.director.fleet.members
        }
        self._open: dict[str, tuple[str, Sent, bool]] = {}
        self._streams: list[tuple[str, str, float]] = []
        self._again: list[tuple[str, str]] = []
        self._number = 0

    def arrivals(self, flow: str, objective: str, rate: float) -> None:
        """A Poisson stream."""
        if rate:
            self._streams.append((flow, objective, rate))

    def clients(self, flow: str, objective: str, count: int) -> None:
        """Each sends its next request when the last is answered."""
        self._again += [(flow, objective)] * count

    def run(self, seconds: float) -> None:
        pool, rng = self.pool, self._rng
        start = pool.now
        due = [(start + rng.expovariate(stream[2]), stream) for stream in self._streams]
        for step in range(1, int(seconds / STEP) + 1):
            pool.now = start + step * STEP
            for key, engine in self._engines.items():
                self._advance(key, engine)
            for index, (when, stream) in enumerate(due):
                while when <= pool.now:
                    self._send(stream[0], stream[1], closed=False)
                    when += rng.expovariate(stream[2])
                due[index] = (when, stream)
            again, self._again = self._again, []
            for flow, objective in again:
                self._send(flow, objective, closed=True)
            if step % SCRAPE_STEPS == 0:
                for key, engine in self._engines.items():
                    pool.scrape(engine.waiting, engine.kv_usage, only=key)
            if step % TICK_STEPS == 0:
                pool.picker.tick()

    @property
    def served(self) -> int:
        return sum(len(times) for times in self.first_token.values())

    def _advance(self, key: str, engine: Engine) -> None:
        for event in engine.advance(self.pool.now):
            match event:
                case FirstToken():
                    flow, sent, _ = self._open[event.request_id]
                    self.first_token[flow].append(event.at - sent.sent_at)
                case Finished():
                    flow, sent, closed = self._open.pop(event.request_id)
                    if closed:
                        self._again.append((flow, sent.request.objective))
                    self.pool.end(sent)
                case _:
                    pass

    def _send(self, flow: str, objective: str, *, closed: bool) -> None:
        rng = self._rng
        prompt = rng.randint(PROMPT // 2, PROMPT * 3 // 2)
        output = rng.randint(OUTPUT // 2, OUTPUT * 3 // 2)
        self._number += 1
        name = str(self._number)

        def answered(sent: Sent) -> None:
            outcome = sent.answers[0]
            if isinstance(outcome, Refused):
                self.refused[flow, outcome.reason] += 1
                if closed:
                    self._again.append((flow, objective))
                return
            self.queued[flow].append(self.pool.now - sent.sent_at)
            self._open[name] = (flow, sent, closed)
            engine = self._engines[sent.routed.endpoints[0]]
            engine.submit(Request(name, prompt, output), self.pool.now)

        self.pool.send(
            objective, flow, prompt_bytes=4 * prompt, max_tokens=output, on_answer=answered
        )


def p90(values: list[float]) -> float:
    assert len(values) > 50
    return sorted(values)[len(values) * 9 // 10]
