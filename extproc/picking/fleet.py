"""The live state of all endpoints, and each pool's view of it.

An endpoint that several pools select is one server, so it has one state: scraped once, charged for
all of them. The fleet is told of Worlds, scrapes and finished requests; it owns no clock or task.
"""

from __future__ import annotations

import ipaddress
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from extproc.picking.endpoint_health import (
    EndpointHealth,
    Fault,
    HealthPolicy,
    Judgement,
    Standing,
)
from extproc.picking.observer import Observer, Unobserved
from extproc.picking.outliers import Answers, Tally, differs, unusual
from extproc.picking.probing import PATIENCE, Probing
from extproc.picking.progress import Progress
from extproc.picking.scheduling.candidate import Candidate, assume_missing
from extproc.picking.scheduling.load import Load, LoadSettings
from extproc.picking.scheduling.prefix.exact import CacheEvent
from extproc.picking.scheduling.profile import Profile, Step
from extproc.picking.scheduling.resolution import Resolver
from extproc.picking.scheduling.signals import Signals
from pools.addresses import is_ip
from pools.model import (
    Endpoint,
    InferencePool,
    ObjectName,
    World,
)


@dataclass(slots=True, eq=False)
class Member:
    """One endpoint: what picks see of it, and how it has fared."""

    candidate: Candidate
    health: EndpointHealth
    scrape_error: str = ""
    """Why its last scrape failed; empty if it did not."""
    troubles: dict[str, str] = field(default_factory=dict)
    """What else it is asked in the background and does not answer, each with the reason."""
    scrapes: int = 0
    scrape_failures: int = 0
    views: list[PoolView] = field(default_factory=list)
    """The pools that select it."""
    progress: Progress = field(default_factory=Progress)
    paused: bool = False
    """Whether it said, when asked, that it works on nothing for now."""

    answers: Answers = field(default_factory=Answers)
    probed_at: float = -math.inf
    """When it was last tried out; infinitely long ago once that has a result."""

    @property
    def held(self) -> Fault | None:
        """Why what it is sent would hang; None: it would not."""
        if self.paused or self.candidate.signals.asleep:
            return Fault.ASLEEP
        return Fault.STALLED if self.progress.stalled else None

    def share(self, now: float) -> float:
        """Its share of the picks it would get if all were well: 0 to 1."""
        return 0.0 if self.held else self.health.share(now)

    def standing(self, now: float) -> Standing:
        return Standing.OUT if self.held else self.health.standing(now)

    def may_be_probed(self, now: float) -> bool:
        return self.health.unproven(now) and now - self.probed_at >= PATIENCE


class PoolHistory:
    """What is remembered of a pool from World to World."""

    __slots__ = ("answers", "probing")

    def __init__(self) -> None:
        self.answers = Tally()
        self.probing = Probing()


class PoolView:
    """One pool, as its picks see it."""

    __slots__ = (
        "_by_address",
        "_by_key",
        "_left_out",
        "assuming",
        "candidates",
        "history",
        "impaired",
        "label",
        "members",
        "pool",
        "profile",
        "resolver",
        "uses_prefix",
    )

    def __init__(
        self,
        pool: InferencePool,
        members: Sequence[Member],
        resolver: Resolver,
        profile: Profile,
        history: PoolHistory,
    ) -> None:
        self.pool = pool
        self.label = str(pool.name)
        """Its name in metrics."""
        self.members = tuple(members)
        self.candidates = tuple(member.candidate for member in members)
        self.resolver = resolver
        self.use(profile)
        self.impaired = True
        """Whether some members may have to be left out; checked when it next matters."""
        self.assuming = True
        """Whether some signals had to be assumed."""
        self.history = history
        self._left_out: Sequence[Member] = ()
        """By the last :meth:`eligible`."""
        self._by_key = {member.candidate.key: member for member in members}
        self._by_address: dict[str, list[Member]] = {}
        for member in members:
            address = _canonical(member.candidate.endpoint.address)
            self._by_address.setdefault(address, []).append(member)

    @property
    def name(self) -> ObjectName:
        return self.pool.name

    def use(self, profile: Profile) -> None:
        """Choose by this profile from now on."""
        self.profile = profile
        self.uses_prefix = profile.uses_prefix

    def eligible(
        self,
        subset: tuple[str, ...] | None,
        now: float,
        rng: random.Random,
        trace: list[Step],
    ) -> Sequence[Candidate]:
        """The endpoints that may be picked now: in the subset, not draining, in good health.

        What leaves some out leaves a step in the trace. The endpoint picker protocol wants it so:
        an empty subset, or one that names no member, leaves nothing. Draining, ill and full
        endpoints are used if there is nothing better.
        """
        members: Sequence[Member] = self.members
        self._left_out = ()
        if subset is not None:
            members = self.in_subset(subset)
            trace.append(("subset", [member.candidate for member in members]))
        if not self.impaired:
            if subset is None:
                return self.candidates
            return [member.candidate for member in members]
        return self._fit(members, now, rng, trace)

    def in_subset(self, subset: tuple[str, ...]) -> Sequence[Member]:
        """The members that are among these addresses, ``ip`` or ``ip:port``."""
        wanted: dict[str, Member] = {}
        for entry in subset:
            if (member := self._by_key.get(entry)) is not None:
                wanted[entry] = member
                continue
            host, bracket, port = entry.rpartition("]:")
            address = (host if bracket else entry).strip("[]")
            for member in self._by_address.get(_canonical(address), ()):
                if not bracket or str(member.candidate.endpoint.port) == port:
                    wanted[member.candidate.key] = member
        return list(wanted.values())

    def fallbacks(self, count: int, now: float) -> list[Candidate]:
        """Up to ``count`` of those that the last :meth:`eligible` left out, the best first, for
        when all that were picked fail."""
        left_out = sorted(
            self._left_out,
            key=lambda member: (member.health.badness(now), member.candidate.endpoint.draining),
        )
        return [member.candidate for member in left_out[:count]]

    def picked(self, candidate: Candidate, now: float) -> None:
        """A request goes there, which may be to try it out."""
        member = self._by_key[candidate.key]
        if member.health.unproven(now):
            member.probed_at = now

    def _fit(
        self, members: Sequence[Member], now: float, rng: random.Random, trace: list[Step]
    ) -> Sequence[Candidate]:
        if len(members) == len(self.members) and not any(
            member.candidate.endpoint.draining
            or member.standing(now) is not Standing.IN
            or member.health.limited(now)
            for member in members
        ):
            self.impaired = False
            return self.candidates
        kept = [member for member in members if not member.candidate.endpoint.draining]
        if not kept:
            kept = list(members)
        elif len(kept) < len(members):
            trace.append(("not-draining", [member.candidate for member in kept]))
        awake = [member for member in kept if not member.held]
        if awake and len(awake) < len(kept):
            kept = awake
            trace.append(("awake", [member.candidate for member in kept]))
        healthy = self._healthy(kept, now, rng)
        if len(healthy) < len(kept):
            kept = healthy
            trace.append(("healthy", [member.candidate for member in kept]))
        free = [
            member for member in kept if not member.health.full(member.candidate.in_flight, now)
        ]
        if free and len(free) < len(kept):
            kept = free
            trace.append(("not-full", [member.candidate for member in kept]))
        if len(kept) < len(members):
            taken = set(map(id, kept))
            self._left_out = [member for member in members if id(member) not in taken]
        return [member.candidate for member in kept]

    def _healthy(self, members: Sequence[Member], now: float, rng: random.Random) -> list[Member]:
        """Those in good health, of the returning as many as their share says, and now and then one
        to be tried out. If there are none, those that may be well again; if none, all of them."""
        fit: list[Member] = []
        returning: list[Member] = []
        unproven: list[Member] = []
        for member in members:
            health = member.health
            share = health.share(now)
            if share >= 1.0:
                fit.append(member)
            elif health.unproven(now):
                unproven.append(member)
            elif share > 0.0:
                (fit if rng.random() < share else returning).append(member)
        if not fit:
            return returning or unproven or list(members)
        waiting = [member for member in unproven if member.may_be_probed(now)]
        if waiting and (probe := self.history.probing.choose(waiting, now, rng)) is not None:
            fit.append(probe)
        return fit


def _canonical(address: str) -> str:
    """IPv6 addresses can be written in several ways."""
    return str(ipaddress.ip_address(address)) if ":" in address and is_ip(address) else address


def _endpoints_of(world: World) -> dict[str, Endpoint]:
    """By key. Where several pools name one endpoint, what drains it counts."""
    endpoints: dict[str, Endpoint] = {}
    for name in sorted(world.pools):
        for endpoint in world.endpoints_of(name):
            known = endpoints.get(endpoint.key)
            if known is None or (endpoint.draining and not known.draining):
                endpoints[endpoint.key] = endpoint
    return endpoints


_REFUSALS: Final = frozenset({Fault.PASSED_OVER, Fault.UNAVAILABLE, Fault.BUSY})
"""Of these, those of a server that is alive may just say that it is full."""


class Fleet:
    """Every endpoint of every pool."""

    def __init__(
        self,
        profile_for: Callable[[InferencePool], Profile],
        health: HealthPolicy | None = None,
        stale_after: Callable[[int], float] = lambda endpoints: 2.0,
        load: Load | None = None,
        observer: Observer | None = None,
    ) -> None:
        """``stale_after``: seconds after which signals are no longer believed, given how many
        endpoints there are (the more, the less often each is scraped)."""
        self.load = load or Load()
        """What was sent to the endpoints and is not over."""
        self._known_adapters: set[str] = set()
        self._profile_for = profile_for
        self._health = health or HealthPolicy()
        self._stale_after = stale_after
        self._keep_for = stale_after(0)
        self._leaving: dict[str, Member] = {}
        self.observer: Observer = observer or Unobserved()
        """Is told what happens here, and of what is decided."""
        self.members: dict[str, Member] = {}
        self.pools: dict[ObjectName, PoolView] = {}

    def update(self, world: World) -> None:
        """Take over a World, all of it or (if this raises) nothing.

        Endpoints that stay keep their state; so does one that comes back while requests are still
        under way there.
        """
        endpoints = _endpoints_of(world)
        members = {key: self._member_for(key, endpoint) for key, endpoint in endpoints.items()}
        pools = {
            name: PoolView(
                pool,
                [members[endpoint.key] for endpoint in world.endpoints_of(name)],
                Resolver.of_pool(world, name),
                self._profile_of(pool),
                self.pools[name].history if name in self.pools else PoolHistory(),
            )
            for name, pool in world.pools.items()
        }
        known = {**self._leaving, **self.members}
        self._leaving = {
            key: member
            for key, member in known.items()
            if key not in members and member.candidate.in_flight
        }
        self.members, self.pools = members, pools
        self._keep_for = self._stale_after(len(members))
        for key, member in members.items():
            member.candidate.endpoint = endpoints[key]
            member.views = []
        for view in pools.values():
            for member in view.members:
                member.views.append(view)
            view.assuming = assume_missing(view.candidates)
        self.load.keep(m.candidate for m in (*members.values(), *self._leaving.values()))
        self._follow_caches()

    def _profile_of(self, pool: InferencePool) -> Profile:
        known = self.pools.get(pool.name)
        return known.profile if known is not None else self._profile_for(pool)

    def use(
        self,
        profile_for: Callable[[InferencePool], Profile],
        load: LoadSettings | None = None,
    ) -> None:
        """Choose by other profiles from now on, all of them or (if this raises) none. What is
        known of the endpoints stays."""
        profiles = {name: profile_for(view.pool) for name, view in self.pools.items()}
        self._profile_for = profile_for
        for name, profile in profiles.items():
            self.pools[name].use(profile)
        if load is not None:
            self.load.use(load)
            self._follow_caches()

    def _follow_caches(self) -> None:
        self.load.follow(member.candidate for member in self.members.values())

    def _member_for(self, key: str, endpoint: Endpoint) -> Member:
        member = self.members.get(key) or self._leaving.get(key)
        return member or Member(
            Candidate(endpoint, self._known_adapters), EndpointHealth(self._health)
        )

    def targets(self) -> Mapping[str, str]:
        """What to scrape: metrics address by endpoint key."""
        return {
            key: member.candidate.endpoint.metrics_address for key, member in self.members.items()
        }

    def endpoints(self) -> Collection[Endpoint]:
        """All of them, as they were described last."""
        return [member.candidate.endpoint for member in self.members.values()]

    def events_followed(self, key: str, ranks: Collection[int]) -> None:
        """An endpoint is about to tell what is in its KV caches, one for each of these ranks."""
        if (candidate := self.candidate(key)) is not None:
            self.load.exact.follow(candidate, ranks)

    def events_began(self, key: str, rank: int) -> None:
        """A rank has told nothing yet: its cache is empty."""
        if (candidate := self.candidate(key)) is not None:
            self.load.exact.began(candidate, rank)

    def heard(self, key: str, rank: int, sequence: int, events: Sequence[CacheEvent]) -> None:
        """A rank of an endpoint told what changed in its KV cache."""
        if (candidate := self.candidate(key)) is not None:
            self.load.exact.heard(candidate, rank, sequence, events)

    def events_missed(self, key: str, rank: int) -> None:
        """Something that a rank of an endpoint told could not be read."""
        if (candidate := self.candidate(key)) is not None:
            self.load.exact.missed(candidate, rank)

    def events_lost(self, key: str) -> None:
        """An endpoint's events do not arrive any more."""
        if (candidate := self.candidate(key)) is not None:
            self.load.exact.lost(candidate)

    def troubled(self, key: str, question: str, reason: str) -> None:
        """What an endpoint is asked in the background is not answered, and why; no reason: it
        is."""
        if (member := self.members.get(key)) is None:
            return
        if reason:
            member.troubles[question] = reason
        else:
            member.troubles.pop(question, None)

    def scrape_started(self, key: str) -> None:
        if (member := self.members.get(key)) is not None:
            member.candidate.scrape_started()

    def scraped(self, key: str, sample: Signals, began: float) -> None:
        member = self.members.get(key)
        if member is None:
            return
        member.scrapes += 1
        member.scrape_error = ""
        candidate = member.candidate
        was_complete = candidate.complete()
        cache, restarts = candidate.signals.cache, candidate.restarts
        adapters, held = candidate.signals.adapters, member.held
        candidate.observe(sample, began, self._keep_for)
        member.progress.observe(sample, candidate.in_flight, candidate.picked, began)
        self._held_since(member, held)
        if candidate.signals.cache != cache:
            self._follow_caches()
        if candidate.restarts != restarts:
            self.load.forget(candidate)
        self.load.observed(candidate, began)
        endpoint = candidate.endpoint
        member.health.scrape_succeeded(began, endpoint.metrics_address == endpoint.key)
        changed = candidate.complete() != was_complete or (
            (candidate.signals.adapters is None) != (adapters is None)
        )
        for view in member.views:
            if view.assuming or changed:
                view.assuming = assume_missing(view.candidates)

    def scrape_failed(self, key: str, error: str, alive: bool, now: float) -> None:
        """``alive``: the server answered, but not with metrics."""
        member = self.members.get(key)
        if member is None:
            return
        member.scrapes += 1
        member.scrape_failures += 1
        member.scrape_error = error
        if member.candidate.expire(now, self._keep_for):
            for view in member.views:
                view.assuming = assume_missing(view.candidates)
        if not alive and member.health.scrape_failed(now):
            self._taken_out(member, Fault.SCRAPE)

    def paused(self, key: str, paused: bool) -> None:
        """An endpoint says whether it works on what it is sent."""
        if (member := self.members.get(key)) is not None:
            held, member.paused = member.held, paused
            self._held_since(member, held)

    def _held_since(self, member: Member, before: Fault | None) -> None:
        if (held := member.held) is not None and held is not before:
            self._taken_out(member, held)

    def check_failed(self, key: str, until: float, now: float) -> None:
        """An active check says that the endpoint is not well."""
        member = self.members.get(key)
        if member is not None and member.health.check_failed(until, now):
            self._taken_out(member, Fault.CHECK)

    def check_passed(self, key: str, now: float) -> None:
        if (member := self.members.get(key)) is not None:
            member.health.check_passed(now)

    def judged(self, judgement: Judgement, began: float, now: float) -> None:
        """A request that was picked for at ``began`` is over."""
        for key, fault in judgement.faults:
            self.failed(key, fault, now, began)
        if judgement.well:
            self._succeeded(judgement.well, began, now)
        elif judgement.odd and (member := self.members.get(judgement.odd)) is not None:
            self._answered_oddly(member, now)

    def failed(self, key: str, fault: Fault, now: float, began: float = math.inf) -> bool:
        """A request that was picked for at ``began`` failed at an endpoint. Returns whether that
        took it out of picks."""
        member = self.members.get(key)
        if member is None:
            return False
        health = member.health
        if fault in _REFUSALS and (fault is not Fault.PASSED_OVER or health.alive(began)):
            # It said no. With other requests under way that means: enough.
            candidate = member.candidate
            if candidate.in_flight > 0 or candidate.signals.running:
                health.refused(candidate.in_flight, now)
                for view in member.views:
                    view.impaired = True
                return False
            if fault is Fault.BUSY:
                return self._answered_oddly(member, now)
            fault = Fault.ERROR
        member.candidate.answered(well=False)
        probed = health.unproven(now)
        if not health.failed(fault, now, began):
            return False
        if probed:
            self._probe_ended(member, False)
        self._taken_out(member, fault)
        if fault is Fault.CONNECT:
            # Nobody listens there: when somebody does again, it will be with an empty cache.
            self.load.forget(member.candidate)
        return True

    def _succeeded(self, key: str, began: float, now: float) -> None:
        if (member := self.members.get(key)) is not None:
            if member.health.unproven(now):
                self._probe_ended(member, True)
            member.health.succeeded(now, began)
            member.candidate.answered(well=True)
            member.progress.worked(member.candidate.picked, now)
            self._count(member, False, now)

    def _answered_oddly(self, member: Member, now: float) -> bool:
        """With 4xx, or not within the route's time: its own fault if its peers do not. Returns
        whether that took it out of picks."""
        self._count(member, True, now)
        health, answers = member.health, member.answers
        if health.standing(now) is Standing.OUT:
            return False
        tell = unusual if health.unproven(now) else differs
        if not any(tell(answers, view.history.answers, now) for view in member.views):
            return False
        if health.unproven(now):
            self._probe_ended(member, False)
        answers.begin_anew(now)
        member.candidate.answered(well=False)
        health.failed(Fault.OUTLIER, now)
        self._taken_out(member, Fault.OUTLIER)
        return True

    def _count(self, member: Member, odd: bool, now: float) -> None:
        member.answers.add(odd, now)
        for view in member.views:
            view.history.answers.add(odd, now)

    def _probe_ended(self, member: Member, well: bool) -> None:
        member.probed_at = -math.inf
        for view in member.views:
            if well:
                view.history.probing.succeeded()
            else:
                view.history.probing.failed()

    def candidate(self, key: str) -> Candidate | None:
        member = self.members.get(key)
        return member.candidate if member is not None else None

    def _taken_out(self, member: Member, fault: Fault) -> None:
        for view in member.views:
            view.impaired = True
        self.observer.ejected(member.candidate.key, fault)
