"""What picks go by and leave behind: the fleet, the requests under way, the last decisions.

A pick is answered first and remembered after, as a third of its time goes into remembering it and
the answer need not wait for that. But an answer may lead to anything: one that cannot be given ends
its request at once, and that may let others go. So what a pick goes by is reached through
:class:`Memory` alone, and whoever reaches for it while a pick is being answered finds that pick
remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from extproc.picking.decisions import (
    SAMPLE,
    SMALL_POOL,
    DecisionLog,
    DecisionRecord,
    Details,
    steps_of,
)
from extproc.picking.fleet import Fleet, PoolView
from extproc.picking.ledger import Ledger
from extproc.picking.scheduling.prefix import NO_MATCH, PrefixMatch
from extproc.picking.scheduling.profile import Decision, SchedulingRequest
from extproc.request import InferenceRequest, Outcome, Refused, Routed

MAX_NAME: Final = 256
"""Characters kept of what clients name: a model name may be as long as a body."""


class Choice:
    """Where a request goes, before it is charged and recorded."""

    __slots__ = ("asked", "at", "decision", "outcome", "queued", "request", "seconds", "view")

    def __init__(
        self,
        request: InferenceRequest,
        outcome: Routed,
        at: float,
        seconds: float,
        queued: float,
        view: PoolView,
        asked: SchedulingRequest,
        decision: Decision,
    ) -> None:
        self.request = request
        self.outcome = outcome
        self.at = at
        self.seconds = seconds
        self.queued = queued
        self.view = view
        self.asked = asked
        self.decision = decision


class Memory:
    """Keeps one choice at most that is being answered and not remembered yet; no method and no
    property gives anything out before it is."""

    __slots__ = ("_answering", "_decisions", "_fleet", "_ledger")

    def __init__(self, fleet: Fleet, ledger: Ledger, decisions: DecisionLog) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._decisions = decisions
        self._answering: Choice | None = None

    @property
    def fleet(self) -> Fleet:
        if self._answering is not None:
            self._catch_up()
        return self._fleet

    @property
    def ledger(self) -> Ledger:
        if self._answering is not None:
            self._catch_up()
        return self._ledger

    @property
    def decisions(self) -> DecisionLog:
        if self._answering is not None:
            self._catch_up()
        return self._decisions

    def answer(self, choice: Choice, answer: Callable[[Outcome], None]) -> None:
        """Answer a choice, then remember it, even if the answer raises."""
        if self._answering is not None:
            self._catch_up()
        self._answering = choice
        try:
            answer(choice.outcome)
        finally:
            self._catch_up()

    def remember(self, choice: Choice) -> DecisionRecord:
        """Charge and record a choice."""
        if self._answering is not None:
            self._catch_up()
        return self._remember(choice)

    def refuse(
        self,
        request: InferenceRequest,
        refusal: Refused,
        at: float,
        view: PoolView | None,
        target: str,
        priority: int,
        decision: Decision | None,
        seconds: float,
        queued: float,
    ) -> DecisionRecord:
        """Record that a request goes nowhere. ``view``: None where its pool is not known."""
        pick_id = self.decisions.next_id()
        record = self._record(
            request, refusal, at, view, target, priority, decision, pick_id, NO_MATCH
        )
        record.queued, record.seconds = queued, seconds
        self._fleet.observer.decided(record)
        return record

    def _catch_up(self) -> None:
        choice, self._answering = self._answering, None
        if choice is not None:
            self._remember(choice)

    def _remember(self, choice: Choice) -> DecisionRecord:
        asked, decision = choice.asked, choice.decision
        fleet = self._fleet
        record = self._record(
            choice.request,
            choice.outcome,
            choice.at,
            choice.view,
            asked.model,
            asked.priority,
            decision,
            choice.outcome.pick_id,
            asked.prefix,
        )
        record.queued, record.seconds = choice.queued, choice.seconds
        record.prompt_tokens, record.output_tokens = asked.prompt_tokens, asked.output_tokens
        if asked.prefix.longest:
            record.cached_tokens = asked.prefix.tokens_of(decision.endpoints[0])
        if decision.prefill is not None:
            record.prefill = decision.prefill.key
        self._ledger.open(record, fleet.load.charge_all(asked, decision, choice.at))
        fleet.observer.decided(record)
        return record

    def _record(
        self,
        request: InferenceRequest,
        outcome: Outcome,
        at: float,
        view: PoolView | None,
        target: str,
        priority: int,
        decision: Decision | None,
        pick_id: str,
        prefix: PrefixMatch,
    ) -> DecisionRecord:
        decisions = self._decisions
        record = DecisionRecord(
            pick_id,
            at,
            request.id[:MAX_NAME],
            view.pool.name if view is not None else request.pool,
            view.label if view is not None else "",
            view.profile.name if view is not None else "",
            request.model[:MAX_NAME],
            target[:MAX_NAME],
            priority,
            outcome,
        )
        if view is not None and decision is not None:
            record.candidates = len(view.candidates)
            # In a large pool details are much, so that one decision in so many keeps them.
            if len(view.candidates) <= SMALL_POOL or not decisions.number % SAMPLE:
                cached = prefix.tokens_of_each(view.candidates) if prefix.longest else ()
                record.details = Details(view.candidates, decision, cached)
            else:
                record.kept = steps_of(decision)
        decisions.add(record)
        return record
