"""Conversations, as inference-perf's ``conversation_replay``: so many clients at once, each of whom
goes through its turns one after another and then begins a new conversation.

A turn's prompt is the whole conversation so far: the system prompt that all share, the one of this
conversation, and every question and answer before.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sim.engine import EngineConfig
from sim.fleet.prompt import Segment, length
from sim.fleet.traffic import WARM_UP, Arrival, Call, Incident, Traffic
from sim.workloads.lengths import NONE, ONE, Spread

_SHARED = 1


class _Conversation:
    def __init__(self, prompt: list[Segment], turns: int) -> None:
        self.prompt = prompt
        self.turns = turns


class _Clients:
    def __init__(self, workload: Conversations, clients: int, rng: random.Random) -> None:
        self._workload = workload
        self._clients = clients
        # Each has dice of his own: what he says does not depend on who was answered first, so every
        # policy gets the same conversations.
        self._dice = [random.Random(rng.getrandbits(64)) for _ in range(clients)]
        self._ids = 10
        self._calls = 0
        self._conversations: dict[int, _Conversation] = {}

    def start(self) -> Iterable[Arrival]:
        ramp = self._workload.warm_up / 2
        for client in range(self._clients):
            yield self._turn(client, self._dice[client].uniform(0, ramp))

    def ended(self, call: Call, at: float) -> Iterable[Arrival]:
        workload = self._workload
        conversation = self._conversations[call.session]
        conversation.prompt.append(Segment(call.output, call.output_tokens))
        conversation.turns -= 1
        when = at + workload.think.draw(self._dice[call.session])
        if when > workload.warm_up + workload.seconds:
            return ()
        return (self._turn(call.session, when),)

    def _turn(self, client: int, at: float) -> Arrival:
        workload, rng = self._workload, self._dice[client]
        conversation = self._conversations.get(client)
        question = workload.question.count(rng)
        output = workload.output.count(rng)
        if (
            conversation is None
            or conversation.turns < 1
            or length(conversation.prompt) + question + output > workload.max_tokens
        ):
            conversation = self._conversations[client] = _Conversation(
                [
                    Segment(_SHARED, workload.shared_tokens),
                    Segment(self._id(), workload.system.count(rng)),
                ],
                workload.turns.count(rng),
            )
        conversation.prompt.append(Segment(self._id(), question))
        self._calls += 1
        return at, Call(
            id=str(self._calls),
            prompt=tuple(segment for segment in conversation.prompt if segment.tokens),
            output_tokens=output,
            output=self._id(),
            stage=WARM_UP if at < workload.warm_up else 1,
            session=client,
        )

    def _id(self) -> int:
        self._ids += 1
        return self._ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """A load is a number of clients."""

    name: str
    title: str
    loads: Sequence[float]
    shared_tokens: int
    system: Spread = NONE
    turns: Spread = ONE
    question: Spread
    output: Spread
    think: Spread = NONE
    """Seconds between an answer and the next turn."""
    warm_up: float = 60.0
    """Seconds that do not count."""
    seconds: float = 180.0
    """Turns that begin within so many seconds do."""
    max_tokens: int = 131_072
    """A conversation that would grow beyond this begins anew."""
    pods: int = 8
    unit: str = "clients"

    def traffic(self, load: float, pods: int, rng: random.Random) -> Traffic:
        return _Clients(self, max(1, round(load)), rng)

    def engines(self, pods: int, engine: EngineConfig) -> Sequence[EngineConfig]:
        return [engine] * pods

    def incidents(self, load: float) -> Sequence[Incident]:
        return ()
