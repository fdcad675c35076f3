"""The policy behind the protocol: from one request to one decision.

A pick runs from start to end without giving way to anything else. That is the lock: what it reads
cannot change before it has charged the endpoint it chose, so a burst of requests on one snapshot
spreads instead of falling on the same endpoint.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from typing import Final

import structlog

from extproc.observability.metrics import Metrics
from extproc.picking.decisions import (
    SAMPLE,
    SMALL_POOL,
    DecisionLog,
    DecisionRecord,
    Details,
    brief,
    steps_of,
)
from extproc.picking.endpoint_health import Fault, judge
from extproc.picking.fleet import Fleet, PoolView
from extproc.picking.ledger import Ledger
from extproc.picking.model_index import ModelIndex
from extproc.picking.scheduling.prefix import NO_MATCH, PrefixMatch
from extproc.picking.scheduling.profile import Decision, SchedulingRequest, Verdict
from extproc.request import Completed, InferenceRequest, Outcome, Refused, Routed
from pools.contract import EXPLANATION_HEADER, POOL_HEADER
from pools.model import World

log = structlog.get_logger(__name__)

ENDPOINTS_PER_PICK: Final = 3
MAX_NAME: Final = 256
"""Characters kept of what clients name: a model name may be as long as a body."""
MAX_LISTED: Final = 20
"""Model names in an error message."""

EXPLAIN_HEADER: Final = "x-poolpilot-explain"
"""With the value ``true``, a request asks to be told why it went where it went."""


def nothing_to_withdraw() -> None:
    """What a pick that was answered at once returns."""


class _Choice:
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


class Director:
    """Implements :class:`extproc.request.Picker` for any number of pools."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        in_flight_expiry: float = 900.0,
        endpoints_per_pick: int = ENDPOINTS_PER_PICK,
        remembered: int = 1000,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        metrics: Metrics | None = None,
        on_end: Callable[[DecisionRecord], None] | None = None,
        models: ModelIndex | None = None,
        explains: bool = False,
    ) -> None:
        """``on_end`` is called once for each request that ended, was refused or expired.
        ``explains``: requests that ask for it are told why they go where they go."""
        if endpoints_per_pick < 1:
            raise ValueError("endpoints_per_pick must be at least 1")
        self.fleet = fleet
        fleet.on_out = self._taken_out
        self.ledger = Ledger(fleet.load, in_flight_expiry)
        self.decisions = DecisionLog(remembered, secrets.token_hex(4))
        self.metrics = metrics or Metrics()
        self._count = endpoints_per_pick
        self._explains = explains
        self._clock = clock
        self._rng = rng or random.Random()
        self._on_end = on_end
        self._answering: _Choice | None = None
        """Is being answered, and is remembered next."""
        self._world: World | None = None
        self.models = models or ModelIndex()
        self.metrics.is_known = self.models.names
        self.world_error = ""
        """Why a newer World than :attr:`world` is not in force; empty: there is none."""

    @property
    def world(self) -> World | None:
        """The World that picks are made in; None before the first."""
        return self._world

    def update(self, world: World) -> None:
        """Take over a World, all of it or (if this raises) nothing."""
        self.world_error = f"revision {world.revision} of the configuration was not taken over"
        self.fleet.update(world)
        self._world = world
        self.models.update(world)
        self.metrics.forget_all_but(self.fleet.members)
        self.world_error = ""

    # Picker

    def pick(
        self, request: InferenceRequest, answer: Callable[[Outcome], None]
    ) -> Callable[[], None]:
        choice = self._choose(request, 0.0)
        if isinstance(choice, DecisionRecord):
            answer(choice.outcome)
            return nothing_to_withdraw
        # A third of the time goes into remembering it, and the answer need not wait for that.
        self._answering = choice
        try:
            answer(choice.outcome)
        finally:
            self._remember_answered()
        return nothing_to_withdraw

    def decide(self, request: InferenceRequest, queued: float = 0.0) -> DecisionRecord:
        """Decide, charge and record. Returns at once. ``queued``: seconds that it waited before."""
        choice = self._choose(request, queued)
        return choice if isinstance(choice, DecisionRecord) else self._remember(choice)

    def _remember_answered(self) -> None:
        """To be done before anything else that looks at what is under way: an answer that cannot be
        given ends its request at once, which may let others go."""
        choice, self._answering = self._answering, None
        if choice is not None:
            self._remember(choice)

    def _choose(self, request: InferenceRequest, queued: float) -> _Choice | DecisionRecord:
        """A choice that is still to be remembered, or the record of a refusal."""
        self._remember_answered()
        now = self._clock()
        view = self.view_of(request)
        if isinstance(view, Refused):
            return self._refuse(request, view, now, queued=queued)
        rng = self._rng
        resolver = view.resolver
        target = resolver.target(request.model, request.headers, rng)
        priority = resolver.priority(request.model, request.objective)
        load = self.fleet.load
        load.advance(now)
        asked = load.ask(request, target, priority, rng, now, prefix=view.uses_prefix)
        candidates = view.eligible(request.subset, now, rng, asked.trace)
        decision = view.profile.decide(asked, candidates, self._count)
        chosen = decision.endpoints
        if not chosen:
            refusal = _refusal(view, request, decision.verdict, priority)
            return self._refuse(request, refusal, now, view, target, priority, decision, queued)
        pick_id = self.decisions.next_id()
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
        return _Choice(request, outcome, now, self._clock() - now, queued, view, asked, decision)

    def _remember(self, choice: _Choice) -> DecisionRecord:
        """Charge and record."""
        request, asked, decision = choice.request, choice.asked, choice.decision
        view, target = choice.view, asked.model
        record = self._record(
            request,
            choice.outcome,
            choice.at,
            view,
            target,
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
        self.ledger.open(record, self.fleet.load.charge_all(asked, decision, choice.at))
        self.metrics.decided(view.label, request.model, target, "routed", choice.seconds)
        return record

    def refuse(
        self,
        request: InferenceRequest,
        refusal: Refused,
        view: PoolView,
        priority: int,
        queued: float = 0.0,
    ) -> DecisionRecord:
        """Record that somebody else decided to refuse it, who also tells the client."""
        self._remember_answered()
        return self._refuse(request, refusal, self._clock(), view, priority=priority, queued=queued)

    def settle(self, completed: Completed) -> None:
        self._remember_answered()
        answered = completed.answered
        record = self.ledger.settle(completed.pick_id, answered=answered)
        if record is None:
            return
        now = self._clock()
        charge = record.charges[0]
        record.charges = ()
        record.completed = completed
        outcome = record.outcome
        endpoints = outcome.endpoints if isinstance(outcome, Routed) else ()
        faults, served = judge(completed, endpoints)
        for key, fault in faults:
            self.fleet.failed(key, fault, now)
        if served:
            self.fleet.succeeded(served, now)
        load = self.fleet.load
        if completed.served:
            load.served(charge, self.fleet.candidate(completed.served))
        elif completed.code and not answered:
            load.served(charge, None)
        if completed.completion_tokens:
            load.learn(charge, completed.completion_tokens)
        self.metrics.ended(str(record.pool), record.model, charge.candidate.key, completed)
        if self._on_end is not None:
            self._on_end(record)

    def expire(self) -> int:
        """Settle requests whose end was never reported. To be called now and then. Returns how
        many."""
        expired = self.ledger.expire(self._clock())
        self.metrics.expired += len(expired)
        for record in expired:
            record.charges = ()
            if self._on_end is not None:
                self._on_end(record)
        return len(expired)

    # The steps

    def _taken_out(self, endpoint: str, fault: Fault) -> None:
        self.metrics.ejected(endpoint, fault)
        log.warning("endpoint taken out of picks", endpoint=endpoint, fault=fault.value)

    def view_of(self, request: InferenceRequest) -> PoolView | Refused:
        """The pool that the request is for."""
        pools = self.fleet.pools
        if self._world is None:
            return Refused(
                503, "starting", "The endpoint picker is starting. Try again in a moment.", 1.0
            )
        name = request.pool
        if name is None:
            if len(pools) == 1:
                return next(iter(pools.values()))
            name = self.models.pool_of(request.model)
            if name is None:
                return self.unknown_model(request.model)
        view = pools.get(name)
        if view is None:
            return Refused(
                503,
                "unknown-pool",
                f"The InferencePool {name} is not known to the endpoint picker. Check that it "
                "exists and that the picker watches it.",
                1.0,
            )
        return view

    def unknown_model(self, model: str) -> Refused:
        """What is told to who asks for a model (``""``: none) that no pool is known to serve."""
        if not self.models.complete:
            return Refused(
                503,
                "starting",
                "The endpoint picker is asking the pods which models they serve. Try again in a "
                "moment.",
                1.0,
            )
        known = sorted(self.models.models)
        names = ", ".join(repr(name[:MAX_NAME]) for name in known[:MAX_LISTED])
        if len(known) > MAX_LISTED:
            names += f" and {len(known) - MAX_LISTED} more"
        asked = f"the model {model[:MAX_NAME]!r}" if model else "no model"
        return Refused(
            404,
            "no-pool-for-model",
            f"The request asks for {asked}, and its path and host lead to no pool. "
            + (f"Models that are known: {names}." if names else "No model is known yet.")
            + " An InferenceModel or InferenceModelRewrite makes a name known.",
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
        record = self._record(
            request,
            refusal,
            now,
            view,
            target,
            priority,
            decision,
            self.decisions.next_id(),
        )
        record.queued = queued
        record.seconds = self._clock() - now
        self.metrics.decided(
            view.label if view is not None else "",
            request.model,
            target,
            refusal.reason,
            record.seconds,
        )
        if self._on_end is not None:
            self._on_end(record)
        return record

    def _record(
        self,
        request: InferenceRequest,
        outcome: Outcome,
        now: float,
        view: PoolView | None,
        target: str,
        priority: int,
        decision: Decision | None,
        pick_id: str,
        prefix: PrefixMatch = NO_MATCH,
    ) -> DecisionRecord:
        decisions = self.decisions
        record = DecisionRecord(
            pick_id,
            now,
            request.id[:MAX_NAME],
            view.pool.name if view is not None else request.pool,
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


def _refusal(view: PoolView, request: InferenceRequest, verdict: Verdict, priority: int) -> Refused:
    pool = view.pool.name
    if verdict is Verdict.SHED:
        return Refused(
            429,
            "shed",
            f"All endpoints of the pool {pool} are busy, and requests of priority {priority} are "
            "dropped while they are. Try again later.",
            1.0,
        )
    if request.subset is not None and view.candidates:
        return Refused(
            503,
            "no-endpoint-in-subset",
            f"None of the endpoints that this request may use is a ready endpoint of the pool "
            f"{pool}.",
        )
    return Refused(
        503,
        "no-ready-endpoints",
        f"The pool {pool} has no ready endpoint for this request. Check that its pods run and are "
        "ready.",
        5.0,
    )
