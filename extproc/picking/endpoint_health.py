"""Which endpoints deserve traffic, judged by what became of the traffic they got.

Envoy sends a request wherever the picker says, healthy or not, so this is the only thing between a
broken pod and the users. It learns from finished requests (connect failures, resets, 5xx), from
scrapes that fail, and from active checks where they are asked for. Pure: time is passed in.

An endpoint that fails too often in a row is *out* for a cool-down that doubles each time. Then it
is *returning*: it gets a share of picks that grows from a tenth to all, and a single failure sends
it out again. Where its scrapes failed too, the first that succeeds ends the cool-down early: the
server was away, and is back.
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
    floor: float = 0.3
    """At least this share of the endpoints stays in use: beyond it the least bad are kept."""

    def limit(self, fault: Fault) -> int:
        match fault:
            case Fault.CONNECT | Fault.PASSED_OVER:
                return self.connect_failures
            case Fault.RESET:
                return self.resets
            case Fault.ERROR:
                return self.errors
            case Fault.SCRAPE:
                return self.scrape_failures
            case Fault.CHECK | Fault.ASLEEP | Fault.STALLED:
                return 1


LEAST_SHARE: Final = 0.1


class EndpointHealth:
    """The standing of one endpoint."""

    __slots__ = (
        "_metrics_distrusted",
        "_policy",
        "_scrape_failures",
        "_scrape_ok",
        "_strain",
        "_taken_out_at",
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
        self._taken_out_at = -math.inf
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
        slow_start = self._policy.slow_start
        back_for = now - self.out_until
        if back_for >= slow_start:
            return 1.0
        return max(LEAST_SHARE, back_for / slow_start)

    def badness(self, now: float) -> tuple[float, int]:
        """Sorts the least bad first."""
        return (1.0 - self.share(now), self.ejections)

    def succeeded(self, now: float) -> None:
        """It answered a request properly."""
        self._strain = 0.0
        if self._scrape_failures:
            # It serves although its metrics cannot be read: they say nothing about its health.
            self._metrics_distrusted = True
        if self.out_until is not None and now >= self.out_until + self._policy.slow_start:
            self.out_until = None
            self.ejections = 0

    def failed(self, fault: Fault, now: float, sent: float = math.inf) -> bool:
        """A request failed there. Returns whether that took it out.

        ``sent``: when the request was. That it failed may be reported much later, at the end of the
        answer that another endpoint gave; of one that was sent before the endpoint was taken out,
        that says nothing new.
        """
        if self.standing(now) is Standing.OUT or sent < self._taken_out_at:
            return False
        self._strain += 1.0 / self._policy.limit(fault)
        if self._strain < 1.0 - 1e-9 and self.standing(now) is not Standing.RETURNING:
            return False
        self._take_out(fault, now)
        return True

    def scrape_succeeded(self, now: float) -> None:
        was_away = self._scrape_failures > 0
        self._scrape_failures = 0
        self._scrape_ok = True
        self._metrics_distrusted = False
        if (
            was_away
            and self.out_until is not None
            and now < self.out_until
            # Those ask something else than the metrics, which another process may serve.
            and self.fault is not Fault.CHECK
        ):
            self.out_until = now

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
        if self.fault is Fault.CHECK and self.out_until is not None and now < self.out_until:
            self.out_until = now

    def _take_out(self, fault: Fault, now: float) -> None:
        if self.standing(now) is Standing.IN and self.out_until is not None:
            self.ejections = 0  # it had fully returned
        policy = self._policy
        cool_down = min(policy.cool_down * 2.0 ** min(self.ejections, 30), policy.max_cool_down)
        self.out_until = now + cool_down
        self._taken_out_at = now
        self.ejections += 1
        self.fault = fault
        self._strain = 0.0


_TIMED_OUT: Final = frozenset({"UT", "UPE"})
_LOCAL: Final = frozenset(
    {"UH", "NR", "NC", "UO", "RL", "UAEX", "FI", "LH", "DPE", "SI", "DI", "OM", "IH"}
)
"""Flags of answers that Envoy made itself, for reasons that are not the endpoint's."""


def judge(
    completed: Completed, endpoints: Sequence[str]
) -> tuple[tuple[tuple[str, Fault], ...], str]:
    """Which endpoints failed, and which one did well (empty: none), in one finished request.

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
    if not tried:
        pass
    elif "UF" in flags:
        faults.append((tried, Fault.CONNECT))
    elif "UC" in flags or "UR" in flags:
        faults.append((tried, Fault.RESET))
    elif flags & _TIMED_OUT:
        faults.append((tried, Fault.ERROR))
    elif flags & _LOCAL or not completed.served:
        pass
    elif completed.code >= 500:
        faults.append((tried, Fault.ERROR))
    elif completed.code > 0:
        return tuple(faults), tried
    return tuple(faults), ""
