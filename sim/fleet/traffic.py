"""What is asked of a fleet, and when."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sim.engine import EngineConfig
from sim.fleet.prompt import Segment, length

WARM_UP = 0
"""The stage of requests that are not measured."""


OBJECTIVES: Mapping[str, int] = {"urgent": 10, "normal": 0, "batch": -1}
"""The InferenceObjectives of the pool, with their priorities."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One request of a client."""

    id: str
    prompt: tuple[Segment, ...]
    output_tokens: int
    output: int
    """The id of the segment that the answer is, so that a later turn can hold it."""
    stage: int = 1
    """Requests are measured by stage; :data:`WARM_UP` is not."""
    adapter: str | None = None
    objective: str = ""
    """One of :data:`OBJECTIVES`; empty: none, which is priority 0."""
    session: int = 0
    """Whose turn it is, in conversations."""

    @property
    def priority(self) -> int:
        return OBJECTIVES.get(self.objective, 0)

    @property
    def prompt_tokens(self) -> int:
        return length(self.prompt)


Arrival = tuple[float, Call]
"""A time in seconds, and what arrives then."""


class Traffic(Protocol):
    """One run's worth of requests, in answer to what happens."""

    def start(self) -> Iterable[Arrival]:
        """What arrives whatever happens."""

    def ended(self, call: Call, at: float) -> Iterable[Arrival]:
        """What arrives because this request is over (well or not). Not before ``at``."""


@dataclass(frozen=True, slots=True)
class Death:
    """A pod is gone without a word; it comes back after ``away`` seconds, empty."""

    at: float
    pod: int
    away: float = 30.0


@dataclass(frozen=True, slots=True)
class Drain:
    """A pod takes no new requests, ends those it has, and is replaced by an empty one."""

    at: float
    pod: int


@dataclass(frozen=True, slots=True)
class AbortStorm:
    """A share of all clients hang up at once, whoever serves them."""

    at: float
    share: float = 0.5


Incident = Death | Drain | AbortStorm


class Workload(Protocol):
    """A kind of traffic, at any load."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """One line on what it is."""

    @property
    def unit(self) -> str:
        """What a load is counted in: ``req/s``, ``clients``, ``x`` (times as fast as recorded)."""

    @property
    def loads(self) -> Sequence[float]:
        """Loads worth trying."""

    @property
    def pods(self) -> int:
        """How many pods it is meant for."""

    def traffic(self, load: float, pods: int, rng: random.Random) -> Traffic: ...

    def engines(self, pods: int, engine: EngineConfig) -> Sequence[EngineConfig]:
        """The pods, given what an ordinary one is."""

    def incidents(self, load: float) -> Sequence[Incident]: ...
