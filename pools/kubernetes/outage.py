"""What cannot be read from the API server, since when, and how that is told. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Collection as AnyOf
from collections.abc import Iterator
from dataclasses import dataclass

from pools.kubernetes.kinds import SOURCE
from pools.kubernetes.moments import rfc3339
from pools.model import Problem, Severity

FORBIDDEN = 403
UNAUTHORIZED = 401
NO_STATUS = 0
"""The server could not be reached at all."""
_OF_THE_SERVER = {
    NO_STATUS: "cannot be reached",
    UNAUTHORIZED: "does not accept our credentials",
}


@dataclass(frozen=True, slots=True)
class _Failure:
    status: int
    reason: str
    since: datetime.datetime


class Outages:
    """Failures by what they are of.

    That one goes on changes nothing: its first reason stays, so that retries make no noise. What
    concerns the whole server is told once, from the first failure to the last.
    """

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}
        self._first: dict[int, _Failure] = {}
        """Of each status that concerns the whole server."""

    def failed(self, what: str, status: int, reason: str, now: datetime.datetime) -> bool:
        """Returns whether that is news."""
        before = self._failures.get(what)
        if before is not None and before.status == status:
            return False
        failure = _Failure(status, reason, before.since if before is not None else now)
        self._failures[what] = failure
        if status in _OF_THE_SERVER:
            self._first.setdefault(status, failure)
        self._forget()
        return True

    def ended(self, what: str) -> bool:
        """It can be read again, or is no longer wanted. Returns whether that is news."""
        ended = self._failures.pop(what, None) is not None
        self._forget()
        return ended

    def _forget(self) -> None:
        left = {failure.status for failure in self._failures.values()}
        for status in self._first.keys() - left:
            del self._first[status]

    def forbids(self, what: str) -> bool:
        """Whether the server does not let us read it."""
        failure = self._failures.get(what)
        return failure is not None and failure.status == FORBIDDEN

    def problems(self, url: str, never_read: AnyOf[str] = ()) -> Iterator[Problem]:
        """``never_read``: what Worlds go without, since it was refused from the start."""
        for status, failure in sorted(self._first.items()):
            yield _problem(
                f"the API server {url or '(not found yet)'} {_OF_THE_SERVER[status]} since"
                f" {rfc3339(failure.since)} ({failure.reason}); what it said last stays in effect"
                f"{_advice(status)}"
            )
        for what, failure in sorted(self._failures.items()):
            if failure.status in _OF_THE_SERVER:
                continue
            begin = f"{what} cannot be read since {rfc3339(failure.since)} ({failure.reason});"
            advice = _advice(failure.status)
            if what in never_read:
                message = f"{begin} none is known, as if there were none{advice}, if any is needed"
                yield Problem(Severity.WARNING, message, source=SOURCE)
            else:
                yield _problem(f"{begin} what was read last stays in effect{advice}")


def _advice(status: int) -> str:
    if status == FORBIDDEN:
        return ": allow get, list and watch on it, in all watched namespaces"
    if status == UNAUTHORIZED:
        return ": renew them"
    return ""


def _problem(message: str) -> Problem:
    return Problem(Severity.ERROR, message, source=SOURCE)
