"""The policy behind the protocol: from one request to one decision.

A pick runs from start to end without giving way to anything else. That is the lock: what it reads
cannot change before it has charged the endpoint it chose, so a burst of requests on one snapshot
spreads instead of falling on the same endpoint.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from typing import Final

from extproc.picking.decisions import DecisionLog, DecisionRecord, brief
from extproc.picking.endpoint_health import judge
from extproc.picking.fleet import Fleet, PoolView
from extproc.picking.ledger import Ledger
from extproc.picking.memory import MAX_NAME, Choice, Memory
from extproc.picking.model_index import ModelIndex
from extproc.picking.scheduling.profile import Decision, Verdict
from extproc.reasons import Reason
from extproc.request import Completed, InferenceRequest, Outcome, Refused, Routed, refused
from pools.contract import EXPLANATION_HEADER, POOL_HEADER
from pools.model import World

ENDPOINTS_PER_PICK: Final = 3
IN_FLIGHT_EXPIRY: Final = 900.0
"""Seconds after which a request whose end nobody reported is taken to be over."""
MAX_LISTED: Final = 20
"""Model names in an error message."""

EXPLAIN_HEADER: Final = "x-poolpilot-explain"
"""With the value ``true``, a request asks to be told why it went where it went."""


def nothing_to_withdraw() -> None:
    """What a pick that was answered at once returns."""


class Director:
    """Implements :class:`extproc.request.Picker` for any number of pools.

    Has no clock, task or dice of its own, and tells the fleet's observer what happens.
    """

    def __init__(
        self,
        fleet: Fleet,
        clock: Callable[[], float],
        rng: random.Random,
        *,
        in_flight_expiry: float = IN_FLIGHT_EXPIRY,
        endpoints_per_pick: int = ENDPOINTS_PER_PICK,
        remembered: int = 1000,
        models: ModelIndex | None = None,
        explains: bool = False,
    ) -> None:
        """``clock``: seconds, never going backwards. ``rng`` also names this director in the ids of
        its picks: two that live at a time must not draw the same. ``explains``: requests that ask
        for it are told why they go where they go. Raises ValueError for what cannot work."""
        if endpoints_per_pick < 1:
            raise ValueError("endpoints_per_pick must be at least 1")
        self.clock = clock
        self._memory = Memory(
            fleet,
            Ledger(fleet.load, in_flight_expiry),
            DecisionLog(remembered, f"{rng.getrandbits(32):08x}"),
        )
        self._count = endpoints_per_pick
        self._explains = explains
        self._rng = rng
        self._world: World | None = None
        self.models = models or ModelIndex()
        self.world_error = ""
        """Why a newer World than :attr:`world` is not in force; empty: there is none."""

    @property
    def world(self) -> World | None:
        """The World that picks are made in; None before the first."""
        return self._world

    @property
    def fleet(self) -> Fleet:
        return self._memory.fleet

    @property
    def ledger(self) -> Ledger:
        return self._memory.ledger

    @property
    def decisions(self) -> DecisionLog:
        return self._memory.decisions

    def update(self, world: World) -> None:
        """Take over a World, all of it or (if this raises) nothing."""
        self.world_error = f"revision {world.revision} of the configuration was not taken over"
        self._memory.fleet.update(world)
        self._world = world
        self.models.update(world)
        self.world_error = ""

    # Picker

    def pick(
        self, request: InferenceRequest, answer: Callable[[Outcome], None]
    ) -> Callable[[], None]:
        choice = self._choose(request, 0.0)
        if isinstance(choice, DecisionRecord):
            answer(choice.outcome)
        else:
            self._memory.answer(choice, answer)
        return nothing_to_withdraw

    def decide(self, request: InferenceRequest, queued: float = 0.0) -> DecisionRecord:
        """Decide, charge and record. Returns at once. ``queued``: seconds that it waited before."""
        choice = self._choose(request, queued)
        return choice if isinstance(choice, DecisionRecord) else self._memory.remember(choice)

    def _choose(self, request: InferenceRequest, queued: float) -> Choice | DecisionRecord:
        """A choice that is still to be remembered, or the record of a refusal."""
        memory = self._memory
        fleet = memory.fleet
        now = self.clock()
        view = self.view_of(request)
        if isinstance(view, Refused):
            return self._refuse(request, view, now, queued=queued)
        rng = self._rng
        resolver = view.resolver
        target = resolver.target(request.model, request.headers, rng)
        priority = resolver.priority(request.model, request.objective)
        load = fleet.load
        load.advance(now)
        asked = load.ask(request, target, priority, rng, now, prefix=view.uses_prefix)
        candidates = view.eligible(request.subset, now, rng, asked.trace)
        decision = view.profile.decide(asked, candidates, self._count)
        chosen = decision.endpoints
        if view.impaired and chosen:
            view.picked(chosen[0], now)
            if len(chosen) < self._count:
                chosen = (*chosen, *view.fallbacks(self._count - len(chosen), now))
                decision.endpoints = chosen
        if not chosen:
            refusal = _refusal(view, request, decision.verdict, priority)
            return self._refuse(request, refusal, now, view, target, priority, decision, queued)
        pick_id = memory.decisions.next_id()
        headers = decision.headers
        if request.pool is None:
            headers = (*headers, (POOL_HEADER, view.label))
        if self._explains and request.headers.get(EXPLAIN_HEADER, "").lower() == "true":
            why = brief(pick_id, view.profile.name, len(view.candidates), decision, asked)
            headers = (*headers, (EXPLANATION_HEADER, why))
        outcome = Routed(
            endpoints=tuple([candidate.key for candidate in chosen]),
            pool=view.pool.name,
            pick_id=pick_id,
            model=target if target != request.model else None,
            headers=headers,
        )
        return Choice(request, outcome, now, self.clock() - now, queued, view, asked, decision)

    def refuse(
        self,
        request: InferenceRequest,
        refusal: Refused,
        view: PoolView,
        priority: int,
        queued: float = 0.0,
    ) -> DecisionRecord:
        """Record that somebody else decided to refuse it, who also tells the client."""
        return self._refuse(request, refusal, self.clock(), view, priority=priority, queued=queued)

    def settle(self, completed: Completed) -> DecisionRecord | None:
        """A request has ended. Returns its record; None if it is not open: unknown, repeated or
        expired."""
        answered = completed.answered
        memory = self._memory
        record = memory.ledger.settle(completed.pick_id, answered=answered)
        if record is None:
            return None
        now = self.clock()
        charge = record.charges[0]
        record.charges = ()
        record.completed = completed
        fleet = memory.fleet
        outcome = record.outcome
        endpoints = outcome.endpoints if isinstance(outcome, Routed) else ()
        fleet.judged(judge(completed, endpoints), charge.at, now)
        load = fleet.load
        if completed.served:
            load.served(charge, fleet.candidate(completed.served))
        elif completed.code and not answered:
            load.served(charge, None)
        if completed.completion_tokens:
            load.learn(charge, completed.completion_tokens)
        fleet.observer.ended(record)
        return record

    def expire(self) -> list[DecisionRecord]:
        """Settle requests whose end was never reported, and return their records. To be called now
        and then."""
        expired = self._memory.ledger.expire(self.clock())
        observer = self._memory.fleet.observer
        for record in expired:
            record.charges = ()
            observer.expired(record)
        return expired

    # The steps

    def view_of(self, request: InferenceRequest) -> PoolView | Refused:
        """The pool that the request is for."""
        pools = self._memory.fleet.pools
        if self._world is None:
            return refused(Reason.STARTING, busy="starting")
        name = request.pool
        if name is None:
            if len(pools) == 1:
                return next(iter(pools.values()))
            name = self.models.pool_of(request.model)
            if name is None:
                return self.unknown_model(request.model)
        view = pools.get(name)
        if view is None:
            return refused(Reason.UNKNOWN_POOL, pool=name)
        return view

    def unknown_model(self, model: str) -> Refused:
        """What is told to who asks for a model (``""``: none) that no pool is known to serve."""
        if not self.models.complete:
            return refused(Reason.STARTING, busy="asking the pods which models they serve")
        known = self.models.models
        names = ", ".join(repr(name[:MAX_NAME]) for name in islice(known, MAX_LISTED))
        if len(known) > MAX_LISTED:
            names += f" and {len(known) - MAX_LISTED} more"
        asked = f"the model {model[:MAX_NAME]!r}" if model else "no model"
        return refused(
            Reason.NO_POOL_FOR_MODEL,
            asked=asked,
            known=f"Models that are known: {names}." if names else "No model is known yet.",
        )

    def _refuse(
        self,
        request: InferenceRequest,
        refusal: Refused,
        now: float,
        view: PoolView | None = None,
        target: str = "",
        priority: int = 0,
        decision: Decision | None = None,
        queued: float = 0.0,
    ) -> DecisionRecord:
        seconds = self.clock() - now
        return self._memory.refuse(
            request, refusal, now, view, target, priority, decision, seconds, queued
        )


def _refusal(view: PoolView, request: InferenceRequest, verdict: Verdict, priority: int) -> Refused:
    pool = view.pool.name
    if verdict is Verdict.SHED:
        return refused(Reason.SHED, pool=pool, priority=priority)
    if request.subset is not None and view.candidates:
        return refused(Reason.NO_ENDPOINT_IN_SUBSET, pool=pool)
    return refused(
        Reason.NO_READY_ENDPOINTS, pool=pool, problem="has no ready endpoint for this request"
    )
