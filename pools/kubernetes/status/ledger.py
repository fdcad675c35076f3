"""Which reports are still to be written. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pools.kubernetes.status.reports import PoolReport, Report, RouteReport
from pools.kubernetes.status.target import Target


@dataclass(frozen=True, slots=True)
class _Failure:
    count: int
    retry_at: float


class Ledger:
    """What is wanted, what was written, and what failed until when."""

    def __init__(self) -> None:
        self._wanted: Mapping[Target, Report] = {}
        self._written: dict[Target, Report] = {}
        self._stale: dict[Target, Report] = {}
        """Of objects that nothing is to be said of any more: these take back what was."""
        self._failures: dict[Target, _Failure] = {}

    def want(self, reports: Mapping[Target, Report]) -> None:
        """This is to be said from now on, and nothing else."""
        self._wanted = reports
        for target in self._written.keys() - reports.keys():
            self._take_back(target, self._written.pop(target).uid)
        for target in self._stale.keys() & reports.keys():
            del self._stale[target]
        for target in self._failures.keys() - reports.keys() - self._stale.keys():
            del self._failures[target]

    def start_over(self) -> None:
        """Nothing is known of what the objects say: :meth:`found` tells."""
        self._written.clear()
        self._failures.clear()

    def expected(self, target: Target, uid: str) -> Report | None:
        """What an object that is there should say; None where somebody else says it."""
        report = self._wanted.get(target)
        if report is None:
            return nothing(target, uid)
        return report if report.uid == uid else None

    def found(self, target: Target, report: Report, *, said: bool) -> None:
        """Whether an object says what is :meth:`expected` of it."""
        if self._wanted.get(target) is not report:
            if not said:
                self._stale[target] = report
        elif said:
            self._written[target] = report

    def due(self, now: float) -> Iterator[tuple[Target, Report]]:
        """What is to be written now."""
        for target, report in [*self._wanted.items(), *self._stale.items()]:
            written = self._written.get(target)
            if written is report:
                continue
            if written == report:
                self._written[target] = report  # quicker to compare the next time
                continue
            failure = self._failures.get(target)
            if failure is None or failure.retry_at <= now:
                yield target, report

    def done(self, target: Target, report: Report) -> None:
        """It was written, or cannot be and need not be tried again."""
        self._failures.pop(target, None)
        self._stale.pop(target, None)
        if target in self._wanted:
            self._written[target] = report

    def failed(self, target: Target) -> int:
        """Returns how often in a row. Say with :meth:`retry` when to try again."""
        known = self._failures.get(target)
        return known.count + 1 if known else 1

    def retry(self, target: Target, failures: int, at: float) -> None:
        self._failures[target] = _Failure(failures, at)

    def next_retry(self) -> float | None:
        return min((failure.retry_at for failure in self._failures.values()), default=None)

    def _take_back(self, target: Target, uid: str) -> None:
        report = nothing(target, uid)
        if report is not None:
            self._stale[target] = report


def nothing(target: Target, uid: str) -> Report | None:
    """What takes back all that was reported of an object; None for objects of which somebody always
    says something, and then it is somebody else."""
    if target.kind == "HTTPRoute":
        return RouteReport(uid, 0)
    if target.kind == "InferencePool" and target.parents_field:
        return PoolReport(uid, 0, target.parents_field)
    return None
