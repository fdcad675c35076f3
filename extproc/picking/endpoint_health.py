"""Which endpoints deserve traffic, judged by what became of the traffic they got.

Envoy sends a request wherever the picker says, healthy or not, so this is the only thing between a
broken pod and the users. It learns from finished requests (connect failures, resets, 5xx), from
scrapes that fail, from active checks where they are asked for, and from how an endpoint compares
with its peers (:mod:`extproc.picking.outliers`). Pure: time is passed in.

An endpoint that fails too often in a row is *out* for a cool-down that doubles each time. Then it
is *returning*: at first *unproven*, with a few probes (:mod:`extproc.picking.probing`), of which a
single failure sends it out again. Once it has done well, its share of picks grows from a tenth to
all. Where its scrapes failed too, the first that succeeds ends the cool-down early: the server was
away, and is back.

An endpoint that is *full* is not ill. It answers 503 or 429 while it has other requests, and gets
none beyond those for a while.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from extproc.request import Completed


class Fault(enum.StrEnum):
    """What went wrong at an endpoint."""

    CONNECT = "connect-failure"
    PASSED_OVER = "passed-over"
    """Envoy went on to the next endpoint: no connection could be made, or it answered with 503."""
    RESET = "reset"
    ERROR = "5xx"
    UNAVAILABLE = "unavailable"
    """It answered 503: it is full, or broken."""
    BUSY = "busy"
    """It answered 429: it is full, or knows its limits wrongly."""
    OUTLIER = "outlier"
    """More of its answers are 4xx, or come too late for the route's time-out, than its peers'."""
    SCRAPE = "scrape-failure"
    CHECK = "health-check"
    ASLEEP = "asleep"
    """It takes requests, and works on them when it is woken up."""
    STALLED = "stalled"
    """It answers its metrics, and works on nothing."""


class Standing(enum.StrEnum):
    IN = "in"
    OUT = "out"
    RETURNING = "returning"


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When an endpoint is taken out, and how it comes back."""

    connect_failures: int = 2
    """In a row, until it is out; those that it was passed over for count with them."""
    resets: int = 3
    errors: int = 5
    scrape_failures: int = 3
    cool_down: float = 2.0
    """Seconds out, the first time; doubles each time until it has fully returned."""
    max_cool_down: float = 60.0
    slow_start: float = 10.0
    """Seconds over which a returning endpoint's share of picks grows to the full."""
    full_for: float = 5.0
    """Seconds for which an endpoint that said it was full gets no more than it had then."""

    def limit(self, fault: Fault) -> int:
        match fault:
            case Fault.CONNECT | Fault.PASSED_OVER:
                return self.connect_failures
            case Fault.RESET:
                return self.resets
            case Fault.ERROR | Fault.UNAVAILABLE:
                return self.errors
            case Fault.SCRAPE:
                return self.scrape_failures
            case Fault.CHECK | Fault.OUTLIER | Fault.BUSY | Fault.ASLEEP | Fault.STALLED:
                return 1


LEAST_SHARE: Final = 0.1
VOUCHES_FOR: Final = 0.5
"""Seconds for which an answer says that a server is alive."""
_UNREACHABLE: Final = frozenset({Fault.CONNECT, Fault.PASSED_OVER, Fault.SCRAPE})
"""Faults that are over when the server can be reached again."""


class EndpointHealth:
    """The standing of one endpoint."""

    __slots__ = (
        "_answered_at",
        "_full_at",
        "_full_until",
        "_metrics_distrusted",
        "_out_since",
        "_policy",
        "_proven_at",
        "_scrape_failures",
        "_scrape_ok",
        "_scraped_at",
        "_strain",
        "ejections",
        "fault",
        "out_until",
    )

    def __init__(self, policy: HealthPolicy) -> None:
        self._policy = policy
        self._strain = 0.0
        """Failed requests in a row, each as a share of the number that is too many."""
        self._scrape_failures = 0
        self._scrape_ok = False
        self._metrics_distrusted = False
        self._answered_at = -math.inf
        """When it last answered a request well."""
        self._scraped_at = -math.inf
        """When the last scrape began that the server of its requests answered."""
        self._out_since = -math.inf
        self._proven_at: float | None = None
        """When it first did well after it was out; None: it has not yet."""
        self._full_at = 0
        """Requests in flight with which it was full, until :attr:`_full_until`."""
        self._full_until = -math.inf
        self.ejections = 0
        """How often it was taken out since it last was all well."""
        self.out_until: float | None = None
        """When its cool-down ends or ended; None: it is all well."""
        self.fault: Fault | None = None
        """Why it was last taken out."""

    def standing(self, now: float) -> Standing:
        if self.out_until is None:
            return Standing.IN
        if now < self.out_until:
            return Standing.OUT
        return Standing.RETURNING if self.share(now) < 1.0 else Standing.IN

    def share(self, now: float) -> float:
        """Its share of the picks it would get if all were well: 0 to 1."""
        if self.out_until is None:
            return 1.0
        if now < self.out_until:
            return 0.0
        if self._proven_at is None:
            return LEAST_SHARE
        slow_start = self._policy.slow_start
        back_for = now - max(self._proven_at, self.out_until)
        if back_for >= slow_start:
            return 1.0
        return max(LEAST_SHARE, back_for / slow_start)

    def unproven(self, now: float) -> bool:
        """Its cool-down is over, and nothing yet says that it is well again."""
        return self.out_until is not None and now >= self.out_until and self._proven_at is None

    def badness(self, now: float) -> tuple[float, int]:
        """Sorts the least bad first."""
        return (1.0 - self.share(now), self.ejections)

    def limited(self, now: float) -> bool:
        """It said a short while ago that it was full."""
        return now < self._full_until

    def full(self, in_flight: int, now: float) -> bool:
        """It has as many requests as when it said that it was full."""
        return now < self._full_until and in_flight >= self._full_at

    def alive(self, since: float) -> bool:
        """The server answered something that was asked after ``since``, or so shortly before that
        three scrapes would not yet have told of its death."""
        since -= VOUCHES_FOR
        return self._answered_at > since or self._scraped_at > since

    def succeeded(self, now: float, began: float) -> None:
        """It answered a request properly, one that was picked at ``began``."""
        self._strain = 0.0
        self._answered_at = now
        if self._scrape_failures:
            # It serves although its metrics cannot be read: they say nothing about its health.
            self._metrics_distrusted = True
        if self.out_until is None:
            return
        if now < self.out_until:
            # Picked because there was nobody better, and it is not as ill as it was thought.
            if began > self._out_since:
                self.out_until = self._proven_at = now
        elif self._proven_at is None:
            self._proven_at = now
        elif now >= self._proven_at + self._policy.slow_start:
            self.out_until = self._proven_at = None
            self.ejections = 0

    def refused(self, in_flight: int, now: float) -> None:
        """It said that it is full, with so many other requests in flight."""
        self._full_at = min(self._full_at, in_flight) if now < self._full_until else in_flight
        self._full_until = now + self._policy.full_for

    def failed(self, fault: Fault, now: float, began: float = math.inf) -> bool:
        """A request failed there. Returns whether that took it out.

        ``began``: when it was picked for. That it failed may be reported much later, at the end of
        the answer that another endpoint gave; of one from before the endpoint was taken out, that
        says nothing new.
        """
        if self.standing(now) is Standing.OUT or began < self._out_since:
            return False
        self._strain += 1.0 / self._policy.limit(fault)
        if self._strain < 1.0 - 1e-9 and self.standing(now) is not Standing.RETURNING:
            return False
        self._take_out(fault, now)
        return True

    def scrape_succeeded(self, began: float, same_server: bool = True) -> None:
        """``same_server``: what serves its metrics is what serves its requests."""
        was_away = self._scrape_failures > 0
        self._scrape_failures = 0
        self._scrape_ok = True
        self._metrics_distrusted = False
        if same_server:
            self._scraped_at = began
        if not was_away or self.out_until is None or self.fault is Fault.CHECK:
            # Checks ask something else than the metrics, which another process may serve.
            return
        self.out_until = min(self.out_until, began)
        if same_server and self.fault in _UNREACHABLE and self._proven_at is None:
            self._proven_at = began

    def scrape_failed(self, now: float) -> bool:
        """Its metrics could not be fetched at all. Returns whether that took it out.

        Only counts for a server whose metrics could once be read: otherwise a blocked metrics port
        would take out a server that works.
        """
        self._scrape_failures += 1
        if self._metrics_distrusted or not self._scrape_ok:
            return False
        if self._scrape_failures < self._policy.scrape_failures:
            return False
        if self.standing(now) is Standing.OUT:
            return False
        self._take_out(Fault.SCRAPE, now)
        return True

    def check_failed(self, until: float, now: float) -> bool:
        """Active checks say that it is not well: out until then at least. Returns whether that took
        it out."""
        was_out = self.standing(now) is Standing.OUT
        if not was_out:
            self._take_out(Fault.CHECK, now)
        if self.out_until is not None and self.out_until < until:
            self.out_until = until
            self.fault = Fault.CHECK
        return not was_out

    def check_passed(self, now: float) -> None:
        """Active checks say that it is well: what they alone kept out may return."""
        if self.fault is not Fault.CHECK or self.out_until is None or self._proven_at is not None:
            return
        self.out_until = min(self.out_until, now)
        self._proven_at = now

    def _take_out(self, fault: Fault, now: float) -> None:
        if self.standing(now) is Standing.IN and self.out_until is not None:
            self.ejections = 0  # it had fully returned
        policy = self._policy
        cool_down = min(policy.cool_down * 2.0 ** min(self.ejections, 30), policy.max_cool_down)
        self.out_until = now + cool_down
        self._out_since = now
        self._proven_at = None
        self.ejections += 1
        self.fault = fault
        self._strain = 0.0


_LOCAL: Final = frozenset(
    {"UH", "NR", "NC", "UO", "RL", "UAEX", "FI", "LH", "DPE", "SI", "DI", "OM", "IH"}
)
"""Flags of answers that Envoy made itself, for reasons that are not the endpoint's."""


class Judgement:
    """What one finished request says of the endpoints of its pick."""

    __slots__ = ("faults", "odd", "well")

    def __init__(
        self, faults: Sequence[tuple[str, Fault]] = (), well: str = "", odd: str = ""
    ) -> None:
        self.faults = faults
        """Who failed, and how."""
        self.well = well
        """Who did well; empty: nobody."""
        self.odd = odd
        """Who answered with 4xx, or too late for the route: the client's doing, or the
        endpoint's, which only the comparison with its peers can tell; empty: nobody."""

    def __repr__(self) -> str:
        return f"<Judgement {self.faults} well={self.well!r} odd={self.odd!r}>"


def judge(completed: Completed, endpoints: Sequence[str]) -> Judgement:
    """Who failed and who did well in one finished request.

    ``endpoints`` is the ordered list of its pick. Envoy walks down it, so those before the one that
    it tried last have failed in a way that it retries: a connection that could not be made, or an
    answer that asks to try elsewhere.
    """
    tried = completed.served or completed.tried
    again = max(0, completed.attempts - 1)
    if tried in endpoints:
        again = min(again, endpoints.index(tried))
    faults = [(key, Fault.PASSED_OVER) for key in endpoints[:again]]
    flags = completed.flags
    code = completed.code
    if not tried:
        return Judgement(faults)
    if "UF" in flags:
        faults.append((tried, Fault.CONNECT))
    elif "UC" in flags or "UR" in flags:
        faults.append((tried, Fault.RESET))
    elif "UPE" in flags:
        faults.append((tried, Fault.ERROR))
    elif "UT" in flags:
        # Its answer was not there in the time that the route gives: too little, or too slow.
        return Judgement(faults, odd=tried)
    elif flags & _LOCAL or not completed.served:
        pass
    elif code == 503:
        faults.append((tried, Fault.UNAVAILABLE))
    elif code >= 500:
        faults.append((tried, Fault.ERROR))
    elif code == 429:
        faults.append((tried, Fault.BUSY))
    elif code >= 400:
        return Judgement(faults, odd=tried)
    elif code > 0:
        return Judgement(faults, well=tried)
    return Judgement(faults)
