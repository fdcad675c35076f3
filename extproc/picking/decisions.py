"""The last decisions, so that each can be explained.

Recording is on the path of every request, so it only keeps references: the steps hold the lists
that the filters made anyway, and text is made when somebody asks. Candidates change afterwards;
what they looked like at the pick is copied, for every decision in a small pool and for a sample in
a large one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.load import Charge
from extproc.picking.scheduling.profile import Decision, SchedulingRequest
from extproc.request import Completed, Outcome, Refused, Routed
from pools.model import ObjectName

SMALL_POOL: Final = 32
"""Up to so many candidates every decision keeps its details."""
SAMPLE: Final = 16
"""In larger pools, one decision in so many does."""


class Details:
    """Who was considered, and how they looked at that moment."""

    __slots__ = (
        "cached",
        "candidates",
        "decision",
        "in_flight",
        "kv_usage",
        "prefill_tokens",
        "queue",
    )

    def __init__(
        self, candidates: Sequence[Candidate], decision: Decision, cached: Sequence[int]
    ) -> None:
        self.candidates = candidates
        self.decision = decision
        self.cached = cached
        """Tokens of the prompt that each was taken to have cached; empty: nobody had any."""
        self.queue = [c.queue for c in candidates]
        self.kv_usage = [c.kv_usage for c in candidates]
        self.in_flight = [c.in_flight for c in candidates]
        self.prefill_tokens = [c.prefill_tokens for c in candidates]


class DecisionRecord:
    """One decision, and later what became of it."""

    __slots__ = (
        "at",
        "cached_tokens",
        "candidates",
        "charges",
        "completed",
        "details",
        "id",
        "kept",
        "model",
        "outcome",
        "output_tokens",
        "pool",
        "pool_label",
        "prefill",
        "priority",
        "profile",
        "prompt_tokens",
        "queued",
        "request_id",
        "seconds",
        "target_model",
    )

    def __init__(
        self,
        id: str,
        at: float,
        request_id: str,
        pool: ObjectName | None,
        pool_label: str,
        profile: str,
        model: str,
        target_model: str,
        priority: int,
        outcome: Outcome,
    ) -> None:
        self.id = id
        """The pick id."""
        self.at = at
        """When it was made, on the director's clock."""
        self.request_id = request_id
        self.pool = pool
        self.pool_label = pool_label
        """The pool's name as text; empty where there is no such pool."""
        self.profile = profile
        self.model = model
        self.target_model = target_model
        self.priority = priority
        self.outcome = outcome
        self.candidates = 0
        """How many there were to begin with."""
        self.details: Details | None = None
        self.kept: Sequence[tuple[str, int]] = ()
        """The steps, where there are no details."""
        self.seconds = 0.0
        """What deciding cost; remembering it comes on top."""
        self.queued = 0.0
        """Seconds that the request waited to be decided."""
        self.prompt_tokens = 0
        """Estimated."""
        self.cached_tokens = 0
        """Of those, what the pick was taken to have in its cache."""
        self.output_tokens = 0
        """Expected."""
        self.prefill = ""
        """The endpoint that prefills, where that is another than the pick."""
        self.charges: tuple[Charge, ...] = ()
        """Until it has ended: the pick's, and that of the endpoint that prefills for it, if another
        does."""
        self.completed: Completed | None = None

    @property
    def steps(self) -> Sequence[tuple[str, int]]:
        """The name of each step and how many candidates it kept."""
        return self.kept if self.details is None else steps_of(self.details.decision)

    def summary(self) -> dict[str, object]:
        """For a list of decisions."""
        outcome = self.outcome
        shown: dict[str, object] = {
            "id": self.id,
            "request_id": self.request_id,
            "pool": str(self.pool) if self.pool is not None else None,
            "model": self.model,
            "target_model": self.target_model,
            "priority": self.priority,
            "profile": self.profile,
        }
        if isinstance(outcome, Routed):
            shown["outcome"] = "routed"
            shown["endpoints"] = list(outcome.endpoints)
            if self.prefill:
                shown["prefill_endpoint"] = self.prefill
            shown["prompt_tokens"] = self.prompt_tokens
            shown["cached_tokens"] = self.cached_tokens
            shown["expected_output_tokens"] = self.output_tokens
        else:
            shown["outcome"] = outcome.reason
            shown["status"] = outcome.status
        shown["candidates"] = self.candidates
        shown["steps"] = [{"name": name, "kept": kept} for name, kept in self.steps]
        shown["queued_ms"] = round(self.queued * 1e3, 3)
        shown["decided_in_us"] = round(self.seconds * 1e6, 1)
        shown["completed"] = _completed(self.completed)
        return shown

    def explain(self) -> dict[str, object]:
        """Everything that is known: for each step whom it removed, for each candidate how it
        looked."""
        shown = self.summary()
        if isinstance(self.outcome, Refused):
            shown["message"] = self.outcome.message
        if self.details is None:
            return shown
        details = self.details
        decision = details.decision
        shown["considered"] = [
            {
                "endpoint": c.key,
                "queue": details.queue[n],
                "kv_usage": round(details.kv_usage[n], 4),
                "in_flight": details.in_flight[n],
                "prefill_tokens": details.prefill_tokens[n],
                "cached_tokens": details.cached[n] if details.cached else 0,
            }
            for n, c in enumerate(details.candidates)
        ]
        shown["steps"] = _steps(details)
        keys = [c.key for c in decision.scored]
        if decision.scores is not None:
            shown["scores"] = {
                key: round(score, 4) for key, score in zip(keys, decision.scores, strict=True)
            }
            shown["scored_by"] = [
                {
                    "scorer": name,
                    "weight": weight,
                    "scores": {
                        key: round(score, 4) for key, score in zip(keys, given, strict=True)
                    },
                }
                for name, weight, given in decision.scored_by
            ]
        return shown


_BEFORE_THE_PROFILE: Final = {
    "subset": "the gateway allows only others",
    "not-draining": "it is draining",
    "healthy": "it failed too often of late, and gets no picks or a share of them",
}
"""Why the steps that every profile shares leave somebody out."""


def _steps(details: Details) -> list[dict[str, object]]:
    """Each step with whom it kept, whom it removed, and why."""
    everybody = [c.key for c in details.candidates]
    before: dict[str, list[str]] = {}
    steps: list[dict[str, object]] = []
    for name, kept in details.decision.trace:
        stage = name.rpartition(": ")[0]
        given = before.get(stage, everybody)
        keys = {c.key for c in kept}
        step: dict[str, object] = {"name": name, "kept": [c.key for c in kept]}
        if kept:
            step["removed"] = [key for key in given if key not in keys]
            before[stage] = [key for key in given if key in keys]
        else:
            step["note"] = "kept nothing"
        why = details.decision.reasons.get(name) or _BEFORE_THE_PROFILE.get(name)
        if why and len(keys) < len(given):
            step["because"] = why
        steps.append(step)
    return steps


def _completed(completed: Completed | None) -> dict[str, object] | None:
    if completed is None:
        return None
    return {
        "code": completed.code,
        "duration_s": completed.duration,
        "time_to_first_byte_s": completed.time_to_first_byte,
        "served": completed.served,
        "attempts": completed.attempts,
        "flags": sorted(completed.flags),
        "prompt_tokens": completed.prompt_tokens,
        "cached_tokens": completed.cached_tokens,
        "completion_tokens": completed.completion_tokens,
    }


def brief(
    pick_id: str,
    profile: str,
    candidates: int,
    decision: Decision,
    asked: SchedulingRequest,
) -> str:
    """A decision in one header: what narrowed the choice, and what the pick scored."""
    pick = decision.endpoints[0]
    parts = [f"pick={pick_id}", f"endpoint={pick.key}", f"profile={profile}"]
    left = candidates
    narrowed = [f"candidates:{candidates}"]
    for name, kept in decision.trace:
        if 0 < len(kept) < left:
            left = len(kept)
            narrowed.append(f"{name.replace(': ', '/')}:{left}")
    parts.append(f"narrowed={','.join(narrowed)}")
    parts.append(f"cached={asked.prefix.tokens_of(pick)}/{asked.prompt_tokens}")
    if pick in decision.scored:
        place = decision.scored.index(pick)
        scores = [f"{name}:{given[place]:.3f}" for name, _, given in decision.scored_by]
        if scores:
            parts.append(f"scores={','.join(scores)}")
    if decision.prefill is not None:
        parts.append(f"prefill={decision.prefill.key}")
    return "; ".join(parts)


def steps_of(decision: Decision) -> list[tuple[str, int]]:
    """The name of each step and how many candidates it kept."""
    return [(name, len(kept)) for name, kept in decision.trace]


class DecisionLog:
    """The last ``size`` decisions. Ids carry a number, so finding one needs no index."""

    def __init__(self, size: int, instance: str) -> None:
        """``instance`` makes ids differ between processes and restarts."""
        if size < 1:
            raise ValueError("the number of decisions to remember must be at least 1")
        self._ring: list[DecisionRecord | None] = [None] * size
        self._prefix = f"{instance}-"
        self.number = 0
        """How many there have been."""

    def next_id(self) -> str:
        """The id of the decision that is added next: to be added before another is asked for."""
        return f"{self._prefix}{self.number:x}"

    def add(self, record: DecisionRecord) -> None:
        place = self.number % len(self._ring)
        oldest = self._ring[place]
        if oldest is not None and oldest.charges:
            # It lives on in the ledger, where nobody reads these and they cost memory.
            oldest.details = None
            oldest.kept = ()
        self._ring[place] = record
        self.number += 1

    def get(self, pick_id: str) -> DecisionRecord | None:
        if not pick_id.startswith(self._prefix):
            return None
        try:
            number = int(pick_id[len(self._prefix) :], 16)
        except ValueError:
            return None
        record = self._ring[number % len(self._ring)]
        return record if record is not None and record.id == pick_id else None

    def latest(self) -> Iterator[DecisionRecord]:
        """Newest first."""
        size = len(self._ring)
        for number in range(self.number - 1, max(-1, self.number - 1 - size), -1):
            record = self._ring[number % size]
            if record is not None:
                yield record
