"""What cannot be read from the API server, since when, and how that is told. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

from pools.kubernetes.kinds import SOURCE
from pools.model import Problem, Severity

FORBIDDEN = 403
UNAUTHORIZED = 401
NO_STATUS = 0
"""The server could not be reached at all."""


@dataclass(frozen=True, slots=True)
class _Failure:
    status: int
    reason: str
    since: datetime.datetime


class Outages:
    """Failures by what they are of. That one goes on changes nothing: its first reason stays, so
    that retries make no noise."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}

    def failed(self, what: str, status: int, reason: str, now: datetime.datetime) -> bool:
        """Returns whether that is news."""
        before = self._failures.get(what)
        if before is not None and before.status == status:
            return False
        since = before.since if before is not None else now
        self._failures[what] = _Failure(status, reason, since)
        return True

    def ended(self, what: str) -> bool:
        """It can be read again, or is no longer wanted. Returns whether that is news."""
        return self._failures.pop(what, None) is not None

    def problems(self, url: str) -> Iterator[Problem]:
        unreachable = [f for f in self._failures.values() if f.status == NO_STATUS]
        if unreachable:
            first = min(unreachable, key=lambda failure: failure.since)
            yield _problem(
                f"the API server {url or '(not found yet)'} cannot be reached since"
                f" {_time(first.since)} ({first.reason}); what it said last stays in effect"
            )
        for what, failure in sorted(self._failures.items()):
            if failure.status != NO_STATUS:
                yield _problem(
                    f"{what} cannot be read since {_time(failure.since)} ({failure.reason});"
                    f" what was read last stays in effect{_advice(failure.status)}"
                )


def _advice(status: int) -> str:
    if status == FORBIDDEN:
        return ": allow get, list and watch on it, in all watched namespaces"
    if status == UNAUTHORIZED:
        return ": the credentials are not accepted, renew them"
    return ""


def _problem(message: str) -> Problem:
    return Problem(Severity.ERROR, message, source=SOURCE)


def _time(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
